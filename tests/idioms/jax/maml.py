"""Model-agnostic meta-learning: an inner step of descent, `vmap`ped over tasks, inside the loss."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(19)
phases = draw.uniform(0, np.pi, size=(24, 1, 1))
points = draw.uniform(-2, 2, size=(24, 12, 1)).astype("float32")
waves = np.sin(points + phases).astype("float32")


def make():
    keras.utils.set_random_seed(20)
    layers = [keras.layers.Dense(10, activation="tanh"), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((1,)), *layers])
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def meta_loss(model, params, points, waves):
    def error(params, x, y):
        return jnp.mean((model.stateless_call(params, [], x)[0] - y) ** 2)

    def after_adapting(x, y):
        slopes = jax.grad(error)(params, x[:6], y[:6])
        adapted = jax.tree.map(lambda p, g: p - 0.1 * g, params, slopes)
        return error(adapted, x[6:], y[6:])

    return jnp.mean(jax.vmap(after_adapting)(points, waves))


def plain():
    model, optimizer = make()

    @jax.jit
    def update(params, slots, x, y):
        loss, grads = jax.value_and_grad(lambda p: meta_loss(model, p, x, y))(params)
        return *optimizer.stateless_apply(slots, grads, params), loss

    params = [v.value for v in model.trainable_variables]
    slots, means = [v.value for v in optimizer.variables], []
    for _ in range(2):
        losses = []
        for i in range(0, 24, 6):
            params, slots, loss = update(params, slots, points[i : i + 6], waves[i : i + 6])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), **{f"w{i}": np.asarray(p) for i, p in enumerate(params)}}


class Meta(pg.Step):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def train_step(self, tasks):
        params = [v.value for v in self.model.trainable_variables]
        loss, grads = jax.value_and_grad(lambda p: meta_loss(self.model, p, *tasks))(params)
        self.optimizer.apply(grads, self.model.trainable_variables)
        return {"loss": loss}


def perigee(**fit):
    step = Meta(*make())
    given = {"epochs": 2, "batch_size": 6, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (points, waves), **given)
    weights = {f"w{i}": w for i, w in enumerate(step.model.get_weights())}
    return {"loss": np.array(history.history["loss"]), **weights}
