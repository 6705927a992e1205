"""A jitted helper made once, in `__init__`, that closes over the model."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(16)
x = draw.normal(size=(64, 4)).astype("float32")
y = (x**2).sum(axis=1, keepdims=True)


def make():
    keras.utils.set_random_seed(17)
    layers = [keras.layers.Dense(10, activation="softplus"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def plain():
    model, optimizer = make()

    @jax.jit
    def forward(params, x):
        return model.stateless_call(params, [], x, training=True)[0]

    @jax.jit
    def update(params, slots, x, y):
        loss_fn = lambda params: jnp.mean(jnp.abs(forward(params, x) - y))  # noqa: E731
        loss, grads = jax.value_and_grad(loss_fn)(params)
        return *optimizer.stateless_apply(slots, grads, params), loss

    params = [v.value for v in model.trainable_variables]
    slots, means = [v.value for v in optimizer.variables], []
    for _ in range(2):
        losses = []
        for i in range(0, 64, 16):
            params, slots, loss = update(params, slots, x[i : i + 16], y[i : i + 16])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), **{f"w{i}": np.asarray(p) for i, p in enumerate(params)}}


class Jitted(pg.Step):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.forward = jax.jit(lambda x: model(x, training=True))

    def train_step(self, batch):
        x, y = batch

        def objective():
            return jnp.mean(jnp.abs(self.forward(x) - y))

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Jitted(*make())
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    weights = {f"w{i}": w for i, w in enumerate(step.model.get_weights())}
    return {"loss": np.array(history.history["loss"]), **weights}
