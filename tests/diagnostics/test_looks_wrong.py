"""Programs that look wrong to a rule and are right: it leaves them alone, and finds their like."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import ops

import perigee as pg
from perigee._errors import ArgumentError
from tests.diagnostics.programs import compiled

ROWS, SERIES = 256, (12, 2)


def numbers(rows=ROWS, seed=0):
    x = np.random.default_rng(seed).normal(size=(rows, 5)).astype("float32")
    return x, x[:, :1] - x[:, 1:2]


def classes(scale=1.0):
    x, _ = numbers()
    return scale * x, x[:, :3].argmax(axis=1)


def chain(*layers, shape=(5,)):
    return keras.Sequential([keras.Input(shape), *layers])


def codes(target, data, **options):
    return {finding.code for finding in pg.check(target, data, **options)}


def regression():
    return compiled(chain(kl.Dense(8, "relu"), kl.Dense(1)), "mse")


# Frozen layers that were never trained.


def test_the_reservoirs_of_an_echo_state_network_may_be_frozen():
    x = np.random.default_rng(0).normal(size=(ROWS, *SERIES)).astype("float32")
    reservoirs = [kl.SimpleRNN(16, return_sequences=True), kl.SimpleRNN(16)]
    for reservoir in reservoirs:
        reservoir.trainable = False
    model = compiled(chain(*reservoirs, kl.Dense(1), shape=SERIES), "mse")

    assert "PG142" not in codes(model, (x, x[:, -1, :1]))


# The scale of values.


class RunningScale(kl.Layer):
    """Divides by the largest value so far, which it keeps in its call."""

    def build(self, shape):
        self.largest = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x, training=None):
        if training:
            self.largest.assign(ops.maximum(self.largest, ops.max(ops.abs(x))))
        return x / (self.largest + 1e-6)


def test_values_behind_statistics_that_are_not_gathered_yet_may_be_large():
    layers = RunningScale(), kl.Dense(8, "tanh"), kl.Dense(3, "softmax")

    assert "PG132" not in codes(
        compiled(chain(*layers), "sparse_categorical_crossentropy"), classes()
    )


class Cosines(kl.Layer):
    """Cosines of features and of a direction for each class, times a scale."""

    def __init__(self, units, scale):
        super().__init__()
        self.units, self.scale = units, scale

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], self.units))

    def call(self, x):
        towards = ops.normalize(self.kernel, axis=0)
        return self.scale * ops.matmul(ops.normalize(x, axis=-1), towards)


SCORES = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def test_cosines_times_a_scale_may_begin_with_a_large_loss():
    model = compiled(chain(kl.Dense(8, "relu"), kl.Dense(4), Cosines(3, 64.0)), SCORES)

    assert "PG133" not in codes(model, classes())


def test_scores_that_smaller_weights_make_smaller_may_not():
    wide = keras.initializers.RandomNormal(stddev=30.0, seed=1)
    model = compiled(chain(kl.Dense(8, "relu"), kl.Dense(3, kernel_initializer=wide)), SCORES)

    assert "PG133" in codes(model, classes())


# Rows of the validation data.


def test_rows_of_few_values_may_be_equal_by_chance():
    x = np.random.default_rng(0).integers(0, 2, size=(2 * ROWS, 6)).astype("float32")
    y = x[:, :1] * x[:, 1:2]

    assert "PG323" not in codes(
        regression_of(6), (x[:ROWS], y[:ROWS]), validation=(x[ROWS:], y[ROWS:])
    )


def regression_of(columns):
    return compiled(chain(kl.Dense(8, "relu"), kl.Dense(1), shape=(columns,)), "mse")


def test_inputs_that_were_measured_several_times_may_be_shared():
    x, y = numbers()
    again = y + np.random.default_rng(1).normal(size=y.shape).astype("float32")

    assert "PG323" not in codes(regression(), (x, y), validation=(x[:64], again[:64]))


def test_blank_rows_may_be_shared():
    (x, y), (other, true) = numbers(), numbers(64, seed=1)
    x[:8], y[:8], other[:8], true[:8] = 0, 0, 0, 0

    assert "PG323" not in codes(regression(), (x, y), validation=(other, true))


def test_copies_of_examples_may_not():
    x, y = numbers()

    assert "PG323" in codes(regression(), (x, y), validation=(x[:64], y[:64]))


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("batches", [100, 200], ids=["few", "many"])
def test_validation_batches_may_be_shuffled(batches):
    import tensorflow as tf

    x, y = numbers(4 * batches)
    shuffled = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(4 * batches).batch(4)

    assert "PG329" not in codes(regression(), numbers(seed=1), validation=shuffled)


def test_many_validation_batches_may_not_be_augmented():
    x, y = numbers(4 * 200)
    draw = np.random.default_rng(2)

    def noisy():
        for rows in (slice(at, at + 4) for at in range(0, len(x), 4)):
            noise = draw.normal(size=x[rows].shape).astype("float32")
            yield x[rows] + noise, y[rows]

    assert "PG329" in codes(regression(), numbers(seed=1), validation=noisy)


# Batches that hold no labels.


class Transitions(pg.Step):
    """Learns the value of states from transitions, with a target network."""

    def __init__(self):
        self.model, self.target = (chain(kl.Dense(8, "relu"), kl.Dense(2)) for _ in range(2))
        self.optimizer = keras.optimizers.Adam(1e-3)

    def train_step(self, batch):
        state, action, reward, after = batch
        goal = reward + 0.9 * ops.max(self.target(after, training=False), axis=1)

        def objective():
            values = self.model(state, training=True)
            chosen = ops.sum(values * ops.one_hot(action, 2), axis=1)
            return ops.square(goal - chosen)

        loss = self.minimize(objective, self.optimizer, self.model)
        for old, new in zip(self.target.weights, self.model.weights, strict=True):
            old.assign(0.99 * old + 0.01 * new)
        return {"loss": loss}


def test_what_comes_second_among_four_is_no_label():
    x, y = numbers()
    x[:, 4] = 0.5
    action = np.ones(ROWS, "int32")

    assert "PG322" not in codes(Transitions(), (x, action, y[:, 0], np.roll(x, 1, axis=0)))


# What a check says beside its findings.


@pytest.mark.only_tensorflow  # its loss reads values
def test_probes_of_rules_warn_of_nothing():
    def loss(true, pred):
        if not np.isin(ops.convert_to_numpy(true), numbers()[1]).all():
            warnings.warn("labels of others", stacklevel=2)
        return ops.square(true - pred)

    class Own(pg.Step):
        def __init__(self):
            self.model, self.optimizer = chain(kl.Dense(1)), keras.optimizers.SGD(0.1)

        def train_step(self, batch):
            x, y = batch
            objective = lambda: ops.mean(loss(y, self.model(x, training=True)))  # noqa: E731
            return {"loss": self.minimize(objective, self.optimizer, self.model)}

    with warnings.catch_warnings():
        warnings.filterwarnings("error", "labels of others")
        pg.check(Own(), numbers())


@pytest.mark.parametrize(
    "third",
    [["accuracy"], [keras.metrics.SparseCategoricalAccuracy()]],
    ids=["names", "objects"],
)
def test_metrics_in_the_place_of_loss_weights_are_refused(third):
    model = chain(kl.Dense(3, "softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", third)

    with pytest.raises(ArgumentError, match=r"metrics=\[") as caught:
        pg.check(model, classes())

    assert caught.value.name == "loss_weights"


def test_weights_of_losses_are_taken():
    model = chain(kl.Dense(3, "softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", [np.float32(0.5)])

    assert pg.check(model, classes()) is not None
