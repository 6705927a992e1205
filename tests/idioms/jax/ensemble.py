"""Four models in one `jax.vmap`: weights stacked along a first axis, one optimizer for all."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(14)
x = draw.normal(size=(70, 3)).astype("float32")
y = np.sin(x.sum(axis=1, keepdims=True))


def make():
    models = []
    for seed in range(4):
        keras.utils.set_random_seed(seed)
        layers = [keras.layers.Dense(6, activation="relu"), keras.layers.Dense(1)]
        models.append(keras.Sequential([keras.Input((3,)), *layers]))
    weights = zip(*([v.value for v in m.trainable_variables] for m in models), strict=True)
    return models[0], [jnp.stack(members) for members in weights]


def losses_of(model, stacked, x, y):
    def error(weights):
        return jnp.mean((model.stateless_call(weights, [], x)[0] - y) ** 2)

    return jax.vmap(error)(stacked)


def plain():
    model, stacked = make()
    m = jax.tree.map(jnp.zeros_like, stacked)

    @jax.jit
    def update(stacked, m, x, y):
        def total(stacked):
            losses = losses_of(model, stacked, x, y)
            return jnp.sum(losses), losses

        (_, losses), grads = jax.value_and_grad(total, has_aux=True)(stacked)
        m = jax.tree.map(lambda m, g: 0.9 * m - 0.05 * g, m, grads)
        return jax.tree.map(jnp.add, stacked, m), m, losses

    best, worst = [], []
    for _ in range(2):
        rows, low, high = [], [], []
        for i in range(0, 70, 20):
            stacked, m, losses = update(stacked, m, x[i : i + 20], y[i : i + 20])
            low.append(float(losses.min()))
            high.append(float(losses.max()))
            rows.append(len(x[i : i + 20]))
        best.append(np.average(low, weights=rows))
        worst.append(np.average(high, weights=rows))
    weights = {f"w{i}": np.asarray(v) for i, v in enumerate(stacked)}
    return {"best": np.array(best), "worst": np.array(worst), **weights}


class Ensemble(pg.Step):
    def __init__(self, model, stacked):
        self.losses_of = lambda weights, x, y: losses_of(model, weights, x, y)
        self.members = [keras.Variable(w, name=f"members_{i}") for i, w in enumerate(stacked)]
        self.optimizer = keras.optimizers.SGD(0.05, momentum=0.9)

    def train_step(self, batch):
        def objective():
            losses = self.losses_of([v.value for v in self.members], *batch)
            return jnp.sum(losses), losses

        _, losses = self.minimize(objective, self.optimizer, self.members)
        return {"best": losses.min(), "worst": losses.max()}


def perigee(**fit):
    step = Ensemble(*make())
    given = {"epochs": 2, "batch_size": 20, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given).history
    weights = {f"w{i}": np.asarray(v) for i, v in enumerate(step.members)}
    return {"best": np.array(history["best"]), "worst": np.array(history["worst"]), **weights}
