"""Stages of a loss, chosen by `jax.lax.switch` over the optimizer's count of updates."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(36)
x = draw.normal(size=(64, 4)).astype("float32")
y = np.abs(x).sum(axis=1, keepdims=True) * 0.3


def make():
    keras.utils.set_random_seed(37)
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def staged(count, error):
    branches = [
        lambda e: 0.1 * jnp.mean(e**2),
        lambda e: jnp.mean(jnp.abs(e)),
        lambda e: jnp.mean(e**2) + 0.01 * jnp.max(jnp.abs(e)),
    ]
    return jax.lax.switch(jnp.minimum(count // 3, 2), branches, error)


def plain():
    model, optimizer = make()

    @jax.jit
    def update(params, slots, count, x, y):
        loss_fn = lambda p: staged(count, model.stateless_call(p, [], x)[0] - y)  # noqa: E731
        loss, grads = jax.value_and_grad(loss_fn)(params)
        return *optimizer.stateless_apply(slots, grads, params), loss

    params = [v.value for v in model.trainable_variables]
    slots, means, count = [v.value for v in optimizer.variables], [], 0
    for _ in range(2):
        losses = []
        for i in range(0, 64, 16):
            params, slots, loss = update(params, slots, count, x[i : i + 16], y[i : i + 16])
            count += 1
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), **{f"w{i}": np.asarray(p) for i, p in enumerate(params)}}


class Staged(pg.Step):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def train_step(self, batch):
        x, y = batch
        count = self.optimizer.iterations.value

        def objective():
            return staged(count, self.model(x, training=True) - y)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Staged(*make())
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    weights = {f"w{i}": w for i, w in enumerate(step.model.get_weights())}
    return {"loss": np.array(history.history["loss"]), **weights}
