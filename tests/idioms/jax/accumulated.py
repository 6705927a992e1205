"""Gradients summed in a tuple of arrays; every third step applies them, inside `lax.cond`."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

REFUSED = "PG410"

draw = np.random.default_rng(43)
x = draw.normal(size=(48, 4)).astype("float32")
y = np.tanh(x[:, 2:3])


def make():
    keras.utils.set_random_seed(44)
    layers = [keras.layers.Dense(6, activation="swish"), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((4,)), *layers])


def update(model, params, waiting, x, y):
    def loss_fn(params):
        return jnp.mean((model.stateless_call(params, [], x)[0] - y) ** 2)

    def apply(params, sums):
        params = jax.tree.map(lambda p, s: p - 0.3 * s / 3, params, sums)
        return params, jax.tree.map(jnp.zeros_like, sums)

    sums, count = waiting
    loss, grads = jax.value_and_grad(loss_fn)(params)
    sums = jax.tree.map(jnp.add, sums, grads)
    is_due = (count + 1) % 3 == 0
    params, sums = jax.lax.cond(is_due, apply, lambda p, s: (p, s), params, sums)
    return params, (sums, count + 1), loss


def start(model):
    zeros = [jnp.zeros_like(v.value) for v in model.trainable_variables]
    return zeros, jnp.zeros((), jnp.int32)


def named(loss, params, waiting):
    leaves = enumerate(jax.tree.leaves((params, waiting)))
    return {"loss": np.array(loss), **{f"s{i}": np.asarray(v) for i, v in leaves}}


def plain():
    model = make()
    params, waiting, means = [v.value for v in model.trainable_variables], start(model), []
    step = jax.jit(lambda params, waiting, x, y: update(model, params, waiting, x, y))
    for _ in range(2):
        losses = []
        for i in range(0, 48, 12):
            params, waiting, loss = step(params, waiting, x[i : i + 12], y[i : i + 12])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return named(means, params, waiting)


class Accumulating(pg.Step):
    def __init__(self, model):
        self.model, self.waiting = model, start(model)

    def train_step(self, batch):
        variables = self.model.trainable_variables
        params = [v.value for v in variables]
        params, self.waiting, loss = update(self.model, params, self.waiting, *batch)
        for variable, value in zip(variables, params, strict=True):
            variable.assign(value)
        return {"loss": loss}


def perigee(**fit):
    step = Accumulating(make())
    given = {"epochs": 2, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    params = [v.value for v in step.model.trainable_variables]
    return named(history.history["loss"], params, step.waiting)
