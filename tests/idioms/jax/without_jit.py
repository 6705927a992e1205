"""A search for a bug under `jax.disable_jit()`: Python decides by the values of the batch."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(39)
x = draw.normal(size=(24, 3)).astype("float32") + np.repeat([1.0, -1.0, 1.0], 8)[:, None]
x = x.astype("float32")
y = x[:, :1] * 2


def make():
    keras.utils.set_random_seed(40)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def loss_of(y_pred, x, y):
    if jnp.mean(x) > 0:
        return jnp.mean((y_pred - y) ** 2)
    return jnp.mean(jnp.abs(y_pred - y))


def plain():
    model, means = make(), []
    params = [v.value for v in model.trainable_variables]
    with jax.disable_jit():
        for _ in range(2):
            losses = []
            for i in range(0, 24, 8):
                xb, yb = x[i : i + 8], y[i : i + 8]

                def loss_fn(params, xb=xb, yb=yb):
                    return loss_of(model.stateless_call(params, [], xb)[0], xb, yb)

                loss, grads = jax.value_and_grad(loss_fn)(params)
                params = [p - 0.1 * g for p, g in zip(params, grads, strict=True)]
                losses.append(float(loss))
            means.append(np.mean(losses))
    return {"loss": np.array(means), "kernel": np.asarray(params[0])}


class Branching(pg.Step):
    def __init__(self, model):
        self.model, self.optimizer = model, keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        objective = lambda: loss_of(self.model(x, training=True), x, y)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Branching(make())
    given = {"epochs": 2, "batch_size": 8, "shuffle": False, "progress": "off", **fit}
    with jax.disable_jit():
        history = pg.fit(step, (x, y), execution="eager", **given)
    return {"loss": np.array(history.history["loss"]), "kernel": step.model.get_weights()[0]}
