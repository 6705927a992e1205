"""What a Step holds in objects of the user's own classes, and in those of TensorFlow."""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers, ops

import perigee as pg
from perigee._errors import UnheldVariablesError
from perigee._step.state import fingerprint, track

BATCH = 8
QUIET: Any = {"progress": "off", "shuffle": False, "batch_size": BATCH}


def rows(count=24):
    x = np.random.default_rng(2).normal(1.0, 1.0, (count, 3)).astype("float32")
    return x, x.sum(axis=1, keepdims=True)


@dataclass
class Parts:
    model: Any
    optimizer: Any


class Agent:
    """An object as users write them: what trains is inside."""

    def __init__(self):
        self.parts = Parts(
            keras.Sequential([keras.Input((3,)), layers.Dense(1)]), keras.optimizers.Adam(0.1)
        )
        self.seen = keras.Variable(0, trainable=False, dtype="int32", name="seen")
        self.calls = 0

    def learn(self, step, batch):
        x, y = batch
        self.calls += 1
        self.seen.assign_add(1)
        parts = self.parts
        return step.minimize(
            lambda: ops.mean(ops.square(y - parts.model(x, training=True))),
            parts.optimizer,
            parts.model,
        )


class Learns(pg.Step):
    def __init__(self):
        self.agent = Agent()

    def train_step(self, batch):
        return {"loss": self.agent.learn(self, batch)}


def test_what_an_object_of_the_user_holds_is_held_by_the_step(tmp_path):
    step, again = Learns(), Learns()
    again.agent.parts.model.set_weights(step.agent.parts.model.get_weights())

    pg.fit(step, rows(), epochs=2, **QUIET)
    pg.fit(again, rows(), epochs=1, run=tmp_path / "run", **QUIET)
    resumed = Learns()
    pg.fit(resumed, rows(), epochs=2, run=tmp_path / "run", **QUIET)

    assert set(track(step).optimizers) == {"agent/parts/optimizer"}
    for a, b in zip(track(step).variables, track(resumed).variables, strict=True):
        np.testing.assert_array_equal(ops.convert_to_numpy(a), ops.convert_to_numpy(b))
    assert int(resumed.agent.seen) == 6


def test_numbers_of_an_object_of_the_user_do_not_compile_a_step_again():
    step = Learns()
    before = fingerprint(step)

    step.agent.calls += 1
    assert fingerprint(step) == before

    step.agent.parts.model = keras.Sequential([keras.Input((3,)), layers.Dense(1)])
    assert fingerprint(step) != before


@pytest.mark.only_tensorflow
def test_a_module_and_a_generator_of_tensorflow_count_each_batch_once():
    import tensorflow as tf

    class Line(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = tf.Variable(tf.zeros((3, 1)))

    class Noisy(pg.Step):
        def __init__(self):
            self.line, self.rng = Line(), tf.random.Generator.from_seed(3)

        def train_step(self, batch):
            return {"loss": descend(self.line.w, self.rng, batch)}

    def descend(w, rng, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(y + rng.normal(tf.shape(y)) - x @ w))
        w.assign_sub(0.1 * tape.gradient(loss, w))
        return loss

    step = Noisy()
    pg.fit(step, rows(), **QUIET)

    line, rng = Line(), tf.random.Generator.from_seed(3)
    x, y = rows()
    for at in range(0, len(x), BATCH):
        descend(line.w, rng, (x[at : at + BATCH], y[at : at + BATCH]))
    np.testing.assert_allclose(step.line.w.numpy(), line.w.numpy(), rtol=1e-5)


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("write", ["assign", "assign_add", "scatter_nd_add"])
def test_a_variable_of_tensorflow_that_nothing_holds_is_refused_and_keeps_its_value(write):
    import tensorflow as tf

    total = tf.Variable(tf.zeros((1,)), trainable=False, name="total")

    class Loose(pg.Step):
        def train_step(self, batch):
            if write == "scatter_nd_add":
                total.scatter_nd_add([[0]], [1.0])
            else:
                getattr(total, write)([1.0])
            return {"loss": 0.0}

    with pytest.raises(UnheldVariablesError, match="total"):
        pg.fit(Loose(), rows(), **QUIET)

    assert float(total[0]) == 0.0
