"""`value_and_grad` over `stateless_call`; the weights descend by hand and are assigned."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(0)
x = draw.normal(size=(96, 5)).astype("float32")
y = (x @ draw.normal(size=(5, 1)) + 0.1).astype("float32")


def make():
    keras.utils.set_random_seed(1)
    layers = [keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((5,)), *layers])


def plain():
    model = make()

    @jax.jit
    def update(params, x, y):
        def loss_fn(params):
            y_pred, _ = model.stateless_call(params, [], x, training=True)
            return jnp.mean((y_pred - y) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        return loss, jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)

    params, means = [v.value for v in model.trainable_variables], []
    for _ in range(2):
        losses = []
        for i in range(0, 96, 16):
            loss, params = update(params, x[i : i + 16], y[i : i + 16])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), **{f"w{i}": np.asarray(p) for i, p in enumerate(params)}}


class Descent(pg.Step):
    def __init__(self, model):
        self.model = model

    def train_step(self, batch):
        x, y = batch
        params = [v.value for v in self.model.trainable_variables]

        def loss_fn(params):
            y_pred, _ = self.model.stateless_call(params, [], x, training=True)
            return jnp.mean((y_pred - y) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
        for variable, value in zip(self.model.trainable_variables, params, strict=True):
            variable.assign(value)
        return {"loss": loss}


def perigee(**fit):
    step = Descent(make())
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    weights = {f"w{i}": w for i, w in enumerate(step.model.get_weights())}
    return {"loss": np.array(history.history["loss"]), **weights}
