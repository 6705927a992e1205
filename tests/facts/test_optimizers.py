"""An optimizer knows all of its variables, and counts its own updates (E22)."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import OptimizerSetError, UnusedVariablesError


class TwoParts(pg.Step):
    """A body and a head; a subclass says what is updated with what."""

    def __init__(self, **optimizers):
        self.body = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(4)])
        self.head = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
        self.optimizers = optimizers

    def error(self, batch):
        x, y = batch
        return ops.mean(ops.square(y - self.head(self.body(x, training=True), training=True)))


def batches(count=1):
    draw = np.random.default_rng(10)
    x = draw.normal(size=(count, 4, 3)).astype("float32")
    return [(rows, rows[:, :1]) for rows in x]


def fit(step, count=1):
    return pg.fit(step, batches(count), progress="off").history


def updates(optimizer):
    return int(ops.convert_to_numpy(optimizer.iterations))


class CutOff(TwoParts):
    """The loss does not depend on the body: its result is cut from the graph."""

    def train_step(self, batch):
        x, y = batch

        def objective():
            features = ops.stop_gradient(self.body(x, training=True))
            return ops.mean(ops.square(y - self.head(features, training=True)))

        loss = self.minimize(objective, self.optimizers["all"], [self.body, self.head])
        return {"loss": loss}


def test_e22_missing_gradients_raise_and_the_optimizer_is_not_built_without_them():
    """Nothing is filtered out, so no optimizer ends up knowing a part of its variables."""
    adam = keras.optimizers.Adam(0.1)
    step = CutOff(all=adam)
    before = step.head.get_weights()[0]

    with pytest.raises(UnusedVariablesError, match="PG101") as raised:
        fit(step)

    assert raised.value.total == 4
    assert [name.split("/")[0] for name in raised.value.unused] == ["body", "body"]
    assert not adam.built
    np.testing.assert_array_equal(step.head.get_weights()[0], before)


class Halves(TwoParts):
    """Two updates a step, of the parts by themselves; with which optimizers is asked for."""

    def train_step(self, batch):
        first, second = self.optimizers["body"], self.optimizers["head"]
        self.minimize(lambda: self.error(batch), first, self.body)
        return {"loss": self.minimize(lambda: self.error(batch), second, self.head)}


def test_e22_one_optimizer_for_two_sets_in_a_step_is_refused():
    """It would count two updates a step, and schedules and corrections would run too fast."""
    adam = keras.optimizers.Adam(0.1)
    step = Halves(body=adam, head=adam)

    with pytest.raises(OptimizerSetError, match="PG105") as raised:
        fit(step)

    assert all(name.startswith("body/") for name in raised.value.first)
    assert all(name.startswith("head/") for name in raised.value.second)


def test_e22_two_optimizers_count_their_own_updates():
    """Three updates of one for each update of the other, and schedules follow each count."""
    steps, critic_updates = 4, 3
    halved_after = 2 * critic_updates  # updates of the critic's optimizer: two steps

    class Uneven(TwoParts):
        def train_step(self, batch):
            for _ in range(critic_updates):
                self.minimize(lambda: self.error(batch), self.optimizers["often"], self.head)
            loss = self.minimize(lambda: self.error(batch), self.optimizers["once"], self.body)
            return {"loss": loss}

    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([halved_after - 1], [0.1, 0.05])
    step = Uneven(often=keras.optimizers.Adam(schedule), once=keras.optimizers.Adam(schedule))

    history = fit(step, steps)

    assert updates(step.optimizers["often"]) == steps * critic_updates
    assert updates(step.optimizers["once"]) == steps
    np.testing.assert_allclose(history["optimizers/often/learning_rate"], [0.05])
    np.testing.assert_allclose(history["optimizers/once/learning_rate"], [0.1])
