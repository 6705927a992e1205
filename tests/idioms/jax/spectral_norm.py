"""Spectral normalization by power iteration, in a Keras layer that keeps its vector as an array."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

REFUSED = "PG410"  # its fix: a variable of the layer

draw = np.random.default_rng(32)
x = draw.normal(size=(60, 5)).astype("float32")
y = np.sign(x[:, :1] + 0.2 * x[:, 1:2]).astype("float32")
start = np.linspace(0.2, 1.0, 5).astype("float32")


def iterate(kernel, u):
    v = kernel.T @ u
    v = v / jnp.linalg.norm(v)
    u = kernel @ v
    return u / jnp.linalg.norm(u), v


class SpectralDense(keras.layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 4), name="kernel")
        self.u = jnp.asarray(start)

    def call(self, inputs, training=False):
        if training:
            self.u, _ = iterate(jax.lax.stop_gradient(self.kernel.value), self.u)
        _, v = iterate(jax.lax.stop_gradient(self.kernel.value), self.u)
        return inputs @ self.kernel / (self.u @ (self.kernel.value @ v))


def plain():
    keras.utils.set_random_seed(33)
    layer, head = SpectralDense(), keras.layers.Dense(1)
    layer.build((None, 5))
    head.build((None, 4))
    w, b = (v.value for v in head.trainable_variables)

    @jax.jit
    def update(params, u, x, y):
        u, v = iterate(params["kernel"], u)
        _, v = iterate(params["kernel"], u)

        def loss_fn(params):
            out = x @ params["kernel"] / (u @ (params["kernel"] @ v))
            out = jnp.tanh(out) @ params["w"] + params["b"]
            return jnp.mean(jnp.maximum(0.0, 1.0 - y * out))

        loss, grads = jax.value_and_grad(loss_fn)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), u, loss

    params, u, means = {"kernel": layer.kernel.value, "w": w, "b": b}, jnp.asarray(start), []
    for _ in range(2):
        losses = []
        for i in range(0, 60, 10):
            params, u, loss = update(params, u, x[i : i + 10], y[i : i + 10])
            losses.append(float(loss))
        means.append(np.mean(losses))
    params = {name: np.asarray(value) for name, value in params.items()}
    return {"loss": np.array(means), "u": np.asarray(u), **params}


class Hinge(pg.Step):
    def __init__(self):
        self.layer, self.head = SpectralDense(), keras.layers.Dense(1)
        self.layer.build((None, 5))
        self.head.build((None, 4))
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch

        def objective():
            out = self.head(jnp.tanh(self.layer(x, training=True)))
            return jnp.mean(jnp.maximum(0.0, 1.0 - y * out))

        return {"loss": self.minimize(objective, self.optimizer, [self.layer, self.head])}


def perigee(**fit):
    keras.utils.set_random_seed(33)
    step = Hinge()
    given = {"epochs": 2, "batch_size": 10, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    w, b = (np.asarray(v) for v in step.head.trainable_variables)
    u, kernel = np.asarray(step.layer.u), np.asarray(step.layer.kernel)
    return {"loss": np.array(history.history["loss"]), "u": u, "kernel": kernel, "w": w, "b": b}
