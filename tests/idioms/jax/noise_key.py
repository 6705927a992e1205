"""Noise on the inputs: a key that is held, and split by each step."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

REFUSED = "PG410"

x = np.random.default_rng(4).normal(size=(64, 6)).astype("float32")


def make():
    keras.utils.set_random_seed(5)
    layers = [keras.layers.Dense(3, activation="relu"), keras.layers.Dense(6)]
    return keras.Sequential([keras.Input((6,)), *layers]), keras.optimizers.SGD(0.1)


def plain():
    model, optimizer = make()
    optimizer.build(model.trainable_variables)
    key, means = jax.random.PRNGKey(7), []
    for _ in range(2):
        losses = []
        for i in range(0, 64, 16):
            clean = x[i : i + 16]
            key, use = jax.random.split(key)
            noisy = clean + 0.3 * jax.random.normal(use, clean.shape)

            def loss_fn(params, noisy=noisy, clean=clean):
                return jnp.mean((model.stateless_call(params, [], noisy)[0] - clean) ** 2)

            params = [v.value for v in model.trainable_variables]
            loss, grads = jax.value_and_grad(loss_fn)(params)
            optimizer.apply(grads, model.trainable_variables)
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), "key": np.asarray(key), "out": np.asarray(model(x))}


class Denoise(pg.Step):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.key = jax.random.PRNGKey(7)

    def train_step(self, clean):
        self.key, use = jax.random.split(self.key)
        noisy = clean + 0.3 * jax.random.normal(use, clean.shape)

        def objective():
            return jnp.mean((self.model(noisy, training=True) - clean) ** 2)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Denoise(*make())
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, x, **given)
    out = np.asarray(step.model(x))
    return {"loss": np.array(history.history["loss"]), "key": np.asarray(step.key), "out": out}
