"""A VAE whose key is a `keras.Variable`, split and assigned by hand."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

x = np.random.default_rng(33).normal(size=(64, 6)).astype("float32")


def make():
    keras.utils.set_random_seed(34)
    encoder = keras.Sequential([keras.Input((6,)), keras.layers.Dense(4)])
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(6)])
    return encoder, decoder


def elbo(encode, decode, key, x):
    mean, log_var = jnp.split(encode(x), 2, axis=-1)
    z = mean + jnp.exp(0.5 * log_var) * jax.random.normal(key, mean.shape)
    error = jnp.sum((decode(z) - x) ** 2, axis=-1)
    kl = 0.5 * jnp.sum(jnp.exp(log_var) + mean**2 - 1.0 - log_var, axis=-1)
    return error + kl, kl


def plain():
    encoder, decoder = make()

    @jax.jit
    def update(params, key, x):
        key, use = jax.random.split(key)

        def loss_fn(params):
            encode = lambda x: encoder.stateless_call(params[0], [], x)[0]  # noqa: E731
            decode = lambda z: decoder.stateless_call(params[1], [], z)[0]  # noqa: E731
            losses, kl = elbo(encode, decode, use, x)
            return jnp.mean(losses), jnp.mean(kl)

        (loss, kl), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return jax.tree.map(lambda p, g: p - 0.02 * g, params, grads), key, loss, kl

    params = [[v.value for v in m.trainable_variables] for m in (encoder, decoder)]
    key, means = jax.random.PRNGKey(4), []
    for _ in range(2):
        seen = []
        for i in range(0, 64, 16):
            params, key, loss, kl = update(params, key, x[i : i + 16])
            seen.append((float(loss), float(kl)))
        means.append(np.mean(seen, axis=0))
    flat = {f"w{i}": np.asarray(p) for i, p in enumerate(jax.tree.leaves(params))}
    means = np.array(means)
    return {"loss": means[:, 0], "kl": means[:, 1], "key": np.asarray(key), **flat}


class Vae(pg.Step):
    def __init__(self, encoder, decoder):
        self.encoder, self.decoder = encoder, decoder
        self.optimizer = keras.optimizers.SGD(0.02)
        key = np.asarray(jax.random.PRNGKey(4))
        self.key = keras.Variable(key, dtype="uint32", trainable=False, name="key")

    def train_step(self, x):
        key, use = jax.random.split(self.key.value)
        self.key.assign(key)
        objective = lambda: elbo(self.encoder, self.decoder, use, x)  # noqa: E731
        loss, kl = self.minimize(objective, self.optimizer, [self.encoder, self.decoder])
        return {"loss": loss, "kl": kl}


def perigee(**fit):
    step = Vae(*make())
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, x, **given).history
    variables = step.encoder.trainable_variables + step.decoder.trainable_variables
    weights = {f"w{i}": np.asarray(v) for i, v in enumerate(variables)}
    key = np.asarray(step.key)
    return {"loss": np.array(history["loss"]), "kl": np.array(history["kl"]), "key": key, **weights}
