"""The rehearsal: what it learns of a step, and that it leaves no trace."""

import random

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee import _backends
from perigee._rehearsal.discovery import rehearse
from perigee._step.state import snapshot, track
from perigee.diagnostics.rules import uncovered_variables

ROWS, FEATURES = 6, 3


class Everything(pg.Step):
    """Writes every kind of state in its train step, and draws from every generator."""

    def __init__(self, is_built=True):
        self.model = keras.Sequential(
            [
                keras.layers.Dense(4),
                keras.layers.BatchNormalization(name="norm"),
                keras.layers.Dropout(0.5, seed=1),
                keras.layers.Dense(1),
            ]
        )
        self.optimizer = keras.optimizers.Adam(0.1)
        self.seed = keras.random.SeedGenerator(3)
        self.average = keras.metrics.Mean(name="average")
        self.count = keras.Variable(0, dtype="int32", trainable=False)
        if is_built:
            self.model.build((None, FEATURES))
            self.optimizer.build(self.model.trainable_variables)

    def train_step(self, batch):
        noise = keras.random.normal(ops.shape(batch), seed=self.seed)
        jitter = random.random() + np.random.random()

        def objective():
            return ops.mean(ops.square(self.model(batch + noise, training=True)))

        loss = self.minimize(objective, self.optimizer)
        self.average.update_state(loss * jitter)
        self.count.assign_add(1)
        return {"loss": loss}

    def test_step(self, batch):
        return {"mean": ops.mean(self.model(batch))}


@pytest.fixture
def batch():
    values = np.random.normal(size=(ROWS, FEATURES)).astype("float32")
    return _backends.current().tensors(values)


def bits(step):
    tracked = track(step)
    values = snapshot(tracked.variables)
    return {e.name: v.tobytes() for e, v in zip(tracked.entries, values, strict=True)}


def host_draws():
    state = random.getstate(), np.random.get_state()[1].tolist(), np.random.get_state()[2]
    return state


def test_every_variable_seed_and_generator_is_left_as_it_was(batch):
    step = Everything()
    before, drawn = bits(step), host_draws()

    rehearse(step, "train_step", batch)

    assert bits(step) == before
    assert host_draws() == drawn


@pytest.mark.parametrize("accumulate", [1, 2])
def test_it_is_undone_after_an_exception_as_well(batch, accumulate):
    class Failing(Everything):
        def train_step(self, batch):
            super().train_step(batch)
            raise KeyError("late")

    step = Failing()
    before, drawn = bits(step), host_draws()

    with pytest.raises(KeyError):
        rehearse(step, "train_step", batch, accumulate=accumulate)

    assert {name: bits(step)[name] for name in before} == before
    assert host_draws() == drawn


def draws_of_keras():
    return np.array(ops.convert_to_numpy(keras.random.uniform((4,))))


@pytest.mark.skipif(
    keras.backend.backend() == "jax", reason="Keras refuses unseeded draws within JAX's traces"
)
@pytest.mark.parametrize("is_made", [True, False], ids=["before", "within"])
def test_the_global_generator_of_keras_is_left_as_it_was(batch, is_made):
    class Unseeded(Everything):
        def train_step(self, batch):
            return super().train_step(batch + keras.random.normal(ops.shape(batch)))

    def next_draw(rehearses):
        keras.utils.set_random_seed(3)
        step = Unseeded()
        if is_made:
            draws_of_keras()
        if rehearses:
            rehearse(step, "train_step", batch)
        return draws_of_keras()

    assert np.array_equal(next_draw(True), next_draw(False))


def test_lazy_layers_get_the_values_that_they_would_have_had(batch):
    def weights_of(rehearses):
        keras.utils.set_random_seed(3)
        step = Everything(is_built=False)
        if rehearses:
            rehearse(step, "train_step", batch)
            assert step.optimizer.built
        else:
            step.model(batch)
        return [w.tobytes() for w in step.model.get_weights()]

    assert weights_of(True) == weights_of(False)


def test_what_is_made_afterwards_is_what_it_would_have_been(batch):
    def weights_of(rehearses):
        keras.utils.set_random_seed(3)
        step = Everything()
        if rehearses:
            rehearse(step, "train_step", batch)
        later = keras.layers.Dense(2)
        later.build((None, FEATURES))
        return np.array(ops.convert_to_numpy(later.kernel))

    assert np.array_equal(weights_of(True), weights_of(False))


def test_fit_begins_where_the_step_stands(batch):
    """One step of `fit` on lazy layers is one step by hand on the same initial values."""
    keras.utils.set_random_seed(3)
    lazy = keras.Sequential([keras.layers.Dense(1, use_bias=False)])
    keras.utils.set_random_seed(3)
    built = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1, use_bias=False)])
    rate, x = 0.1, np.asarray(ops.convert_to_numpy(batch))
    before = built.get_weights()[0][:, 0]

    class Fitting(pg.Step):
        def __init__(self):
            self.model, self.optimizer = lazy, keras.optimizers.SGD(rate)

        def train_step(self, batch):
            objective = lambda: ops.mean(ops.square(self.model(batch)))  # noqa: E731
            return {"loss": self.minimize(objective, self.optimizer, self.model)}

    pg.fit(Fitting(), x, progress="off")

    slope = 2 * x.T @ (x @ before) / ROWS
    assert lazy.get_weights()[0][:, 0] == pytest.approx(before - rate * slope, rel=1e-5)


