"""`accumulate=k` is the update of the large batch, and one update is one tick (E6)."""

from itertools import pairwise

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import OptimizerAccumulationError
from perigee._step.state import snapshot
from perigee._step.updates import internals

CLOSE = {"rtol": 0, "atol": 1e-6}


def scalar(errors):
    return ops.mean(errors)


def one_an_example(errors):
    return errors


def sum_and_count(errors):
    return pg.mean(errors)


class Fit(pg.Step):
    def __init__(self, optimizer, loss=scalar):
        hidden = keras.layers.Dense(
            4, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.1)
        )
        self.model = keras.Sequential([keras.layers.Input((3,)), hidden, keras.layers.Dense(1)])
        self.model.set_weights(weights(self.model))
        self.optimizer, self.loss = optimizer, loss

    def train_step(self, batch):
        x, y = batch

        def objective():
            y_pred = self.model(x, training=True)
            return self.loss(ops.square(y - y_pred)[:, 0])

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def weights(model):
    draw = np.random.default_rng(5)
    return [draw.normal(size=w.shape).astype("float32") for w in model.get_weights()]


def rows(*sizes):
    """Return batches of these sizes of the same rows, in the same order."""
    draw = np.random.default_rng(2)
    x = draw.normal(size=(sum(sizes), 3)).astype("float32")
    y = draw.normal(size=(sum(sizes), 1)).astype("float32")
    ends = np.cumsum([0, *sizes])
    return [(x[i:j], y[i:j]) for i, j in pairwise(ends)]


def fit(step, batches, **arguments):
    return pg.fit(step, batches, progress="off", **arguments).history


def assert_same_weights(step, other):
    for ours, theirs in zip(step.model.get_weights(), other.model.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, **CLOSE)


def adam():
    return keras.optimizers.Adam(0.01)


def scheduled():
    """Return an optimizer that stops moving after three updates."""
    after_three = keras.optimizers.schedules.PiecewiseConstantDecay([2], [0.1, 0.0])
    return keras.optimizers.SGD(after_three)


def averaging():
    """Return an optimizer that leaves the running averages of the weights behind."""
    return keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)


def clipping():
    return keras.optimizers.SGD(0.1, global_clipnorm=0.5)


@pytest.mark.parametrize("optimizer", [adam, scheduled, averaging, clipping])
def test_e6_an_accumulated_update_is_that_of_the_large_batch(optimizer):
    """Schedules, averaged weights and clipping see one update a group of micro-batches."""
    k, updates, epochs = 4, 2, 3
    large, accumulated = Fit(optimizer()), Fit(optimizer())

    large_history = fit(large, rows(*[8] * updates), epochs=epochs)
    history = fit(accumulated, rows(*[2] * k * updates), epochs=epochs, accumulate=k)

    assert_same_weights(accumulated, large)
    assert int(accumulated.optimizer.iterations) == updates * epochs
    assert history["learning_rate"] == large_history["learning_rate"]


def test_e6_a_schedule_is_read_once_an_update():
    """With a rate that falls to 0 after three updates, exactly three updates move weights."""
    k = 2
    three, many = Fit(scheduled()), Fit(scheduled())

    fit(three, rows(*[2] * 3 * k), accumulate=k)
    moved = three.model.get_weights()[0]
    fit(many, rows(*[2] * 3 * k), accumulate=k)
    rate = fit(many, rows(*[2] * 3 * k), accumulate=k, epochs=2)["learning_rate"]

    assert np.abs(moved - weights(three.model)[0]).max() > 0.01
    np.testing.assert_array_equal(many.model.get_weights()[0], moved)
    assert rate == [0.0, 0.0]


def test_e6_what_is_left_over_makes_an_update_and_nothing_waits_for_the_next_epoch():
    """Seven micro-batches in groups of four make two updates, of four and of three."""
    k, micro_batches, size, epochs = 4, 7, 2, 2
    grouped = rows(*[size] * micro_batches)
    large, accumulated = Fit(adam()), Fit(adam())

    counts = []
    for _ in range(epochs):
        fit(accumulated, grouped, accumulate=k)
        counts.append(int(accumulated.optimizer.iterations))
        for name, variable in internals(accumulated).variables.items():
            assert not snapshot([variable])[0].any(), name
    fit(large, rows(k * size, (micro_batches - k) * size), epochs=epochs)

    assert counts == [2, 4]
    assert_same_weights(accumulated, large)


@pytest.mark.parametrize("loss", [scalar, one_an_example, sum_and_count])
def test_e6_ragged_micro_batches_weigh_as_many_examples_as_they_have(loss):
    """The mean over a group is over its examples, not over the means of its micro-batches."""
    sizes = [5, 1, 2]
    large, accumulated = Fit(adam(), loss), Fit(adam(), loss)

    large_loss = fit(large, rows(sum(sizes)))["loss"]
    loss_logged = fit(accumulated, rows(*sizes), accumulate=len(sizes))["loss"]

    assert_same_weights(accumulated, large)
    np.testing.assert_allclose(loss_logged, large_loss, rtol=1e-6)


def test_e6_an_optimizer_that_accumulates_by_itself_is_refused():
    """Keras's own accumulation counts micro-batches as updates."""
    step = Fit(keras.optimizers.SGD(0.1, gradient_accumulation_steps=4))
    before = step.model.get_weights()

    with pytest.raises(OptimizerAccumulationError, match="PG109") as raised:
        fit(step, rows(2, 2))

    assert raised.value.steps == 4
    assert "accumulate=4" in raised.value.fix
    np.testing.assert_array_equal(step.model.get_weights()[0], before[0])
