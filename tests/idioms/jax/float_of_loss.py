"""Plain Python over values: `float(loss)`, an `if`, a list of losses, a rate that is halved."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(26)
x = draw.normal(size=(64, 3)).astype("float32")
y = (3 * x[:, :1] - x[:, 1:2]).astype("float32")


def make():
    keras.utils.set_random_seed(27)
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])


def value_and_grads(model, params, x, y):
    def loss_fn(params):
        return jnp.mean((model.stateless_call(params, [], x)[0] - y) ** 2)

    return jax.value_and_grad(loss_fn)(params)


def plain():
    model, rate, seen, means = make(), 0.2, [], []
    params = [v.value for v in model.trainable_variables]
    for _ in range(2):
        for i in range(0, 64, 16):
            loss, grads = value_and_grads(model, params, x[i : i + 16], y[i : i + 16])
            seen.append(float(loss))
            if len(seen) > 1 and seen[-1] > 0.5 * seen[-2]:
                rate /= 2
            params = jax.tree.map(lambda p, g, rate=rate: p - rate * g, params, grads)
        means.append(np.mean(seen[-4:]))
    return {
        "loss": np.array(means),
        "seen": np.array(seen),
        "rate": np.array(rate),
        "kernel": np.asarray(params[0]),
    }


class Halving(pg.Step):
    def __init__(self, model):
        self.model = model
        self.rate, self.seen = 0.2, []

    def train_step(self, batch):
        variables = self.model.trainable_variables
        loss, grads = value_and_grads(self.model, [v.value for v in variables], *batch)
        self.seen.append(float(loss))
        if len(self.seen) > 1 and self.seen[-1] > 0.5 * self.seen[-2]:
            self.rate /= 2
        for variable, grad in zip(variables, grads, strict=True):
            variable.assign_sub(self.rate * grad)
        return {"loss": loss}


def perigee(**fit):
    step = Halving(make())
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), execution="eager", **given)
    return {
        "loss": np.array(history.history["loss"]),
        "seen": np.array(step.seen),
        "rate": np.array(step.rate),
        "kernel": step.model.get_weights()[0],
    }
