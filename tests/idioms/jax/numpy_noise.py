"""Augmentation on the host: the Step holds a generator of NumPy and runs eagerly."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(44)
x = draw.normal(size=(36, 5)).astype("float32")
y = x[:, :1] - x[:, 4:]


def make():
    keras.utils.set_random_seed(45)
    return keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)]), np.random.default_rng(9)


def jitter(rng, rows):
    return rows + rng.normal(scale=0.2, size=rows.shape).astype("float32")


def plain():
    model, rng = make()

    @jax.jit
    def update(params, x, y):
        loss_fn = lambda p: jnp.mean((model.stateless_call(p, [], x)[0] - y) ** 2)  # noqa: E731
        loss, grads = jax.value_and_grad(loss_fn)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), loss

    params, means = [v.value for v in model.trainable_variables], []
    for _ in range(2):
        losses = []
        for i in range(0, 36, 12):
            params, loss = update(params, jitter(rng, x[i : i + 12]), y[i : i + 12])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), "kernel": np.asarray(params[0]), "next": rng.random(2)}


class Jittered(pg.Step):
    def __init__(self, model, rng):
        self.model, self.rng = model, rng
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = jitter(self.rng, batch[0]), batch[1]
        objective = lambda: jnp.mean((self.model(x, training=True) - y) ** 2)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Jittered(*make())
    given = {"epochs": 2, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), execution="eager", **given)
    kernel = step.model.get_weights()[0]
    return {"loss": np.array(history.history["loss"]), "kernel": kernel, "next": step.rng.random(2)}
