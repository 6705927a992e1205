"""Losses sent to a list on the host by `jax.debug.callback`, once for each step and in order."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

OUTSIDE = ("seen",)  # not of the Step: each process has its own

draw = np.random.default_rng(37)
x = draw.normal(size=(48, 3)).astype("float32")
y = np.cos(x[:, :1])


def make():
    keras.utils.set_random_seed(38)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def plain():
    model, seen = make(), []

    @jax.jit
    def update(params, x, y):
        loss_fn = lambda p: jnp.mean((model.stateless_call(p, [], x)[0] - y) ** 2)  # noqa: E731
        loss, grads = jax.value_and_grad(loss_fn)(params)
        jax.debug.callback(lambda value: seen.append(float(value)), loss, ordered=True)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), loss

    params, means = [v.value for v in model.trainable_variables], []
    for _ in range(2):
        losses = []
        for i in range(0, 48, 12):
            params, loss = update(params, x[i : i + 12], y[i : i + 12])
            losses.append(float(loss))
        means.append(np.mean(losses))
    jax.effects_barrier()
    return {"loss": np.array(means), "seen": np.array(seen), "kernel": np.asarray(params[0])}


class Watched(pg.Step):
    def __init__(self, model, show):
        self.model, self.show = model, show
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        objective = lambda: jnp.mean((self.model(x, training=True) - y) ** 2)  # noqa: E731
        loss = self.minimize(objective, self.optimizer, self.model)
        jax.debug.callback(self.show, loss, ordered=True)
        return {"loss": loss}


def perigee(**fit):
    seen = []
    step = Watched(make(), lambda value: seen.append(float(value)))
    given = {"epochs": 2, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    jax.effects_barrier()
    kernel = step.model.get_weights()[0]
    return {"loss": np.array(history.history["loss"]), "seen": np.array(seen), "kernel": kernel}
