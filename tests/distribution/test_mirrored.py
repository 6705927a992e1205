"""Several replicas: the same updates and the same logs as on one device."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee.writers.json_lines import read_json_lines
from tests.backends.problems import BATCH, PROBLEMS
from tests.backends.problems._problem import clusters, dense_model, fix_weights, points
from tests.backends.problems.predicting import Classifier, Regression
from tests.backends.run_problem import train
from tests.backends.trajectories import distance
from tests.distribution.problems import COMPILED, SOLVED_IN_SHARES, first_epoch, ragged
from tests.distribution.strategies import (
    assert_alike,
    assert_copies_agree,
    made,
    mirrored,
    trained,
)

pytestmark = pytest.mark.only_tensorflow

IN_SHARES = 7  # 4 and 3 of two replicas
ROWS = 22  # four batches, the last one of a single row


def small(rows=ROWS):
    x, y = points(rows)
    return x, y


class Line(pg.Step):
    """A regression whose objective is given.

    Args:
        objective: Of the Step, inputs and labels.
        optimizer: Of the model.
        model: From points to numbers.
    """

    def __init__(self, objective, optimizer=None, model=None):
        self.model = model or dense_model(3, 4, 1, name="line")
        self.optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
        self.squares = keras.losses.MeanSquaredError()
        self.objective = Held(objective)

    def train_step(self, batch):
        x, y = batch
        return {"loss": self.minimize(lambda: self.objective(self, x, y), self.optimizer)}


class Held:
    """A function that is no part of a Step's state."""

    def __init__(self, function):
        self.function = function

    def __call__(self, *arguments):
        return self.function(*arguments)


def squares(step, x, y):
    return ops.square(y - step.model(x, training=True))[:, 0]


@pytest.mark.tried("the updates and logs of one device, ragged batches included", mirrored="works")
@pytest.mark.slow
@pytest.mark.parametrize("name", SOLVED_IN_SHARES)
def test_replicas_train_as_one_device_does(name):
    problem = first_epoch(ragged(SOLVED_IN_SHARES[name]))
    alone = train(problem, made(problem.make_step, 1), execution=pg.Execution("eager"))
    for count in (2, 4):
        mode = "graph" if count == 2 and name in COMPILED else "eager"
        step = made(problem.make_step, count)

        found = distance(alone, train(problem, step, execution=pg.Execution(mode, 1)))

        assert found.first <= problem.tolerance.first, (count, found.places)
        assert found.later <= problem.tolerance.later, (count, found.places)
        assert found.weights <= problem.tolerance.weights, (count, found.places)
        assert_copies_agree(step)


@pytest.mark.tried("gradients for variables inside another objective", mirrored="works")
def test_inner_gradients_of_shares_are_those_of_the_batch():
    """Also where the last batch has fewer rows than there are replicas."""
    problem = PROBLEMS["inner step"]
    data = keras.tree.map_structure(lambda array: array[:9], problem.data)
    arguments = {"batch_size": 4, "epochs": 2}

    alone = trained(problem.make_step, data, 1, **arguments)

    assert_alike(alone, trained(problem.make_step, data, 2, **arguments))


OBJECTIVES = {
    "a loss object": lambda s, x, y: s.squares(y, s.model(x, training=True)),
    "a function": lambda s, x, y: ops.mean(ops.square(y - s.model(x, training=True))),
    "a vector": squares,
    "a weighted mean": lambda s, x, y: pg.mean(squares(s, x, y), weights=ops.abs(x[:, 0])),
    "an unweighted mean": lambda s, x, y: pg.mean(ops.square(y - s.model(x, training=True))),
    "means of different counts": lambda s, x, y: (
        pg.mean(squares(s, x, y), weights=ops.cast(x[:, 0] > 0, "float32"))
        + 0.5 * pg.mean(squares(s, x, y))
        + 0.1 * ops.mean(ops.abs(y))
    ),
    "an object, a function and a penalty": lambda s, x, y: (
        s.squares(y, s.model(x, training=True))
        + 0.5 * ops.mean(ops.abs(y - s.model(x, training=True)))
        + 0.01 * sum(ops.sum(ops.square(v)) for v in s.model.trainable_variables)
    ),
    "an object with weights": lambda s, x, y: s.squares(
        y, s.model(x, training=True), sample_weight=ops.abs(x[:, :1])
    ),
}


