"""Keras's own JAX loop: `stateless_call` and `optimizer.stateless_apply`, with all the state."""

import jax
import keras
import numpy as np

import perigee as pg

draw = np.random.default_rng(1)
x = draw.normal(size=(100, 6)).astype("float32")
y = draw.integers(3, size=100)  # the last batch has 4 rows
loss_fn = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def make():
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, use_bias=False),
            keras.layers.BatchNormalization(momentum=0.7),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.25),
            keras.layers.Dense(3),
        ]
    )
    optimizer = keras.optimizers.Adam(5e-3)
    optimizer.build(model.trainable_variables)
    return model, optimizer


def update(model, optimizer, state, x, y):
    def compute_loss(trainable, non_trainable):
        logits, non_trainable = model.stateless_call(trainable, non_trainable, x, training=True)
        return loss_fn(y, logits), non_trainable

    trainable, non_trainable, slots = state
    grad_fn = jax.value_and_grad(compute_loss, has_aux=True)
    (loss, non_trainable), grads = grad_fn(trainable, non_trainable)
    trainable, slots = optimizer.stateless_apply(slots, grads, trainable)
    return loss, (trainable, non_trainable, slots)


def groups(model, optimizer):
    return model.trainable_variables, model.non_trainable_variables, optimizer.variables


def values(model, optimizer):
    return tuple([v.value for v in group] for group in groups(model, optimizer))


def named(loss, state):
    return {
        "loss": np.array(loss),
        **{f"s{i}": np.asarray(a) for i, a in enumerate(jax.tree.leaves(state))},
    }


def plain():
    model, optimizer = make()
    state, means = values(model, optimizer), []
    step = jax.jit(lambda state, x, y: update(model, optimizer, state, x, y))
    for _ in range(2):
        losses, rows = [], []
        for i in range(0, 100, 16):
            loss, state = step(state, x[i : i + 16], y[i : i + 16])
            losses.append(float(loss))
            rows.append(len(x[i : i + 16]))
        means.append(np.average(losses, weights=rows))
    return named(means, state)


class Guide(pg.Step):
    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def train_step(self, batch):
        state = values(self.model, self.optimizer)
        loss, state = update(self.model, self.optimizer, state, *batch)
        for variables, new in zip(groups(self.model, self.optimizer), state, strict=True):
            for variable, value in zip(variables, new, strict=True):
                variable.assign(value)
        return {"loss": loss}


def perigee(**fit):
    model, optimizer = make()
    given = {"epochs": 2, "batch_size": 16, "shuffle": False, "progress": "off", **fit}
    history = pg.fit(Guide(model, optimizer), (x, y), **given)
    return named(history.history["loss"], values(model, optimizer))
