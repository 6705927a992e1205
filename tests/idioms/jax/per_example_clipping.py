"""Differentially private descent: `vmap` of `grad` gives one gradient per example, each clipped."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(15)
x = draw.normal(size=(64, 5)).astype("float32")
y = draw.integers(3, size=64).astype("int32")


def make():
    keras.utils.set_random_seed(16)
    layers = [keras.layers.Dense(7, activation="relu"), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((5,)), *layers])
    optimizer = keras.optimizers.SGD(0.3)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def private_grads(model, params, key, x, y):
    def loss_fn(params, x, y):
        logits = model.stateless_call(params, [], x[None])[0][0]
        return -jax.nn.log_softmax(logits)[y]

    losses, grads = jax.vmap(jax.value_and_grad(loss_fn), in_axes=(None, 0, 0))(params, x, y)
    norms = jnp.sqrt(sum(jnp.sum(g**2, axis=tuple(range(1, g.ndim))) for g in grads))
    factors = jnp.minimum(1.0, 0.5 / norms)
    keys = jax.random.split(key, len(grads))
    clipped = [jnp.tensordot(factors, g, 1) for g in grads]
    noise = [0.1 * jax.random.normal(k, c.shape) for k, c in zip(keys, clipped, strict=True)]
    return losses, [(c + n) / len(x) for c, n in zip(clipped, noise, strict=True)]


def plain():
    model, optimizer = make()

    @jax.jit
    def update(params, slots, key, x, y):
        losses, grads = private_grads(model, params, key, x, y)
        params, slots = optimizer.stateless_apply(slots, grads, params)
        return params, slots, losses.mean()

    params = [v.value for v in model.trainable_variables]
    slots = [v.value for v in optimizer.variables]
    key, means = jax.random.PRNGKey(1), []
    for _ in range(2):
        losses = []
        for i in range(0, 64, 16):
            use = jax.random.fold_in(key, len(means) * 4 + len(losses))
            params, slots, loss = update(params, slots, use, x[i : i + 16], y[i : i + 16])
            losses.append(float(loss))
        means.append(np.mean(losses))
    return {"loss": np.array(means), **{f"w{i}": np.asarray(p) for i, p in enumerate(params)}}


class Private(pg.Step):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.key = jax.random.PRNGKey(1)

    def train_step(self, batch):
        variables = self.model.trainable_variables
        use = jax.random.fold_in(self.key, self.optimizer.iterations.value)
        losses, grads = private_grads(self.model, [v.value for v in variables], use, *batch)
        self.apply(self.optimizer, list(zip(grads, variables, strict=True)))
        return {"loss": losses}


def perigee(**fit):
    step = Private(*make())
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    weights = {f"w{i}": w for i, w in enumerate(step.model.get_weights())}
    return {"loss": np.array(history.history["loss"]), **weights}
