"""Binary codes with a `custom_vjp` that passes gradients straight through the sign."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

x = np.random.default_rng(21).normal(size=(60, 8)).astype("float32")


@jax.custom_vjp
def binarize(z):
    return jnp.where(z > 0, 1.0, -1.0)


binarize.defvjp(lambda z: (binarize(z), z), lambda z, g: (jnp.where(jnp.abs(z) < 1, g, 0.0),))


class Codes(keras.layers.Layer):
    def call(self, inputs):
        return binarize(inputs)


def make():
    keras.utils.set_random_seed(22)
    return keras.Sequential(
        [keras.Input((8,)), keras.layers.Dense(6), Codes(), keras.layers.Dense(8)]
    )


def plain():
    model = make()
    rate = 0.2

    @jax.jit
    def update(params, x):
        def loss_fn(params):
            return jnp.mean((model.stateless_call(params, [], x)[0] - x) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        return [p - rate * g for p, g in zip(params, grads, strict=True)], loss

    params, means = [v.value for v in model.trainable_variables], []
    for _ in range(2):
        losses = []
        for i in range(0, 60, 12):
            params, loss = update(params, x[i : i + 12])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), **{f"w{i}": np.asarray(p) for i, p in enumerate(params)}}


class Binary(pg.Step):
    def __init__(self, model):
        self.model = model
        self.optimizer = keras.optimizers.SGD(0.2)

    def train_step(self, x):
        def objective():
            return jnp.mean((self.model(x, training=True) - x) ** 2, axis=-1)

        return {"loss": self.minimize(objective, self.optimizer)}


def perigee(**fit):
    step = Binary(make())
    given = {"epochs": 2, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, x, **given)
    weights = {f"w{i}": w for i, w in enumerate(step.model.get_weights())}
    return {"loss": np.array(history.history["loss"]), **weights}
