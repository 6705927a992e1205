"""What a rehearsal leaves out on JAX, where compiling it would take longest."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers

import perigee as pg

if keras.backend.backend() == "jax":
    import jax

pytestmark = pytest.mark.only_jax

ROWS, FEATURES, CLASSES = 8, 4, 3


def data(batches):
    random = np.random.default_rng(0)
    rows = batches * ROWS
    return random.normal(size=(rows, FEATURES)).astype("float32"), random.integers(0, CLASSES, rows)


class Counted(keras.Layer):
    """Returns its inputs, and counts how often they, and gradients, are computed."""

    def __init__(self):
        super().__init__()
        self.forward, self.backward = Count(), Count()
        self.identity = jax.custom_vjp(self.forward)
        self.identity.defvjp(
            lambda x: (self.forward(x), None), lambda _, gradient: (self.backward(gradient),)
        )

    def call(self, x):
        return self.identity(x)


class Count:
    def __init__(self):
        self.number = 0

    def __call__(self, x):
        def count(value):
            self.number += 1
            return value

        return jax.pure_callback(count, jax.ShapeDtypeStruct(x.shape, x.dtype), x)


def compiled(*hidden, loss=None):
    model = keras.Sequential([keras.Input((FEATURES,)), *hidden, layers.Dense(CLASSES)])
    loss = loss or keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss, metrics=["accuracy"])
    return model


def test_a_compiled_model_is_rehearsed_without_its_backward_pass_and_built_without_running():
    steps = 3
    counted = Counted()
    model = compiled(layers.Dense(5), counted)
    pg.fit(pg.KerasStep(model), data(steps), batch_size=ROWS, progress="off")
    assert counted.backward.number == steps
    assert counted.forward.number == steps + 1  # the rehearsal looks at predictions


class LastUnused(keras.Layer):
    """Has a last kernel and bias on which the result does not depend."""

    def build(self, shape):
        self.used = self.add_weight(shape=(shape[-1], CLASSES))
        self.unused = [self.add_weight(shape=(n,)) for n in (2, 3)]

    def call(self, x):
        return x @ self.used


@pytest.mark.parametrize("is_cut", [False, True], ids=["some", "none"])
def test_where_the_last_gradients_are_0_the_others_decide(is_cut):
    def loss(y_true, y_pred):
        y_pred = jax.lax.stop_gradient(y_pred) if is_cut else y_pred
        return keras.losses.sparse_categorical_crossentropy(y_true, y_pred, from_logits=True)

    model = keras.Sequential([keras.Input((FEATURES,)), LastUnused()])
    model.compile("sgd", loss)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pg.fit(pg.KerasStep(model), data(1), batch_size=ROWS, progress="off")
    found = [str(each.message) for each in caught if "PG120" in str(each.message)]
    assert bool(found) == is_cut
