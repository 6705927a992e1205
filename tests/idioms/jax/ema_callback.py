"""Averaged weights kept by a Keras callback as a pytree; a second one lowers the rate."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(45)
x = draw.normal(size=(60, 3)).astype("float32")
y = (x @ np.array([[1.0], [2.0], [-1.0]])).astype("float32")


def make():
    keras.utils.set_random_seed(46)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def average(ema, params):
    return jax.tree.map(lambda e, p: 0.8 * e + 0.2 * p, ema, params)


def plain():
    model = make()

    @jax.jit
    def update(params, rate, x, y):
        loss_fn = lambda p: jnp.mean((model.stateless_call(p, [], x)[0] - y) ** 2)  # noqa: E731
        loss, grads = jax.value_and_grad(loss_fn)(params)
        return jax.tree.map(lambda p, g: p - rate * g, params, grads), loss

    params = [v.value for v in model.trainable_variables]
    ema, means = params, []
    for epoch in range(3):
        losses = []
        for i in range(0, 60, 12):
            params, loss = update(params, 0.1 * 0.5**epoch, x[i : i + 12], y[i : i + 12])
            ema = average(ema, params)
            losses.append(float(loss))
        means.append(np.mean(losses))
    averaged = {f"ema{i}": np.asarray(e) for i, e in enumerate(ema)}
    return {"loss": np.array(means), "kernel": np.asarray(params[0]), **averaged}


class Averaging(keras.callbacks.Callback):
    def __init__(self, variables):
        super().__init__()
        self.variables = variables
        self.ema = [v.value for v in variables]

    def on_train_batch_end(self, batch, logs=None):
        self.ema = average(self.ema, [v.value for v in self.variables])


class Regression(pg.Step):
    def __init__(self, model):
        self.model, self.optimizer = model, keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        objective = lambda: jnp.mean((self.model(x, training=True) - y) ** 2)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Regression(make())
    averaging = Averaging(step.model.trainable_variables)
    lower = keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 * 0.5**epoch)
    given = {"epochs": 3, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    callbacks = [averaging, lower, *given.pop("callbacks", ())]
    history = pg.fit(step, (x, y), callbacks=callbacks, **given)
    averaged = {f"ema{i}": np.asarray(e) for i, e in enumerate(averaging.ema)}
    kernel = step.model.get_weights()[0]
    return {"loss": np.array(history.history["loss"]), "kernel": kernel, **averaged}