def test_each_optimizer_is_built_on_what_it_updates(batch):
    class Two(Everything):
        def __init__(self):
            super().__init__()
            self.optimizer = keras.optimizers.SGD(0.1, momentum=0.9)
            self.head = keras.optimizers.SGD(0.1)

        def train_step(self, batch):
            body, head = self.model.layers[0], self.model.layers[-1]
            objective = lambda: ops.mean(ops.square(self.model(batch)))  # noqa: E731
            self.minimize(objective, self.optimizer, body)
            return {"loss": self.minimize(objective, self.head, head)}

    step = Two()

    found = rehearse(step, "train_step", batch)

    assert {path: len(variables) for path, variables in found.updated.items()} == {
        "optimizer": 2,
        "head": 2,
    }
    slots = 2
    assert len(step.optimizer.variables) == len(step.head.variables) + slots
    (finding,) = uncovered_variables.check_rehearsals([found])
    assert finding.items == ("model/norm/gamma", "model/norm/beta")


def test_it_knows_what_a_step_writes(batch):
    step = Everything()
    names = {id(e.variable): e.name for e in track(step).entries}

    trained = {names[id(v)] for v in rehearse(step, "train_step", batch).written}
    measured = rehearse(step, "test_step", batch).written

    everything = set(names.values()) - {"optimizer/learning_rate"}
    assert trained == everything
    assert measured == []


def test_a_write_that_changes_no_bit_is_known_as_well(batch):
    class Keeping(pg.Step):
        def __init__(self):
            self.largest = keras.Variable(1e9, trainable=False)

        def test_step(self, batch):
            self.largest.assign(ops.maximum(self.largest, ops.max(batch)))
            return {}

    step = Keeping()

    assert rehearse(step, "test_step", batch).written == [step.largest]


def test_python_values_that_the_step_changes_are_volatile(batch):
    class Counting(pg.Step):
        def __init__(self):
            self.calls, self.rate = 0, 0.5

        def train_step(self, batch):
            self.calls += 1
            return {}

    assert rehearse(Counting(), "train_step", batch).volatile == {"calls"}


class Logging(pg.Step):
    """Updates metrics and logs what `logs(step, batch)` returns."""

    def __init__(self, logs):
        self.logs = logs
        self.precision = keras.metrics.Precision(name="precision")
        self.recall = keras.metrics.Recall(name="recall")

    def test_step(self, batch):
        for metric in (self.precision, self.recall):
            metric.update_state(ops.cast(batch[:, 0] > 0, "int32"), ops.sigmoid(batch[:, 1]))
        return self.logs(self, batch)


def f1(step, _):
    precision, recall = step.precision.result(), step.recall.result()
    return {"f1": 2 * precision * recall / (precision + recall + 1e-7)}


@pytest.mark.parametrize(
    ("logs", "kinds"),
    [
        (lambda step, x: {"v": ops.mean(x)}, {"v": "mean"}),
        (lambda step, x: {"precision": step.precision.result()}, {"precision": "last"}),
        (lambda step, x: {"other": step.recall.result()}, {"other": "last"}),
        (f1, {"f1": "last"}),
        (lambda step, x: {**f1(step, x), "v": ops.mean(x)}, {"f1": "last", "v": "mean"}),
        (
            lambda step, x: {"v": ops.mean(x) + 0.0 * step.recall.result()},
            {"v": "mean"},
        ),
    ],
    ids=["value", "result", "renamed", "derived", "both", "independent"],
)
def test_values_that_depend_on_metric_state_are_told_from_others(batch, logs, kinds):
    assert rehearse(Logging(logs), "test_step", batch).kinds == kinds


def test_a_result_is_known_by_itself_where_no_two_runs_agree(batch):
    runs = []

    class Unrepeatable(pg.Step):
        def __init__(self):
            self.average = keras.metrics.Mean(name="average")
            self.note = lambda: runs.append(1)

        def test_step(self, batch):
            self.note()
            self.average.update_state(float(len(runs)))
            return {"so_far": self.average.result(), "runs": float(len(runs))}

    kinds = rehearse(Unrepeatable(), "test_step", batch).kinds

    assert kinds == {"so_far": "last", "runs": "mean"}


def test_metrics_that_the_step_updates_are_known_by_name(batch):
    step = Logging(lambda step, x: {})
    step.unused = keras.metrics.Mean(name="unused")

    assert list(rehearse(step, "test_step", batch).metrics) == ["precision", "recall"]


def test_metrics_of_one_name_go_under_their_paths(batch):
    step = Logging(lambda step, x: {})
    step.inner = Logging(None)
    step.logs = lambda step, x: step.inner.precision.update_state([1], [1.0]) or {}

    found = rehearse(step, "test_step", batch).metrics

    assert sorted(found) == ["inner/precision", "precision", "recall"]


def test_observers_see_each_call_of_a_loss_before_it_runs(batch):
    class Calling(Everything):
        def __init__(self):
            super().__init__()
            self.losses = [keras.losses.MeanSquaredError(), keras.losses.MeanAbsoluteError()]

        def test_step(self, batch):
            y_pred = self.model(batch)
            zeros = ops.zeros((ROWS, 1))
            return {"loss": sum(loss(zeros, y_pred) for loss in self.losses)}

    step, seen = Calling(), []

    found = rehearse(step, "test_step", batch, observers=[seen.append])

    assert [call.loss for call in seen] == step.losses
    assert tuple(seen[0].y_pred.shape) == (ROWS, 1)
    assert found.called_losses
    assert not rehearse(Everything(), "test_step", batch).called_losses


def test_hooks_on_keras_are_taken_off_again(batch):
    owners = [keras.Layer, keras.Loss, keras.Metric, keras.Variable, keras.random.SeedGenerator]
    before = [dict(vars(owner)) for owner in owners]
    step = Everything()

    rehearse(step, "train_step", batch, accumulate=2)

    assert [dict(vars(owner)) for owner in owners] == before
    assert not {"update_state", "result"} & set(vars(step.average))
