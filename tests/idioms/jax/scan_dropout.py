"""Dropout between the time steps of a `scan`; the plain loop carries the seed's state along."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

REFUSED = "PG113"

x = np.random.default_rng(10).normal(size=(40, 5, 4)).astype("float32")
y = x.sum(axis=(1, 2), keepdims=False)[:, None] * 0.2


def make():
    keras.utils.set_random_seed(11)
    cell = keras.Sequential(
        [keras.Input((10,)), keras.layers.Dense(6, activation="tanh"), keras.layers.Dropout(0.2)]
    )
    head = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    return cell, head, keras.optimizers.SGD(0.1)


def plain():
    cell, head, optimizer = make()
    variables = cell.trainable_variables + head.trainable_variables
    optimizer.build(variables)

    @jax.jit
    def grads_of(params, seeds, x, y):
        def loss_fn(params, seeds):
            def body(carry, x_t):
                h, seeds = carry
                inputs = jnp.concatenate([h, x_t], axis=-1)
                return cell.stateless_call(params[:2], seeds, inputs, training=True), None

            start = jnp.zeros((x.shape[0], 6)), seeds
            (h, seeds), _ = jax.lax.scan(body, start, jnp.swapaxes(x, 0, 1))
            return jnp.mean((head.stateless_call(params[2:], [], h)[0] - y) ** 2), seeds

        return jax.value_and_grad(loss_fn, has_aux=True)(params, seeds)

    seeds, means = [v.value for v in cell.non_trainable_variables], []
    for _ in range(2):
        losses = []
        for i in range(0, 40, 10):
            params = [v.value for v in variables]
            (loss, seeds), grads = grads_of(params, seeds, x[i : i + 10], y[i : i + 10])
            optimizer.apply(grads, variables)
            losses.append(float(loss))
        means.append(np.mean(losses))
    weights = {f"w{i}": np.asarray(v) for i, v in enumerate(variables)}
    return {"loss": np.array(means), "seed": np.asarray(seeds[0]), **weights}


class Unrolled(pg.Step):
    def __init__(self, cell, head, optimizer):
        self.cell, self.head, self.optimizer = cell, head, optimizer

    def train_step(self, batch):
        x, y = batch

        def body(h, x_t):
            return self.cell(jnp.concatenate([h, x_t], axis=-1), training=True), None

        def objective():
            h, _ = jax.lax.scan(body, jnp.zeros((x.shape[0], 6)), jnp.swapaxes(x, 0, 1))
            return jnp.mean((self.head(h, training=True) - y) ** 2)

        return {"loss": self.minimize(objective, self.optimizer, [self.cell, self.head])}


def perigee(**fit):
    step = Unrolled(*make())
    given = {"epochs": 2, "batch_size": 10, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    variables = step.cell.trainable_variables + step.head.trainable_variables
    weights = {f"w{i}": np.asarray(v) for i, v in enumerate(variables)}
    seed = np.asarray(step.cell.non_trainable_variables[0])
    return {"loss": np.array(history.history["loss"]), "seed": seed, **weights}