@pytest.mark.spread(3)
@pytest.mark.tried(
    "loss objects, functions, vectors, `pg.mean`, and sums of them", mirrored="works"
)
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_e7_every_kind_of_loss_is_that_of_the_whole_batch(kind):
    def make():
        return Line(OBJECTIVES[kind])

    arguments = {"batch_size": IN_SHARES, "epochs": 2}

    alone = trained(make, small(), 1, **arguments)

    assert_alike(alone, trained(make, small(), 2, **arguments))


@pytest.mark.tried("regularizers and `add_loss`", mirrored="works")
def test_e8_weight_penalties_and_added_losses_count_once():
    @keras.saving.register_keras_serializable("distribution")
    class Activity(keras.layers.Layer):
        def call(self, x):
            self.add_loss(0.05 * ops.mean(ops.square(x)))
            return x

    def make():
        layers = [
            keras.layers.Dense(4, kernel_regularizer=keras.regularizers.L2(0.1)),
            Activity(),
            keras.layers.Dense(1, activity_regularizer=keras.regularizers.L1(0.1)),
        ]
        model = keras.Sequential([keras.Input((3,)), *layers], name="line")
        fix_weights(model)
        return Line(OBJECTIVES["a loss object"], model=model)

    arguments = {"batch_size": IN_SHARES, "epochs": 2}

    alone = trained(make, small(), 1, **arguments)

    assert_alike(alone, trained(make, small(), 2, **arguments))


def test_replicas_that_take_turns_within_an_objective_keep_their_added_losses_apart():
    def make():
        layers = [
            keras.layers.Dense(4, activity_regularizer=keras.regularizers.L2(0.3)),
            keras.layers.BatchNormalization(synchronized=True),  # where they wait for each other
            keras.layers.Dense(1, activity_regularizer=keras.regularizers.L2(0.2)),
        ]
        model = keras.Sequential([keras.Input((3,)), *layers], name="line")
        fix_weights(model)
        return Line(OBJECTIVES["a loss object"], model=model)

    arguments = {"batch_size": IN_SHARES, "epochs": 2}
    add_loss = keras.Layer.add_loss

    alone = trained(make, small(), 1, **arguments)

    assert_alike(alone, trained(make, small(), 2, **arguments))
    assert keras.Layer.add_loss is add_loss


def test_e9_what_is_reported_is_the_loss_of_the_whole_batch():
    """Trained without learning anything, and measured, it is the same number."""

    def make():
        model = dense_model(3, 4, 1, name="line")
        return pg.Supervised(model, keras.optimizers.SGD(0.0), keras.losses.MeanSquaredError())

    x, y = small(ROWS)

    found = trained(make, (x, y), 2, batch_size=IN_SHARES)

    expected = np.mean(np.square(y - keras.ops.convert_to_numpy(made(make, 1).model(x))))
    measured = pg.evaluate(found.step, (x, y), batch_size=IN_SHARES)
    np.testing.assert_allclose([*found["loss"], measured["loss"]], expected, rtol=1e-5)


def test_a_batch_may_have_fewer_rows_than_there_are_replicas():
    def make():
        model = dense_model(3, 4, 1, name="line")
        mean = keras.metrics.MeanAbsoluteError(name="error")
        optimizer, loss = keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError()
        return pg.Supervised(model, optimizer, loss, metrics=[mean])

    arguments = {"batch_size": 8, "epochs": 1, "execution": "eager"}

    alone = trained(make, small(17), 1, **arguments)

    assert_alike(alone, trained(make, small(17), 2, **arguments))


@pytest.mark.spread(1)
@pytest.mark.tried("clipping of the reduced gradient", mirrored="works")
@pytest.mark.parametrize("clipping", ["clipnorm", "global_clipnorm", "clipvalue"])
def test_e3_what_is_clipped_is_the_gradient_of_the_whole_batch(clipping):
    def make():
        return Line(squares, keras.optimizers.SGD(0.1, **{clipping: 0.05}))

    arguments = {"batch_size": IN_SHARES, "epochs": 2}

    alone = trained(make, small(), 1, **arguments)

    assert_alike(alone, trained(make, small(), 2, **arguments))


