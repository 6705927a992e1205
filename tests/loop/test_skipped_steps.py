"""`nonfinite="skip"`: a step that comes to a NaN leaves nothing behind."""

import functools

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._step.state import snapshot, track
from tests.execution.trainings import Beginning

FEATURES, BATCH = 3, 4


class Regressing(pg.Step):
    """Has all that a step may write: weights, slots, statistics, seeds, a metric."""

    def __init__(self):
        keras.utils.set_random_seed(0)
        self.model = keras.Sequential(
            [
                keras.Input((FEATURES,)),
                keras.layers.Dense(4),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.3, seed=1),
                keras.layers.Dense(1),
            ]
        )
        self.optimizer = keras.optimizers.Adam(0.1)
        self.error = keras.metrics.MeanSquaredError(name="error")

    def train_step(self, batch):
        x, y = batch

        def objective():
            predictions = self.model(x, training=True)
            return self.loss(predictions, y), predictions

        loss, predictions = self.minimize(objective, self.optimizer, self.model)
        self.error.update_state(y, predictions)
        return {"loss": loss}

    def loss(self, predictions, y):
        return ops.mean(ops.square(predictions - y))


class FiniteLoss(Regressing):
    """Its loss is finite where its gradient is not: the square root of 0."""

    def loss(self, predictions, y):
        return super().loss(predictions, y) + ops.mean(ops.sqrt(ops.abs(predictions * ops.sum(y))))


@pytest.fixture
def batches():
    draw = np.random.default_rng(0)
    return [
        (
            draw.normal(size=(BATCH, FEATURES)).astype("float32"),
            draw.normal(size=(BATCH, 1)).astype("float32"),
        )
        for _ in range(6)
    ]


@pytest.fixture(params=[1, 8], ids=["one step a call", "blocks"])
def execution(request):
    return pg.Execution(steps_per_call=request.param)


def state(step):
    """Return every variable by its place, for automatic names differ."""
    entries = track(step).entries
    values = snapshot([entry.variable for entry in entries])
    return [(entry.kind, value.tobytes()) for entry, value in zip(entries, values, strict=True)]


def fit(step, batches, **arguments):
    return pg.fit(step, batches, nonfinite="skip", progress="off", **arguments)


@functools.cache
def beginning(kind, execution, accumulate=1):
    """Return a Step with everything built; its programs are kept from training to training."""
    step = kind()
    x, y = np.ones((BATCH, FEATURES), "float32"), np.ones((BATCH, 1), "float32")
    fit(step, [(x, y)] * accumulate, execution=execution, accumulate=accumulate)
    return Beginning(step)


def trained(kind, batches, execution, accumulate=1):
    """Return what a training from the beginning comes to: its history, and all state."""
    begin = beginning(kind, execution, accumulate)
    begin.go_back()
    history = fit(begin.step, batches, execution=execution, accumulate=accumulate).history
    return history, state(begin.step)


@pytest.mark.parametrize(
    ("value", "execution"), [(np.nan, 1), (np.nan, 8), (np.inf, 8)], indirect=["execution"]
)
def test_all_is_bit_for_bit_as_if_the_batch_had_not_been_there(batches, execution, value):
    bad = np.full((BATCH, FEATURES), value, "float32"), batches[0][1]

    expected, state_without = trained(Regressing, batches, execution)
    history, state_with = trained(Regressing, [*batches[:3], bad, *batches[3:]], execution)

    assert state_with == state_without
    assert history["loss"] == expected["loss"]
    assert history["error"] == expected["error"]
    assert expected["skipped_steps"] == [0.0]
    assert history["skipped_steps"] == [1.0]


def test_a_finite_loss_whose_update_is_not_finite_is_left_out(batches, execution):
    zero = batches[0][0], np.zeros((BATCH, 1), "float32")
    positive = [(x, np.abs(y)) for x, y in batches]

    _, state_without = trained(FiniteLoss, positive, execution)
    history, state_with = trained(FiniteLoss, [*positive[:2], zero, *positive[2:]], execution)

    assert history["skipped_steps"] == [1.0]
    assert state_with == state_without


def test_a_micro_batch_that_is_left_out_counts_as_a_batch_and_adds_nothing(batches, execution):
    bad = np.full((BATCH, FEATURES), np.nan, "float32"), batches[0][1]
    step = beginning(Regressing, execution, 2).step

    _, state_without = trained(Regressing, batches[:1], execution, accumulate=2)
    before = int(ops.convert_to_numpy(step.optimizer.iterations))
    history, state_with = trained(Regressing, [batches[0], bad], execution, accumulate=2)

    assert history["skipped_steps"] == [1.0]
    assert state_with == state_without
    assert int(ops.convert_to_numpy(step.optimizer.iterations)) == before


def test_an_epoch_of_nothing_but_skipped_steps_logs_no_loss(batches, execution):
    bad = np.full((BATCH, FEATURES), np.nan, "float32"), batches[0][1]

    history, _ = trained(Regressing, [bad, bad], execution)

    assert "loss" not in history
    assert history["skipped_steps"] == [2.0]


@pytest.mark.only_tensorflow
def test_a_step_with_a_raw_tape_is_refused(batches):
    import tensorflow as tf

    class Raw(Regressing):
        def train_step(self, batch):
            with tf.GradientTape() as tape:
                loss = self.loss(self.model(batch[0], training=True), batch[1])
            variables = self.model.trainable_variables
            self.optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
            return {"loss": loss}

    with pytest.raises(pg.PerigeeError, match="minimize") as raised:
        fit(Raw(), batches)
    assert raised.value.code == "PG601"
