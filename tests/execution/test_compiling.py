"""Compiled once, run many times, compiled anew when the Step changes; and what is logged."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee import _backends

ROWS, FEATURES, BATCH = 12, 3, 4


class Fitting(pg.Step):
    """Fits a model, and counts the runs of its Python code."""

    def __init__(self, runs, *between):
        self.model = keras.Sequential(
            [keras.Input((FEATURES,)), keras.layers.Dense(4), *between, keras.layers.Dense(1)]
        )
        self.optimizer = keras.optimizers.SGD(0.05)
        self.error = keras.metrics.MeanSquaredError(name="error")
        self.scale = 1.0
        self.note = lambda: runs.append(1)

    def train_step(self, batch):
        self.note()

        def objective():
            y_pred = self.model(batch, training=True)
            return self.scale * ops.mean(ops.square(y_pred - batch[:, :1])), y_pred

        loss, y_pred = self.minimize(objective, self.optimizer, self.model)
        self.error.update_state(batch[:, :1], y_pred)
        return {"loss": loss}

    def test_step(self, batch):
        self.note()
        return {"mean": ops.mean(self.model(batch))}


@pytest.fixture
def runs():
    return []


@pytest.fixture
def x():
    return np.random.normal(size=(ROWS, FEATURES)).astype("float32")


def fit(step, data, **arguments):
    arguments = {"batch_size": None if isinstance(data, list) else BATCH, **arguments}
    return pg.fit(step, data, seed=0, progress="off", **arguments)


def weights(step):
    return [np.asarray(w) for w in step.model.get_weights()]


def full(rate=0.5):
    """Return a Step with all that makes training random and stateful, always the same one."""
    keras.utils.set_random_seed(7)
    between = keras.layers.BatchNormalization(), keras.layers.Dropout(rate, seed=1)
    step = Fitting([], *between)
    # Adam would make steps out of the noise in the gradient of a bias that is normalized away.
    step.optimizer = keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True)
    return step


IS_EAGER = _backends.current().capabilities.modes[0] == "eager"
compiled = pytest.mark.skipif(IS_EAGER, reason="steps run as plain Python by default")


# Compiling.


@compiled
@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_fitting_again_compiles_nothing(x, runs, kind):
    data = x if kind == "arrays" else [x[:BATCH], x[BATCH:]]
    step = Fitting(runs)
    fit(step, data, epochs=2)
    once = len(runs)

    fit(step, data, epochs=2)

    assert once > 0
    assert len(runs) == once


@compiled
def test_evaluating_again_compiles_nothing(x, runs):
    step = Fitting(runs)
    fit(step, x)
    trained = len(runs)
    pg.evaluate(step, x, batch_size=BATCH)
    once = len(runs)

    pg.evaluate(step, x, batch_size=BATCH)
    fit(step, x, validation=x)

    assert len(runs) == once > trained


@pytest.mark.only_tensorflow
def test_a_ragged_last_batch_costs_no_second_trace(x):
    def python_runs(sizes):
        runs = []
        fit(Fitting(runs), [x[:size] for size in sizes])
        return len(runs)

    assert python_runs([4, 4, 3]) == python_runs([4, 4, 4])


@pytest.mark.only_tensorflow
def test_an_axis_that_varies_is_opened_once(x):
    def python_runs(lengths):
        runs = []

        class Summing(pg.Step):
            def train_step(self, batch):
                runs.append(1)
                return {"sum": ops.sum(batch, axis=1)}

        fit(Summing(), [np.ones((2, length), "float32") for length in lengths])
        return len(runs)

    one, several = python_runs([3, 3, 3, 3]), python_runs([3, 4, 5, 6])

    assert several == one + 1


CHANGES = {
    "trainable": lambda step: setattr(step.model.layers[0], "trainable", False),
    "attribute": lambda step: setattr(step, "scale", 0.0),
    "optimizer": lambda step: setattr(step, "optimizer", keras.optimizers.SGD(0.0)),
}


@compiled
@pytest.mark.parametrize("change", CHANGES)
def test_a_step_that_has_changed_is_compiled_again(x, runs, change):
    step = Fitting(runs)
    fit(step, x)
    once = len(runs)

    CHANGES[change](step)
    fit(step, x)

    assert len(runs) > once


def test_a_frozen_layer_is_not_trained_any_more(x, runs):
    step = Fitting(runs)
    fit(step, x)
    frozen, moving = step.model.layers[0], step.model.layers[-1]
    before = [np.array(ops.convert_to_numpy(layer.kernel)) for layer in (frozen, moving)]

    frozen.trainable = False
    fit(step, x)

    assert np.array_equal(frozen.kernel, before[0])
    assert not np.array_equal(moving.kernel, before[1])


def test_a_new_value_of_an_attribute_is_used(x, runs):
    step = Fitting(runs)
    first = fit(step, x).history["loss"]
    before = weights(step)

    step.scale = 0.0
    again = fit(step, x).history["loss"]

    assert first != [0.0]
    assert again == [0.0]
    assert np.array_equal(weights(step)[0], before[0])


def test_a_new_optimizer_is_used(x, runs):
    step = Fitting(runs)
    fit(step, x)
    old = int(ops.convert_to_numpy(step.optimizer.iterations))

    former, step.optimizer = step.optimizer, keras.optimizers.SGD(0.0)
    before = weights(step)
    fit(step, x)

    assert int(ops.convert_to_numpy(former.iterations)) == old
    assert np.array_equal(weights(step)[0], before[0])


@compiled
def test_a_step_changes_between_epochs_and_is_compiled_for_the_next(x, runs):
    class Freezing(pg.Hook):
        def on_record(self, event):
            if event.clock.epoch == 1:
                step.model.layers[0].trainable = False
                frozen.append(np.array(step.model.layers[0].kernel))

    step, frozen = Fitting(runs), []

    fit(step, x, epochs=3, callbacks=[Freezing()])

    assert np.array_equal(step.model.layers[0].kernel, frozen[0])


@compiled
def test_a_counter_that_the_step_itself_keeps_compiles_nothing(x):
    class Counting(pg.Step):
        def __init__(self):
            self.calls = 0

        def train_step(self, batch):
            self.calls += 1
            return {"mean": ops.mean(batch)}

    step = Counting()
    fit(step, [x, x])
    once = step.calls

    fit(step, [x, x])

    assert step.calls == once


@compiled
def test_a_new_learning_rate_takes_effect_without_compiling(x, runs):
    step = Fitting(runs)
    fit(step, x)
    once, before = len(runs), weights(step)

    step.optimizer.learning_rate = 0.0
    history = fit(step, x)

    assert len(runs) == once
    assert history.history["learning_rate"] == [0.0]
    assert np.array_equal(weights(step)[0], before[0])


@pytest.mark.only_tensorflow
def test_python_branches_over_tensors_are_compiled(x):
    class Branching(pg.Step):
        def train_step(self, batch):
            total = ops.zeros(())
            for row in batch:
                if row[0] > 0:
                    total += 1.0
            return {"share": total / ops.cast(ops.shape(batch)[0], "float32")}

    logged = fit(Branching(), x, execution="graph").history["share"]

    assert logged == [pytest.approx(np.mean(x[:, 0] > 0))]


def test_batches_of_another_structure_have_their_own_program(x):
    class Any(pg.Step):
        def test_step(self, batch):
            return {"mean": ops.mean(ops.cast(keras.tree.flatten(batch)[0], "float32"))}

    step = Any()

    for data in (x, {"x": x}, (x, x[:, 0]), x.astype("int32")):
        first = keras.tree.flatten(data)[0]
        assert pg.evaluate(step, data)["mean"] == pytest.approx(first.mean(), abs=1e-6)


# Ways to run.

CLOSE = {"rtol": 2e-4, "atol": 2e-5}


@pytest.mark.parametrize("mode", _backends.current().capabilities.modes[1:])
def test_every_way_to_run_comes_to_the_same(x, mode):
    # Under XLA TensorFlow draws other random numbers, so there nothing is dropped.
    rate = 0.0 if mode == "xla" else 0.5
    one, other = full(rate), full(rate)

    histories = [
        fit(one, x, epochs=2).history,
        fit(other, x, epochs=2, execution=pg.Execution(mode)).history,
    ]

    for ours, theirs in zip(weights(one), weights(other), strict=True):
        assert np.allclose(ours, theirs, **CLOSE)
    assert histories[0].keys() == histories[1].keys()
    for name, values in histories[0].items():
        assert np.allclose(values, histories[1][name], **CLOSE)


@pytest.mark.parametrize("rows", [ROWS, ROWS - 1], ids=["even", "ragged"])
def test_arrays_come_to_the_same_as_their_batches(x, rows):
    """Over arrays many steps may go into one call; a list of batches takes one call a step."""
    one, other = full(), full()
    batches = [x[start : min(start + BATCH, rows)] for start in range(0, rows, BATCH)]

    history = fit(one, x[:rows], epochs=3, shuffle=False)
    again = fit(other, batches, epochs=3)

    for ours, theirs in zip(weights(one), weights(other), strict=True):
        assert np.allclose(ours, theirs, **CLOSE)
    for name, values in history.history.items():
        assert np.allclose(values, again.history[name], **CLOSE)


@pytest.mark.parametrize("given", ["auto", pg.Execution(), pg.Execution("auto")], ids=repr)
def test_the_default_is_the_usual_plan_of_the_framework(x, given):
    history = fit(Fitting([]), x, execution=given)

    usual = _backends.current().capabilities.plans[0]
    assert (history.plan.mode, history.plan.is_fused) == usual
    assert history.plan.origin == "usual"


# What is logged.


class Scoring(pg.Step):
    """Updates metrics from `(labels, scores)` batches and logs what `logs(step, batch)` returns."""

    def __init__(self, logs=lambda step, batch: {}):
        self.logs = logs
        self.precision = keras.metrics.Precision(name="precision")
        self.recall = keras.metrics.Recall(name="recall")

    def train_step(self, batch):
        for metric in (self.precision, self.recall):
            metric.update_state(*batch)
        return self.logs(self, batch)

    test_step = train_step


@pytest.fixture
def scored():
    labels = np.array([1, 1, 0, 0, 1, 0, 1], "int32")
    scores = np.array([0.9, 0.8, 0.7, 0.1, 0.2, 0.6, 0.9], "float32")
    return labels, scores


PRECISION, RECALL = 3 / 5, 3 / 4


def logged(step, data, by, batch_size=3):
    if by is pg.evaluate:
        return pg.evaluate(step, data, batch_size=batch_size)
    history = pg.fit(step, data, epochs=2, batch_size=batch_size, shuffle=False, progress="off")
    assert all(len(values) == 2 and values[0] == values[1] for values in history.history.values())
    return {name: values[-1] for name, values in history.history.items()}


by = pytest.mark.parametrize("by", [pg.fit, pg.evaluate])


@by
def test_what_is_computed_from_a_share_is_read_at_the_end(scored, by):
    class Percent(Scoring):
        def __init__(self):
            super().__init__()
            self.above = keras.metrics.Mean(name="above")

        def train_step(self, batch):
            self.above.update_state(ops.cast(batch[1] > 0.15, "float32"))
            return {"percent": 100 * self.above.result()}

        test_step = train_step

    # Of the first batch it is 3 of 3, as 6 of 6 would be.
    assert logged(Percent(), scored, by)["percent"] == pytest.approx(100 * 6 / 7)


@by
def test_updated_metrics_are_logged_without_being_returned(scored, by):
    assert logged(Scoring(), scored, by) == pytest.approx(
        {"precision": PRECISION, "recall": RECALL}
    )


@by
def test_a_returned_result_is_read_at_the_end_and_not_averaged(scored, by):
    step = Scoring(lambda step, _: {"precision": step.precision.result()})

    assert logged(step, scored, by)["precision"] == pytest.approx(PRECISION)


@by
def test_a_value_derived_from_results_is_read_at_the_end(scored, by):
    def f1(step, _):
        precision, recall = step.precision.result(), step.recall.result()
        return {"f1": 2 * precision * recall / (precision + recall)}

    expected = 2 * PRECISION * RECALL / (PRECISION + RECALL)
    assert logged(Scoring(f1), scored, by)["f1"] == pytest.approx(expected)


@by
def test_values_beside_results_are_averaged_all_the_same(scored, by):
    step = Scoring(lambda s, batch: {"p": s.precision.result(), "score": ops.mean(batch[1])})

    found = logged(step, scored, by)

    assert found["p"] == pytest.approx(PRECISION)
    assert found["score"] == pytest.approx(scored[1].mean())


@by
def test_two_metrics_of_one_name_go_under_their_paths(scored, by):
    step = Scoring(lambda step, batch: step.inner.train_step(batch))
    step.inner = Scoring()

    found = logged(step, scored, by)

    assert found == pytest.approx(
        {
            "precision": PRECISION,
            "recall": RECALL,
            "inner/precision": PRECISION,
            "inner/recall": RECALL,
        }
    )


@by
def test_a_metric_that_is_not_updated_is_absent(scored, by):
    step = Scoring()
    step.unused = keras.metrics.Mean(name="unused")

    assert "unused" not in logged(step, scored, by)


class Extremes(keras.metrics.Metric):
    """The smallest and the largest value, as a dict."""

    def __init__(self):
        super().__init__(name="extremes")
        self.low = self.add_variable(
            (), initializer=keras.initializers.Constant(np.inf), name="low"
        )
        self.high = self.add_variable((), initializer="zeros", name="high")

    def update_state(self, values):
        self.low.assign(ops.minimum(self.low, ops.min(values)))
        self.high.assign(ops.maximum(self.high, ops.max(values)))

    def result(self):
        return {"low": ops.convert_to_tensor(self.low), "high": ops.convert_to_tensor(self.high)}

    def reset_state(self):
        self.low.assign(np.inf)
        self.high.assign(0.0)


@by
def test_a_result_of_several_values_is_logged_value_by_value(scored, by):
    class Several(Scoring):
        def __init__(self):
            super().__init__()
            self.extremes = Extremes()
            self.f1 = keras.metrics.F1Score(name="f1", threshold=0.5)

        def train_step(self, batch):
            labels, scores = batch
            self.extremes.update_state(scores)
            both = ops.stack([labels, 1 - labels], axis=1)
            self.f1.update_state(both, ops.stack([scores, 1 - scores], axis=1))
            return {}

        test_step = train_step

    found = logged(Several(), scored, by)

    positive = 2 * PRECISION * RECALL / (PRECISION + RECALL)
    negative = 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)
    assert found == pytest.approx(
        {"extremes/low": 0.1, "extremes/high": 0.9, "f1/0": positive, "f1/1": negative}
    )


@by
def test_a_step_may_log_nothing(by):
    class Silent(pg.Step):
        def train_step(self, batch):
            return {}

        test_step = train_step

    assert logged(Silent(), np.zeros((4, 1), "float32"), by) == {}


def schedule():
    return keras.optimizers.schedules.PiecewiseConstantDecay([2, 5], [0.03, 0.02, 0.01])


def test_the_learning_rate_is_logged_as_it_stands_at_the_end(x):
    step = Fitting([])
    step.optimizer = keras.optimizers.SGD(schedule())

    rates = fit(step, x, epochs=3).history["learning_rate"]

    assert rates == pytest.approx([0.02, 0.01, 0.01])


def test_the_learning_rates_of_two_optimizers_go_under_their_paths(x):
    class Two(Fitting):
        def __init__(self):
            super().__init__([])
            self.body = keras.optimizers.SGD(schedule())
            self.heads = [keras.optimizers.SGD(0.04)]
            del self.optimizer

        def train_step(self, batch):
            objective = lambda: ops.mean(ops.square(self.model(batch)))  # noqa: E731
            first, *_, last = self.model.trainable_variables
            self.minimize(objective, self.body, [first])
            return {"loss": self.minimize(objective, self.heads[0], [last])}

    step = Two()
    for layer in step.model.layers:
        layer.trainable = layer in (step.model.layers[0], step.model.layers[-1])
    step.model.layers[0].bias.trainable = step.model.layers[-1].kernel.trainable = False

    history = fit(step, x, epochs=2).history

    assert "learning_rate" not in history
    assert history["body/learning_rate"] == pytest.approx([0.02, 0.01])
    assert history["heads/0/learning_rate"] == pytest.approx([0.04, 0.04])