@pytest.mark.tried("embeddings", mirrored="works")
def test_a_table_of_embeddings_is_updated_as_on_one_device():
    def make():
        layers = [
            keras.layers.Embedding(9, 4),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1),
        ]
        model = keras.Sequential([keras.Input((5,), dtype="int32"), *layers], name="words")
        fix_weights(model)
        return Line(squares, keras.optimizers.Adam(0.05, clipnorm=0.1), model)

    words = np.random.default_rng(3).integers(9, size=(ROWS, 5)).astype("int32")
    data, arguments = (words, small()[1]), {"batch_size": IN_SHARES, "epochs": 2}

    alone = trained(make, data, 1, **arguments)

    assert_alike(alone, trained(make, data, 2, **arguments))


@pytest.mark.tried("loss scaling", mirrored="works")
def test_e4_a_share_that_is_infinite_lowers_the_scale_and_changes_no_weight():
    def make():
        layers = [keras.layers.Dense(1, dtype="mixed_float16")]
        model = keras.Sequential([keras.Input((3,)), *layers], name="half")
        fix_weights(model)
        return Line(OBJECTIVES["a loss object"], model=model)

    x, y = points(8)
    y[-1] = np.inf  # in the share of the second replica
    before = made(make, 2).model.get_weights()

    with pytest.raises(pg.PerigeeError, match=r"PG4.*inf"):
        trained(make, (x, y), 2, batch_size=8, shuffle=False)
    step = made(make, 2)
    pg.fit(step, (x, y), batch_size=8, shuffle=False, nonfinite="stop", progress="off")

    scales = step._perigee.loss_scale.variables
    assert all(np.array_equal(a, b) for a, b in zip(before, step.model.get_weights(), strict=True))
    assert float(scales["loss_scale/scale"].numpy()) == 2.0**14
    assert int(step.optimizer.iterations.numpy()) == 0


@pytest.mark.tried('`nonfinite="skip"`', mirrored="works")
@pytest.mark.parametrize("execution", ["eager", "graph"])
def test_nan_in_one_share_leaves_everything_bit_identical_under_skip(execution):
    class Measured(Classifier):
        def __init__(self):
            layers = [
                keras.layers.Dense(6),
                keras.layers.BatchNormalization(),
                keras.layers.Dropout(0.2),
                keras.layers.Dense(3),
            ]
            model = keras.Sequential([keras.Input((4,)), *layers], name="all")
            super().__init__(model, keras.optimizers.Adam(0.01, use_ema=True))

    x, y = clusters(8)
    step = made(Measured, 2)
    arguments = {"batch_size": 8, "nonfinite": "skip", "shuffle": False, "progress": "off"}
    arguments["execution"] = execution
    pg.fit(step, (x, y), **arguments)
    from tests.distribution.strategies import copies

    before = copies(step)
    x[6] = np.nan  # one row

    history = pg.fit(step, (x, y), **arguments)

    after = copies(step)
    metrics = ("accuracy/", "margin/")  # reset when a pass begins
    kept = [key for key in before if not key.startswith(metrics)]
    assert history.history["skipped_steps"] == [1.0]
    assert len(kept) > 20
    for key in kept:
        for old, new in zip(before[key], after[key], strict=True):
            assert old.tobytes() == new.tobytes(), key


@pytest.mark.tried("Dropout: other masks on each replica, the same in each run", mirrored="works")
def test_e10_masks_of_dropout_differ_between_replicas_and_repeat_themselves():
    class Masks(pg.Step):
        def __init__(self):
            self.dropout = keras.layers.Dropout(0.5, seed=3)

        def predict_step(self, batch):
            return self.dropout(batch, training=True)

    ones = np.ones((8, 16), "float32")

    first, again = (pg.predict(made(Masks, 2), ones, batch_size=8) for _ in range(2))

    assert np.array_equal(first, again)
    assert not np.array_equal(first[:4], first[4:])


