"""A trunk that is frozen by `stop_gradient` alone; only the head has an optimizer."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(42)
x = draw.normal(size=(60, 5)).astype("float32")
y = draw.integers(3, size=60).astype("int32")

FINDS = ("PG110",)  # the trunk is trainable, and no optimizer has it


def make():
    keras.utils.set_random_seed(43)
    trunk = keras.Sequential([keras.Input((5,)), keras.layers.Dense(16, activation="relu")])
    head = keras.Sequential([keras.Input((16,)), keras.layers.Dense(3)])
    optimizer = keras.optimizers.Adagrad(0.1)
    optimizer.build(head.trainable_variables)
    return trunk, head, optimizer


def loss_of(features, head, y):
    log_p = jax.nn.log_softmax(head(jax.lax.stop_gradient(features)))
    return -jnp.mean(log_p[jnp.arange(len(y)), y])


def plain():
    trunk, head, optimizer = make()
    frozen = [v.value for v in trunk.trainable_variables]

    @jax.jit
    def update(params, slots, x, y):
        def loss_fn(params):
            features = trunk.stateless_call(frozen, [], x)[0]
            return loss_of(features, lambda z: head.stateless_call(params, [], z)[0], y)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        return *optimizer.stateless_apply(slots, grads, params), loss

    params = [v.value for v in head.trainable_variables]
    slots, means = [v.value for v in optimizer.variables], []
    for _ in range(2):
        losses = []
        for i in range(0, 60, 12):
            params, slots, loss = update(params, slots, x[i : i + 12], y[i : i + 12])
            losses.append(float(loss))
        means.append(np.mean(losses))
    weights = {f"w{i}": np.asarray(p) for i, p in enumerate([*frozen, *params])}
    return {"loss": np.array(means), **weights}


class HeadOnly(pg.Step):
    def __init__(self, trunk, head, optimizer):
        self.trunk, self.head, self.optimizer = trunk, head, optimizer

    def train_step(self, batch):
        x, y = batch

        def objective():
            return loss_of(self.trunk(x), self.head, y)

        return {"loss": self.minimize(objective, self.optimizer, self.head)}


def perigee(**fit):
    step = HeadOnly(*make())
    given = {"epochs": 2, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    weights = step.trunk.get_weights() + step.head.get_weights()
    return {
        "loss": np.array(history.history["loss"]),
        **{f"w{i}": w for i, w in enumerate(weights)},
    }
