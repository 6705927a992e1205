"""A training under `jax_debug_nans`: nothing in it is NaN, so nothing may stop it."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(38)
x = draw.uniform(0.5, 2.0, size=(48, 4)).astype("float32")
y = np.log(x).sum(axis=1, keepdims=True)
mask = (draw.random(size=(48, 4)) < 0.8).astype("float32")


def make():
    keras.utils.set_random_seed(39)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.05, momentum=0.3)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def loss_of(call, x, mask, y):
    logs = jnp.log(x) * mask
    return jnp.mean(jnp.sqrt(1.0 + (call(logs) - y) ** 2) - 1.0)


def plain():
    model, optimizer = make()

    @jax.jit
    def update(params, slots, *batch):
        loss_fn = lambda p: loss_of(lambda z: model.stateless_call(p, [], z)[0], *batch)  # noqa: E731
        loss, grads = jax.value_and_grad(loss_fn)(params)
        return *optimizer.stateless_apply(slots, grads, params), loss

    params = [v.value for v in model.trainable_variables]
    slots, means = [v.value for v in optimizer.variables], []
    with jax.debug_nans(True):
        for _ in range(2):
            losses = []
            for i in range(0, 48, 12):
                part = slice(i, i + 12)
                params, slots, loss = update(params, slots, x[part], mask[part], y[part])
                losses.append(float(loss))
            means.append(np.mean(losses))
    return {"loss": np.array(means), **{f"w{i}": np.asarray(p) for i, p in enumerate(params)}}


class Logs(pg.Step):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def train_step(self, batch):
        objective = lambda: loss_of(self.model, *batch)  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}

    def test_step(self, batch):
        return {"loss": loss_of(self.model, *batch)}


def perigee(**fit):
    step = Logs(*make())
    given = {"epochs": 2, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    with jax.debug_nans(True):
        history = pg.fit(step, (x, mask, y), validation=(x, mask, y), **given)
    weights = {f"w{i}": w for i, w in enumerate(step.model.get_weights())}
    return {"loss": np.array(history.history["loss"]), **weights}