@pytest.mark.slow
def test_two_trainings_with_random_layers_agree_bit_for_bit():
    problem = PROBLEMS["batch statistics and dropout"]
    arguments = {"batch_size": BATCH, "epochs": 2}

    first, again = (trained(problem.make_step, problem.data, 2, **arguments) for _ in range(2))

    assert first.history.history == again.history.history
    for key, value in first.values.items():
        assert value.tobytes() == again.values[key].tobytes(), key
    assert_copies_agree(first.step)


@pytest.mark.spread(1)
@pytest.mark.tried(
    "fewer rows than replicas; BatchNormalization of shares and synchronized", mirrored="works"
)
@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("is_synchronized", [False, True])
def test_e13_fewer_rows_than_replicas_disturb_no_statistics(count, is_synchronized):
    def make():
        layers = [
            keras.layers.Conv1D(4, 2),
            keras.layers.BatchNormalization(synchronized=is_synchronized),
            keras.layers.MaxPooling1D(2),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
        model = keras.Sequential([keras.Input((5, 3)), *layers], name="line")
        fix_weights(model)
        return Regression(model, keras.optimizers.SGD(0.05))

    random = np.random.default_rng(5)
    x = random.normal(size=(9, 5, 3)).astype("float32")
    data = x, x[:, 0, :1]
    arguments = {"batch_size": 4, "epochs": 2, "shuffle": False}  # of 4, 4 and 1 rows

    many = trained(make, data, count, **arguments)

    assert np.isfinite(many["loss"]).all()
    assert all(np.isfinite(value).all() for value in many.values.values())
    assert_copies_agree(many.step)
    if is_synchronized:
        assert_alike(trained(make, data, 1, **arguments), many)


class Noisy(Classifier):
    """Normalizes by the statistics of its rows, drops some of their features, and has metrics."""

    def __init__(self):
        layers = [
            keras.layers.Conv1D(4, 2),
            keras.layers.BatchNormalization(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3, seed=11),
            keras.layers.BatchNormalization(synchronized=True),  # of what all replicas have drawn
            keras.layers.Dense(3, kernel_regularizer=keras.regularizers.L2(0.1)),
        ]
        model = keras.Sequential([keras.Input((4,)), keras.layers.Reshape((4, 1)), *layers])
        fix_weights(model)
        super().__init__(model, keras.optimizers.Adam(0.01, global_clipnorm=0.1))

    def predict_step(self, batch):
        return self.model(batch[0], training=False)


@pytest.mark.spread(1)
@pytest.mark.parametrize(
    ("count", "rows", "arguments"),
    [
        (4, 3, {"accumulate": 2, "validation": clusters(3)}),
        (2, 1, {"execution": "graph", "nonfinite": "skip"}),
    ],
    ids=["eager", "graph"],
)
def test_a_batch_of_fewer_rows_than_replicas_is_that_of_one_device(count, rows, arguments):
    """Draws, statistics of shares, sums of metrics and predictions included."""
    data = clusters(2 * rows)
    arguments = {"batch_size": rows, "epochs": 2, **arguments}

    alone, many = (trained(Noisy, data, n, **arguments) for n in (1, count))

    assert_alike(alone, many, 1e-6)
    for key, value in alone.values.items():
        np.testing.assert_allclose(many.values[key], value, rtol=1e-6, atol=1e-6, err_msg=key)
    assert_copies_agree(many.step)
    ours, theirs = (pg.predict(found.step, data, batch_size=rows) for found in (many, alone))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.tried("BatchNormalization of shares: statistics averaged", mirrored="works")
def test_statistics_of_shares_are_averaged_by_their_sizes():
    momentum = 0.9

    class Statistics(pg.Step):
        def __init__(self):
            self.layer = keras.layers.BatchNormalization(momentum=momentum)
            self.layer.build((None, 3))
            self.optimizer = keras.optimizers.SGD(0.0)

        def train_step(self, batch):
            return {
                "loss": self.minimize(
                    lambda: ops.mean(self.layer(batch, training=True)), self.optimizer, self.layer
                )
            }

    x = np.random.default_rng(1).normal(size=(IN_SHARES, 3)).astype("float32")

    step = trained(Statistics, x, 2, batch_size=IN_SHARES, shuffle=False).step

    means = [x[:4].mean(0), x[4:].mean(0)]
    expected = (1 - momentum) * (4 * means[0] + 3 * means[1]) / 7
    np.testing.assert_allclose(step.layer.moving_mean.numpy(), expected, rtol=1e-5, atol=1e-7)
    assert_copies_agree(step)


@pytest.mark.tried("models and optimizers that are not built yet", mirrored="works")
def test_e23_an_optimizer_and_layers_that_are_not_built_are_built_in_the_scope():
    def make():
        model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(1)])
        return Regression(model, keras.optimizers.Adam(0.01))

    found = trained(make, small(), 2, batch_size=IN_SHARES)

    assert found.step.optimizer.built
    assert_copies_agree(found.step)


