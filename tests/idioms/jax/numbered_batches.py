"""Named tuples that hold, beside the arrays, plain Python numbers: a weight and an index."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(30)
x = draw.normal(size=(50, 4)).astype("float32")
y = draw.normal(size=(50, 1)).astype("float32")


class Batch(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    weight: float
    index: int


def batches():
    for index, i in enumerate(range(0, 50, 12)):  # the last one has two rows
        yield Batch(x[i : i + 12], y[i : i + 12], 1.0 / (1 + index), index)


def make():
    keras.utils.set_random_seed(31)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, kernel_initializer="zeros")])


def loss_of(y_pred, batch):
    return batch.weight * jnp.mean((y_pred - batch.y) ** 2 + 0.1 * batch.index * y_pred**2)


def plain():
    model = make()

    @jax.jit
    def update(params, batch):
        loss_fn = lambda p: loss_of(model.stateless_call(p, [], batch.x)[0], batch)  # noqa: E731
        loss, grads = jax.value_and_grad(loss_fn)(params)
        return jax.tree.map(lambda p, g: p - 0.2 * g, params, grads), loss

    params, means = [v.value for v in model.trainable_variables], []
    for _ in range(2):
        losses, rows = [], []
        for batch in batches():
            params, loss = update(params, batch)
            losses.append(float(loss))
            rows.append(len(batch.x))
        means.append(np.average(losses, weights=rows))
    return {"loss": np.array(means), "w": np.asarray(params[0]), "b": np.asarray(params[1])}


class Weighted(pg.Step):
    def __init__(self, model):
        self.model, self.optimizer = model, keras.optimizers.SGD(0.2)

    def train_step(self, batch):
        objective = lambda: loss_of(self.model(batch.x, training=True), batch)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def perigee(**fit):
    step = Weighted(make())
    history = pg.fit(step, batches, **{"epochs": 2, "progress": "off", **fit})
    w, b = step.model.get_weights()
    return {"loss": np.array(history.history["loss"]), "w": w, "b": b}
