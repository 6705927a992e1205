"""A network that solves u'' = -u: `jvp` of `jvp` through the model, and two boundary values."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

WITHIN = 2e-5  # second derivatives sum over many products of weights

t = np.linspace(0, 3, 48, dtype="float32")[:, None]


def make():
    keras.utils.set_random_seed(21)
    hidden = [keras.layers.Dense(8, activation="tanh") for _ in range(2)]
    model = keras.Sequential([keras.Input((1,)), *hidden, keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(0.02)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def residual_loss(u, t):
    def slope(t):
        return jax.jvp(u, (t,), (jnp.ones_like(t),))[1]

    _, curvature = jax.jvp(slope, (t,), (jnp.ones_like(t),))
    start = jnp.zeros((1, 1))
    boundary = jnp.sum(u(start) ** 2) + jnp.sum((slope(start) - 1.0) ** 2)
    return jnp.mean((curvature + u(t)) ** 2) + boundary


def plain():
    model, optimizer = make()

    @jax.jit
    def update(params, slots, t):
        def loss_fn(params):
            return residual_loss(lambda t: model.stateless_call(params, [], t)[0], t)

        loss, grads = jax.value_and_grad(loss_fn)(params)
        return *optimizer.stateless_apply(slots, grads, params), loss

    params = [v.value for v in model.trainable_variables]
    slots, means = [v.value for v in optimizer.variables], []
    for _ in range(3):
        losses = []
        for i in range(0, 48, 12):
            params, slots, loss = update(params, slots, t[i : i + 12])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), **{f"w{i}": np.asarray(p) for i, p in enumerate(params)}}


class Oscillator(pg.Step):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def train_step(self, t):
        loss = self.minimize(lambda: residual_loss(self.model, t), self.optimizer, self.model)
        return {"loss": loss}


def perigee(**fit):
    step = Oscillator(*make())
    given = {"epochs": 3, "batch_size": 12, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, t, **given)
    weights = {f"w{i}": w for i, w in enumerate(step.model.get_weights())}
    return {"loss": np.array(history.history["loss"]), **weights}