@pytest.mark.tried("many steps in one call", mirrored="works")
def test_e11_blocks_and_single_steps_are_the_same_to_the_bit():
    def make():
        return Line(squares, keras.optimizers.Adam(0.01))

    runs = [
        trained(make, small(), 2, batch_size=IN_SHARES, epochs=3, execution=execution)
        for execution in (pg.Execution("graph", 1), pg.Execution("graph", 32))
    ]

    single, fused = runs
    assert single.history.history == fused.history.history
    for key, value in single.values.items():
        assert value.tobytes() == fused.values[key].tobytes(), key


@pytest.mark.spread(1)
@pytest.mark.tried("`accumulate`", mirrored="works")
@pytest.mark.parametrize("accumulate", [2, 3])
def test_e5_micro_batches_are_accumulated_over_replicas(accumulate):
    def make():
        return Line(squares, keras.optimizers.Adam(0.01, global_clipnorm=0.1))

    arguments = {"batch_size": IN_SHARES, "epochs": 2, "accumulate": accumulate}

    alone = trained(make, small(), 1, **arguments)

    assert_alike(alone, trained(make, small(), 2, **arguments))


class Conditional(pg.Step):
    """Applies its update only where a condition on the share holds."""

    def __init__(self):
        self.model = dense_model(3, 4, 1, name="line")
        self.optimizer = keras.optimizers.Adam(0.01)

    def train_step(self, batch):
        x, y = batch
        gradients = self.gradients(lambda: squares(self, x, y), self.model)
        self.apply(self.optimizer, gradients, when=ops.all(x[:, 0] < 100.0))
        return {"loss": gradients.returned}


@pytest.mark.tried("`apply(when=...)`", mirrored="works")
def test_a_condition_must_hold_on_every_replica_that_has_rows():
    x, y = points(8)
    bad = x.copy()
    bad[-1, 0] = 1000.0  # in the share of the second replica
    step = made(Conditional, 2)
    arguments = {"batch_size": 8, "shuffle": False, "execution": "eager", "progress": "off"}
    pg.fit(step, (x, y), **arguments)
    before = step.model.get_weights()

    pg.fit(step, (bad, y), **arguments)
    left_out = step.model.get_weights()
    pg.fit(step, (x[:1], y[:1]), **arguments)

    assert all(np.array_equal(a, b) for a, b in zip(before, left_out, strict=True))
    assert int(step.optimizer.iterations.numpy()) == 2


class Logging(Conditional):
    """Logs a value that no update depends on."""

    def train_step(self, batch):
        x, y, logged = batch
        gradients = self.gradients(lambda: squares(self, x, y), self.model)
        self.apply(self.optimizer, gradients)
        return {"loss": gradients.returned, "logged": logged}


def test_nan_that_one_replica_logs_keeps_all_of_them_as_they_were():
    x, y = points(8)
    logged = np.zeros(8, "float32")
    logged[-1] = np.nan  # in the share of the second replica

    found = trained(Logging, (x, y, logged), 2, batch_size=8, shuffle=False, nonfinite="skip")

    assert found["skipped_steps"] == [1.0]
    assert int(found.step.optimizer.iterations.numpy()) == 0
    assert_copies_agree(found.step)


