"""`jax.lax.cond` chooses one of two layers by what is in the batch."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(17)
signs = np.repeat([1.0, -1.0, -1.0, 1.0], 12)[:, None]
x = (signs + 0.3 * draw.normal(size=(48, 3))).astype("float32")
y = np.where(signs > 0, x[:, :1], x[:, 1:2] ** 2).astype("float32")


def make():
    keras.utils.set_random_seed(18)
    experts = {"above": keras.layers.Dense(1), "below": keras.layers.Dense(1, activation="relu")}
    for expert in experts.values():
        expert.build((None, 3))
    return experts


def plain():
    experts = make()
    above, below = experts["above"], experts["below"]

    @jax.jit
    def update(params, x, y):
        def loss_fn(params):
            y_pred = jax.lax.cond(
                jnp.mean(x) > 0,
                lambda: above.stateless_call(params[0], [], x)[0],
                lambda: below.stateless_call(params[1], [], x)[0],
            )
            return jnp.mean((y_pred - y) ** 2)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        return jax.tree.map(lambda p, g: p - 0.1 * g, params, grads), loss

    params = [[v.value for v in e.trainable_variables] for e in (above, below)]
    means = []
    for _ in range(3):
        losses = []
        for i in range(0, 48, 12):
            params, loss = update(params, x[i : i + 12], y[i : i + 12])
            losses.append(float(loss))
        means.append(np.mean(losses))
    flat = {f"w{i}": np.asarray(p) for i, p in enumerate(jax.tree.leaves(params))}
    return {"loss": np.array(means), **flat}


class Routed(pg.Step):
    def __init__(self, experts):
        self.experts, self.sgd = experts, keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch

        def objective():
            y_pred = jax.lax.cond(
                jnp.mean(x) > 0,
                lambda x: self.experts["above"](x),
                lambda x: self.experts["below"](x),
                x,
            )
            return jnp.mean((y_pred - y) ** 2)

        return {"loss": self.minimize(objective, self.sgd, list(self.experts.values()))}


def perigee(**fit):
    step = Routed(make())
    given = {"epochs": 3, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    variables = [v for e in ("above", "below") for v in step.experts[e].trainable_variables]
    weights = {f"w{i}": np.asarray(v) for i, v in enumerate(variables)}
    return {"loss": np.array(history.history["loss"]), **weights}
