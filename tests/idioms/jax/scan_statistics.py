"""Statistics of BatchNorm carried through a `scan` over micro-batches, by `stateless_call`."""

import jax
import jax.numpy as jnp
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(11)
x = (2 + 3 * draw.normal(size=(96, 5))).astype("float32")
y = np.abs(x[:, :1] - 2) / 3


def make():
    keras.utils.set_random_seed(12)
    norm = keras.layers.BatchNormalization(momentum=0.8)
    layers = [norm, keras.layers.Dense(8, activation="relu"), keras.layers.Dense(1)]
    return keras.Sequential([keras.Input((5,)), *layers]), keras.optimizers.Adam(0.02)


def loss_over_parts(model, params, others, x, y):
    """Mean loss over four micro-batches that each move the statistics."""
    parts = jax.tree.map(lambda a: jnp.reshape(a, (4, -1, a.shape[-1])), (x, y))

    def body(others, part):
        y_pred, others = model.stateless_call(params, others, part[0], training=True)
        return others, jnp.mean((y_pred - part[1]) ** 2)

    others, losses = jax.lax.scan(body, others, parts)
    return jnp.mean(losses), others


def plain():
    model, optimizer = make()
    optimizer.build(model.trainable_variables)
    grad_fn = jax.jit(
        jax.value_and_grad(
            lambda params, others, x, y: loss_over_parts(model, params, others, x, y), has_aux=True
        )
    )
    others, means = [v.value for v in model.non_trainable_variables], []
    for _ in range(2):
        losses = []
        for i in range(0, 96, 32):
            params = [v.value for v in model.trainable_variables]
            (loss, others), grads = grad_fn(params, others, x[i : i + 32], y[i : i + 32])
            optimizer.apply(grads, model.trainable_variables)
            losses.append(float(loss))
        means.append(np.mean(losses))
    weights = [*model.trainable_variables, *others]
    return {"loss": np.array(means), **{f"w{i}": np.asarray(v) for i, v in enumerate(weights)}}


class InParts(pg.Step):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer
        self.optimizer.build(model.trainable_variables)

    def train_step(self, batch):
        trainable, other = self.model.trainable_variables, self.model.non_trainable_variables
        (loss, new), grads = jax.value_and_grad(
            lambda params: loss_over_parts(self.model, params, [v.value for v in other], *batch),
            has_aux=True,
        )([v.value for v in trainable])
        self.optimizer.apply(grads, trainable)
        for variable, value in zip(other, new, strict=True):
            variable.assign(value)
        return {"loss": loss}


def perigee(**fit):
    step = InParts(*make())
    given = {"epochs": 2, "batch_size": 32, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(step, (x, y), **given)
    variables = step.model.trainable_variables + step.model.non_trainable_variables
    weights = {f"w{i}": np.asarray(v) for i, v in enumerate(variables)}
    return {"loss": np.array(history.history["loss"]), **weights}