class WithResult(Classifier):
    """Returns the result of a metric, as Keras's users do."""

    def train_step(self, batch):
        return {**super().train_step(batch), "so_far": self.margin.result()}


@pytest.mark.tried("metrics, their results returned by a step, validation", mirrored="works")
def test_metrics_are_global_and_their_results_too():
    def make():
        return WithResult(dense_model(4, 6, 3, name="classes"), keras.optimizers.Adam(0.01))

    data, arguments = clusters(ROWS), {"batch_size": IN_SHARES, "epochs": 2}

    alone = trained(make, data, 1, validation=clusters(9), **arguments)

    assert "so_far" in alone.history.history and "val_accuracy" in alone.history.history
    assert_alike(alone, trained(make, data, 2, validation=clusters(9), **arguments))


def test_results_within_an_epoch_are_those_of_one_device(tmp_path):
    def make():
        return WithResult(dense_model(4, 6, 3, name="classes"), keras.optimizers.Adam(0.01))

    def windows(count, execution):
        folder = tmp_path / f"{count}"
        run = pg.Run(folder, record_every=pg.Every(steps=2))
        arguments = {"batch_size": IN_SHARES, "epochs": 2, "run": run, "execution": execution}
        trained(make, clusters(ROWS), count, **arguments)
        lines = read_json_lines(folder / "metrics.jsonl")
        return {line["step"]: line["values"] for line in lines if line["kind"] == "steps"}

    alone, both = windows(1, "eager"), windows(2, pg.Execution("graph", 4))

    names = {"running/accuracy", "running/margin", "running/so_far"}
    assert list(alone) == list(both) == [2, 4, 6, 8]
    for step, values in alone.items():
        assert names <= values.keys()
        assert both[step] == pytest.approx(values, rel=1e-4)


@pytest.mark.tried("returned values computed from the result of a metric", mirrored="refused")
def test_what_is_computed_from_the_result_of_a_metric_is_refused():
    class Percent(Classifier):
        def train_step(self, batch):
            return {**super().train_step(batch), "percent": 100 * self.margin.result()}

    def make():
        return Percent(dense_model(4, 6, 3, name="classes"), keras.optimizers.Adam(0.01))

    with pytest.raises(pg.PerigeeError, match=r"PG451.*'percent'"):
        trained(make, clusters(ROWS), 2, batch_size=IN_SHARES)


class Showing(Conditional):
    """Shows the numbers of its rows."""

    def train_step(self, batch):
        x, y, numbers = batch
        return {**super().train_step((x, y)), "rows": pg.sample(text=numbers)}


@pytest.mark.tried("`pg.sample`", mirrored="refused")
def test_samples_of_shares_are_refused():
    numbers = np.arange(IN_SHARES, dtype="int32").reshape(-1, 1)

    with pytest.raises(pg.PerigeeError, match=r"PG451.*shows rows"):
        trained(Showing, (*small(IN_SHARES), numbers), 2, batch_size=IN_SHARES)


@pytest.mark.tried("`evaluate` and `predict`", mirrored="works")
def test_predictions_and_evaluations_are_those_of_one_device():
    class Predicting(Classifier):
        def predict_step(self, batch):
            x, _ = batch
            return {"logits": self.model(x, training=False)}

    def make():
        return Predicting(dense_model(4, 6, 3, name="classes"), keras.optimizers.Adam(0.01))

    alone, many = made(make, 1), made(make, 2)
    data = clusters(ROWS)

    ours, theirs = (pg.predict(step, data, batch_size=IN_SHARES) for step in (many, alone))
    measured, expected = (pg.evaluate(step, data, batch_size=IN_SHARES) for step in (many, alone))

    np.testing.assert_allclose(ours["logits"], theirs["logits"], rtol=1e-6, atol=1e-6)
    assert measured == pytest.approx(expected, rel=1e-5)


