"""Inputs standardized by running moments, kept in an object of one's own inside the Step."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

REFUSED = "PG410"

draw = np.random.default_rng(24)
x = (5 + 4 * draw.normal(size=(72, 3))).astype("float32")
y = ((x - 5) / 4).sum(axis=1, keepdims=True)


class Moments:
    def __init__(self, size):
        self.count, self.mean, self.var = jnp.zeros(()), jnp.zeros(size), jnp.ones(size)

    def update(self, rows):
        total = self.count + len(rows)
        delta = rows.mean(axis=0) - self.mean
        spread = self.var * self.count + rows.var(axis=0) * len(rows)
        self.var = (spread + delta**2 * self.count * len(rows) / total) / total
        self.mean = self.mean + delta * len(rows) / total
        self.count = total

    def __call__(self, rows):
        return (rows - self.mean) / jnp.sqrt(self.var + 1e-6)


def make():
    keras.utils.set_random_seed(25)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    return model, Moments(3)


def named(loss, weights, moments):
    moments = {k: np.asarray(getattr(moments, k)) for k in ("count", "mean", "var")}
    return {"loss": np.array(loss), "kernel": np.asarray(weights[0]), **moments}


def plain():
    model, moments = make()
    params, means = [v.value for v in model.trainable_variables], []

    @jax.jit
    def update(params, x, y):
        loss_fn = lambda p: jnp.mean((model.stateless_call(p, [], x)[0] - y) ** 2)  # noqa: E731
        loss, grads = jax.value_and_grad(loss_fn)(params)
        return [p - 0.1 * g for p, g in zip(params, grads, strict=True)], loss

    for _ in range(2):
        losses = []
        for i in range(0, 72, 12):
            moments.update(jnp.asarray(x[i : i + 12]))
            params, loss = update(params, moments(x[i : i + 12]), y[i : i + 12])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return named(means, params, moments)


class Standardized(pg.Step):
    def __init__(self, model, moments):
        self.model, self.moments = model, moments
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        self.moments.update(x)
        x = self.moments(x)
        objective = lambda: jnp.mean((self.model(x, training=True) - y) ** 2)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Standardized(*make())
    given = {"epochs": 2, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    return named(history.history["loss"], step.model.get_weights(), step.moments)
