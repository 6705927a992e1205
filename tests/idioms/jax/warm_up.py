"""A warm-up by a Python counter in a compiled step, as in loops that are not jitted."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

REFUSED = "PG417"

draw = np.random.default_rng(27)
x = draw.normal(size=(64, 4)).astype("float32")
y = x.max(axis=1, keepdims=True)


def make():
    keras.utils.set_random_seed(28)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])


def plain():
    model = make()
    params = [v.value for v in model.trainable_variables]

    @jax.jit
    def update(params, rate, x, y):
        loss_fn = lambda p: jnp.mean((model.stateless_call(p, [], x)[0] - y) ** 2)  # noqa: E731
        loss, grads = jax.value_and_grad(loss_fn)(params)
        return [p - rate * g for p, g in zip(params, grads, strict=True)], loss

    count, means = 0, []
    for _ in range(2):
        losses = []
        for i in range(0, 64, 16):
            count += 1
            params, loss = update(params, 0.2 * min(1.0, count / 6), x[i : i + 16], y[i : i + 16])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), "kernel": np.asarray(params[0]), "count": np.array(count)}


class WarmUp(pg.Step):
    def __init__(self, model):
        self.model, self.count = model, 0

    def train_step(self, batch):
        x, y = batch
        self.count += 1
        rate = 0.2 * min(1.0, self.count / 6)
        variables = self.model.trainable_variables

        def loss_fn(params):
            return jnp.mean((self.model.stateless_call(params, [], x)[0] - y) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)([v.value for v in variables])
        for variable, grad in zip(variables, grads, strict=True):
            variable.assign(variable.value - rate * grad)
        return {"loss": loss}


def perigee(**fit):
    step = WarmUp(make())
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    kernel = step.model.get_weights()[0]
    loss = np.array(history.history["loss"])
    return {"loss": loss, "kernel": kernel, "count": np.array(step.count)}