@pytest.mark.spread(1)
@pytest.mark.tried("`tf.data`, iterables and generators", mirrored="works")
@pytest.mark.parametrize("kind", ["tf.data", "iterable", "generator"])
def test_e12_every_kind_of_data_is_split(kind):
    """Also where the first batch does not divide."""
    import tensorflow as tf

    x, y = small()
    batches = [(x[i : i + IN_SHARES], y[i : i + IN_SHARES]) for i in range(0, ROWS, IN_SHARES)]
    data = {
        "tf.data": tf.data.Dataset.from_tensor_slices((x, y)).batch(IN_SHARES),
        "iterable": batches,
        "generator": lambda: iter(batches),
    }[kind]

    def make():
        return Line(squares)

    alone = trained(make, (x, y), 1, batch_size=IN_SHARES, shuffle=False, epochs=2)

    assert_alike(alone, trained(make, data, 2, epochs=2))


@pytest.mark.spread(1)
@pytest.mark.tried(
    "runs that resume, to the bit, or with another number of replicas", mirrored="works"
)
@pytest.mark.parametrize("counts", [(2, 2), (2, 1), (1, 2)])
def test_a_run_goes_on_with_as_many_replicas_or_others(tmp_path, counts):
    def make():
        model = dense_model(4, 6, 3, name="classes")
        return Classifier(model, keras.optimizers.Adam(0.01))

    data, arguments = clusters(3 * IN_SHARES), {"batch_size": IN_SHARES}
    straight = trained(make, data, counts[0], epochs=2, run=tmp_path / "straight", **arguments)
    halves = tmp_path / "halves"
    save = pg.Run(halves, save_every=pg.Every(steps=1))
    trained(make, data, counts[0], steps=4, run=save, **arguments)  # in mid-epoch

    resumed = trained(make, data, counts[1], steps=6, run=save, **arguments)

    told = json.loads((halves / "run.json").read_text())["findings"]
    items = [item for finding in told if finding["code"] == "PG430" for item in finding["items"]]
    assert len(items) == (counts != (2, 2))
    for item in items:
        assert item.startswith(f"the devices, {counts[0]} then and {counts[1]} now: sums are")
        assert "replicas draw their own random numbers" in item
    if counts == (2, 2):
        assert resumed["margin"] == straight["margin"]
        for key, value in straight.values.items():
            assert value.tobytes() == resumed.values[key].tobytes(), key
    else:
        assert_alike(straight, resumed)


class RawTape(pg.Step):
    """A step that opens the tape and applies the optimizer itself."""

    def __init__(self):
        self.model = dense_model(3, 4, 1, name="line")
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        import tensorflow as tf

        x, y = batch
        with tf.GradientTape() as tape:
            loss = ops.mean(ops.square(y - self.model(x, training=True)))
        variables = self.model.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        return {"loss": loss}


def compiled_model():
    model = dense_model(3, 4, 1, name="line")
    model.compile("sgd", "mse")
    return pg.KerasStep(model)


@pytest.mark.tried("steps with a tape of their own, `KerasStep`", mirrored="refused")
@pytest.mark.parametrize("make", [RawTape, compiled_model])
def test_steps_that_update_by_themselves_are_refused(make):
    with pytest.raises(pg.PerigeeError, match=r"PG451.*(own gradient tape|optimizer itself)"):
        trained(make, small(), 2, batch_size=IN_SHARES)


@pytest.mark.tried("a loss that is a sum over the batch", mirrored="refused")
def test_a_sum_over_the_batch_is_refused():
    def make():
        model = dense_model(3, 4, 1, name="line")
        loss = keras.losses.MeanSquaredError(reduction="sum")
        return pg.Supervised(model, keras.optimizers.SGD(0.1), loss)

    with pytest.raises(pg.PerigeeError, match=r"PG451.*sum over the batch"):
        trained(make, small(), 2, batch_size=IN_SHARES)


