"""What a user changes on a Step between two fits is honored by the second (E17, E21)."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import OptimizerVariablesError


class Fit(pg.Step):
    """Least squares at a temperature, a plain Python number."""

    def __init__(self, optimizer, temperature=1.0):
        self.body = keras.layers.Dense(4, activation="tanh", name="body")
        self.head = keras.layers.Dense(1, name="head")
        self.model = keras.Sequential([keras.layers.Input((3,)), self.body, self.head])
        self.optimizer, self.temperature = optimizer, temperature

    def train_step(self, batch):
        x, y = batch

        def objective():
            return ops.mean(ops.square(y - self.model(x, training=True))) / self.temperature

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def batches():
    draw = np.random.default_rng(3)
    x = draw.normal(size=(8, 3)).astype("float32")
    return [(x, np.sin(3 * x[:, :1]))]


def moved(step):
    """Train for an epoch and return which of the two layers is not bit for bit as before."""
    layers = (step.body, step.head)
    before = [layer.get_weights() for layer in layers]
    pg.fit(step, batches(), progress="off")
    after = [layer.get_weights() for layer in layers]
    return {
        layer.name
        for layer, old, new in zip(layers, before, after, strict=True)
        if any((a != b).any() for a, b in zip(old, new, strict=True))
    }


def test_e17_a_layer_frozen_after_the_first_fit_stays_as_it_is_and_can_be_freed_again():
    """The flag counts when a fit begins, although the step was compiled for another one."""
    step = Fit(keras.optimizers.Adam(0.1))

    assert moved(step) == {"body", "head"}
    step.body.trainable = False
    assert moved(step) == {"head"}
    step.body.trainable = True
    assert moved(step) == {"body", "head"}
    assert int(step.optimizer.iterations) == 3


def test_e17_a_layer_that_the_optimizer_never_knew_needs_a_new_one_when_it_is_freed():
    """Slots for freed weights are made with a new optimizer, never silently left out."""
    step = Fit(keras.optimizers.Adam(0.1))
    step.body.trainable = False
    assert moved(step) == {"head"}

    step.body.trainable = True
    with pytest.raises(OptimizerVariablesError, match="PG106") as raised:
        moved(step)

    assert raised.value.optimizer == "optimizer"
    assert any("body" in name for name in raised.value.unknown)
    step.optimizer = keras.optimizers.Adam(0.1)
    assert moved(step) == {"body", "head"}


def test_e21_a_python_number_changed_between_fits_is_honored():
    """A compiled step has such a number built in, and is compiled anew when it differs."""
    first, second = 2.0, 8.0
    step = Fit(keras.optimizers.SGD(0.0), temperature=first)

    at_first = pg.fit(step, batches(), progress="off").history["loss"]
    step.temperature = second
    at_second = pg.fit(step, batches(), progress="off").history["loss"]

    np.testing.assert_allclose(at_second, np.array(at_first) * first / second, rtol=1e-6)
