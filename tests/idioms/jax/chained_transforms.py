"""A gradient transformation in Optax's manner: pure functions, and a state of named tuples."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

REFUSED = "PG410"

WITHIN = 2e-5  # Adam divides small gradients by their own size

draw = np.random.default_rng(3)
x = draw.uniform(-1, 1, size=(96, 2)).astype("float32")
y = np.sin(3 * x[:, :1]) * x[:, 1:]


class Transformation(NamedTuple):
    init: object
    update: object


class AdamState(NamedTuple):
    count: jax.Array
    mu: list
    nu: list


def scale_by_adam(b1=0.9, b2=0.99, eps=1e-5):
    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return AdamState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(grads, state):
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda n, g: b2 * n + (1 - b2) * g * g, state.nu, grads)
        first, second = 1 - b1**count, 1 - b2**count
        updates = jax.tree.map(lambda m, n: (m / first) / (jnp.sqrt(n / second) + eps), mu, nu)
        return updates, AdamState(count, mu, nu)

    return Transformation(init, update)


def scale(factor):
    return Transformation(lambda _: (), lambda g, s: (jax.tree.map(lambda v: factor * v, g), s))


def chain(*parts):
    def update(grads, states):
        new = []
        for part, state in zip(parts, states, strict=True):
            grads, state = part.update(grads, state)
            new.append(state)
        return grads, tuple(new)

    return Transformation(lambda params: tuple(part.init(params) for part in parts), update)


def make():
    keras.utils.set_random_seed(4)
    layers = [keras.layers.Dense(12, activation="tanh"), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((2,)), *layers]), chain(scale_by_adam(), scale(-0.01))


def named(loss, *trees):
    return {"loss": np.array(loss)} | {
        f"s{i}": np.asarray(v) for i, v in enumerate(jax.tree.leaves(trees))
    }


def plain():
    model, tx = make()

    @jax.jit
    def update(params, state, x, y):
        def loss_fn(params):
            return jnp.mean((model.stateless_call(params, [], x)[0] - y) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state)
        return jax.tree.map(jnp.add, params, updates), state, loss

    params = [v.value for v in model.trainable_variables]
    state, means = tx.init(params), []
    for _ in range(2):
        losses = []
        for i in range(0, 96, 24):
            params, state, loss = update(params, state, x[i : i + 24], y[i : i + 24])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return named(means, params, state)


class Transformed(pg.Step):
    def __init__(self, model, tx):
        self.model, self.tx = model, tx
        self.opt_state = tx.init([v.value for v in model.trainable_variables])

    def train_step(self, batch):
        x, y = batch
        variables = self.model.trainable_variables
        params = [v.value for v in variables]

        def loss_fn(params):
            return jnp.mean((self.model.stateless_call(params, [], x)[0] - y) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, self.opt_state = self.tx.update(grads, self.opt_state)
        for variable, change in zip(variables, updates, strict=True):
            variable.assign_add(change)
        return {"loss": loss}


def perigee(**fit):
    step = Transformed(*make())
    given = {"epochs": 2, "batch_size": 24, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    params = [v.value for v in step.model.trainable_variables]
    return named(history.history["loss"], params, step.opt_state)
