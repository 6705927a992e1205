"""Gradients of `self.gradients`, clipped by their global norm with `jax.tree`, then applied."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(35)
x = draw.normal(size=(60, 4)).astype("float32")
y = (10 * x[:, :1] * x[:, 1:2]).astype("float32")


def make():
    keras.utils.set_random_seed(36)
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((4,)), *layers])
    optimizer = keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def clip(grads, limit=1.0):
    norm = jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads)))
    factor = jnp.minimum(1.0, limit / norm)
    return jax.tree.map(lambda g: g * factor, grads), norm


def plain():
    model, optimizer = make()

    @jax.jit
    def update(params, slots, x, y):
        loss_fn = lambda p: jnp.mean((model.stateless_call(p, [], x)[0] - y) ** 2)  # noqa: E731
        loss, grads = jax.value_and_grad(loss_fn)(params)
        grads, norm = clip(grads)
        return *optimizer.stateless_apply(slots, grads, params), loss, norm

    params = [v.value for v in model.trainable_variables]
    slots, means = [v.value for v in optimizer.variables], []
    for _ in range(2):
        seen = []
        for i in range(0, 60, 12):
            params, slots, *shown = update(params, slots, x[i : i + 12], y[i : i + 12])
            seen.append([float(value) for value in shown])
        means.append(np.mean(seen, axis=0))
    means = np.array(means)
    weights = {f"w{i}": np.asarray(p) for i, p in enumerate(params)}
    return {"loss": means[:, 0], "norm": means[:, 1], **weights}


class Clipped(pg.Step):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def train_step(self, batch):
        x, y = batch
        objective = lambda: jnp.mean((self.model(x, training=True) - y) ** 2)  # noqa: E731
        grads = self.gradients(objective, self.model)
        clipped, norm = clip(list(grads))
        self.apply(self.optimizer, list(zip(clipped, grads.variables, strict=True)))
        return {"loss": grads.returned, "norm": norm}


def perigee(**fit):
    step = Clipped(*make())
    given = {"epochs": 2, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given).history
    weights = {f"w{i}": w for i, w in enumerate(step.model.get_weights())}
    return {"loss": np.array(history["loss"]), "norm": np.array(history["norm"]), **weights}
