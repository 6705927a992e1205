"""A dict of typed keys, `rngs`, each split where it is used."""

import jax
import jax.numpy as jnp
import numpy as np

import perigee as pg

REFUSED = "PG410"

x = np.random.default_rng(7).normal(size=(60, 3)).astype("float32")


def start():
    params = {"w": jnp.full((3, 3), 0.2), "b": jnp.zeros(3)}
    return params, {"noise": jax.random.key(1), "mask": jax.random.key(2)}


def forward(params, rngs, x):
    rngs = dict(rngs)
    rngs["noise"], use = jax.random.split(rngs["noise"])
    noisy = x + 0.1 * jax.random.normal(use, x.shape)
    rngs["mask"], use = jax.random.split(rngs["mask"])
    keep = jax.random.bernoulli(use, 0.5, x.shape)
    drawn = jnp.tanh(jnp.where(keep, noisy, 0.0) @ params["w"] + params["b"])
    return jnp.mean((drawn - x) ** 2), rngs


def update(params, rngs, x):
    (loss, rngs), grads = jax.value_and_grad(forward, has_aux=True)(params, rngs, x)
    return jax.tree.map(lambda p, g: p - 0.3 * g, params, grads), rngs, loss


def named(loss, params, rngs):
    keys = {name: np.asarray(jax.random.key_data(key)) for name, key in rngs.items()}
    return {"loss": np.array(loss), **{k: np.asarray(v) for k, v in params.items()}, **keys}


def plain():
    params, rngs = start()
    step, means = jax.jit(update), []
    for _ in range(2):
        losses = []
        for i in range(0, 60, 12):
            params, rngs, loss = step(params, rngs, x[i : i + 12])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return named(means, params, rngs)


class Autoencoder(pg.Step):
    def __init__(self):
        self.params, self.rngs = start()

    def train_step(self, x):
        self.params, self.rngs, loss = update(self.params, self.rngs, x)
        return {"loss": loss}


def perigee(**fit):
    step = Autoencoder()
    given = {"epochs": 2, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, x, **given)
    return named(history.history["loss"], step.params, step.rngs)