@pytest.mark.tried("loss objects with a mask, or divided by weights", mirrored="refused")
@pytest.mark.parametrize("kind", ["sum", "mean_with_sample_weight", "mask"])
def test_loss_objects_that_a_share_does_not_determine_are_refused(kind):
    def make():
        reduction = kind if kind != "mask" else "sum_over_batch_size"
        squares = keras.losses.MeanSquaredError(reduction=reduction)
        layers = [keras.layers.Embedding(9, 4, mask_zero=kind == "mask"), keras.layers.Dense(1)]
        model = keras.Sequential([keras.Input((5,), dtype="int32"), *layers], name="words")
        return Line(lambda s, x, y: squares(y, s.model(x, training=True)), model=model)

    words = np.ones((4, 5), "int32")

    with pytest.raises(pg.PerigeeError, match=r"PG451.*the loss 'mean_squared_error' "):
        trained(make, (words, np.ones((4, 5, 1), "float32")), 2, batch_size=4)


class Counting(Conditional):
    """Counts something in a variable of its own.

    Args:
        counts: From a batch to what is added.
        dtype: Of the variable.
    """

    def __init__(self, counts, dtype):
        super().__init__()
        self.count = keras.Variable(np.zeros((), dtype), dtype=dtype, trainable=False)
        self.counts = Held(counts)

    def train_step(self, batch):
        self.count.assign_add(ops.cast(self.counts(batch), self.count.dtype))
        return super().train_step(batch)


@pytest.mark.spread(1)
@pytest.mark.tried("variables of a step that add up over the batch", mirrored="refused")
@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_variables_that_count_rows_are_refused_and_those_that_count_steps_are_not(dtype):
    arguments = {"batch_size": IN_SHARES}

    steps = trained(lambda: Counting(lambda batch: 1, dtype), small(), 2, **arguments).step
    with pytest.raises(pg.PerigeeError, match=r"PG451.*count is a sum"):
        trained(lambda: Counting(lambda b: ops.shape(b[0])[0], dtype), small(), 2, **arguments)

    assert int(steps.count.numpy()) == -(-ROWS // IN_SHARES)


@pytest.mark.tried("XLA; batches without a common first axis", mirrored="refused")
def test_xla_and_batches_without_a_common_axis_are_refused():
    def make():
        return Line(squares)

    with pytest.raises(pg.PerigeeError, match=r"PG451.*XLA"):
        trained(make, small(), 2, batch_size=IN_SHARES, execution="xla")
    with pytest.raises(pg.PerigeeError, match=r"PG451.*no common first axis"):
        trained(make, [(small(4)[0], small(5)[1])], 2)


@pytest.mark.tried("a Step and its parts made in different scopes", mirrored="refused")
def test_a_step_and_what_it_holds_are_made_in_one_scope():
    outside = dense_model(3, 4, 1, name="line")

    with pytest.raises(pg.PerigeeError, match=r"PG452.*MirroredStrategy"):
        trained(lambda: Line(squares, model=outside), small(), 2)
    with mirrored(2).scope():
        inside = dense_model(3, 4, 1, name="line")
    with pytest.raises(pg.PerigeeError, match=r"PG452.*no strategy"):
        pg.fit(Line(squares, model=inside), small(), progress="off")


@pytest.mark.tried("a custom loop, by `prepare`", mirrored="works")
def test_a_loop_of_ones_own_runs_on_replicas():
    x, y = small(IN_SHARES)
    losses = {}
    for count in (1, 2):
        with pg.prepare(made(lambda: Line(squares), count), execution="eager") as loop:
            losses[count] = [loop.train_step((x, y))["loss"] for _ in range(3)]

    np.testing.assert_allclose(losses[1], losses[2], rtol=1e-5)


@pytest.mark.tried("`check`", mirrored="refused")
def test_a_step_with_replicas_is_not_checked():
    with pytest.raises(pg.PerigeeError, match=r"PG6.*made under MirroredStrategy"):
        pg.check(made(lambda: Line(squares), 2), small())


@pytest.mark.tried(
    "the updates and logs of one device, ragged batches included", central_storage="refused"
)
def test_strategies_that_are_not_exact_are_refused():
    import tensorflow as tf

    strategy = tf.distribute.experimental.CentralStorageStrategy(["CPU:0", "CPU:1"])
    with strategy.scope():
        step = Line(squares, model=dense_model(3, 1, name="line"))

    with pytest.raises(pg.PerigeeError, match=r"PG450.*CentralStorage"):
        pg.fit(step, small(), progress="off")
