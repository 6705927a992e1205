"""`keras_fit` does what `model.fit` does: the same history, callback calls and weights.

The table of arguments is drawn by `pairwise`: every two values of two arguments that can stand
together do so in some row.
"""

import itertools
import warnings

import keras
import numpy as np
import pytest
from keras import layers, ops

import perigee as pg
from perigee import _errors as errors

ROWS, FEATURES = 16, 3
TOLERANCE = 1e-5  # relative, of logged values; both count in float32
WEIGHT_TOLERANCE = 1e-6  # absolute
IS_TENSORFLOW = keras.backend.backend() == "tensorflow"

ARGUMENTS = {
    "x": ["array", "two arrays", "dict", "pydataset", *(["tf.data"] if IS_TENSORFLOW else [])],
    "batch_size": [None, 4, 5, 64],
    "epochs": [1, 2, 3],
    "verbose": [0, 2, "auto"],
    "callbacks": ["every hook", "epochs only", "stop early", "stop in an epoch", "rates"],
    "validation_split": [0.0, 0.25],
    "validation_data": [None, "(x, y)", "(x, y, sample_weight)"],
    "shuffle": [False, True],
    "class_weight": [None, {0: 0.5, 1: 2.0}, {1: 3.0}],
    "sample_weight": [False, True],
    "initial_epoch": [0, 1],
    "steps_per_epoch": [None, 2],
    "validation_steps": [None, 1],
    "validation_batch_size": [None, 3],
    "validation_freq": [1, 2, [1, 3]],
}


def batches(row):
    rows = 12 if row["validation_split"] and row["validation_data"] is None else ROWS
    return -(-rows // (row["batch_size"] or rows // (row["steps_per_epoch"] or 1)))


def can_be(row):
    """Tell whether `fit` takes these arguments, and is right about them (see `docs`)."""
    is_arrays = row["x"] not in ("pydataset", "tf.data")
    if row["class_weight"] and row["sample_weight"]:
        return False
    if not is_arrays and (row["batch_size"] or row["sample_weight"] or row["validation_split"]):
        return False
    # Perigee draws another order than Keras, which shows unless there is one batch.
    if row["shuffle"] and (not is_arrays or batches(row) > 1):
        return False
    if is_arrays and row["steps_per_epoch"] and batches(row) > 2 and batches(row) % 2:
        return False  # `fit` ends such an epoch after one step
    is_validated = row["validation_data"] or row["validation_split"]
    if not is_validated and (row["validation_steps"] or row["validation_batch_size"]):
        return False
    # An epoch that is stopped in its midst is always validated here.
    return not (row["callbacks"] == "stop in an epoch" and row["validation_freq"] != 1)


def pairs(row):
    return {(pair[0], pair[1]) for pair in itertools.combinations(sorted_items(row), 2)}


def sorted_items(row):
    return [(name, repr(value)) for name, value in row.items()]


def valid_rows(random, count):
    """Draw rows that can be."""
    rows = []
    while len(rows) < count:
        row = {k: v[random.integers(len(v))] for k, v in ARGUMENTS.items()}
        if can_be(row):
            rows.append(row)
    return rows


def pairwise(least=60):
    """Return rows that hold every possible pair of values: greedily, from many that were drawn."""
    random = np.random.default_rng(0)
    drawn = [(row, pairs(row)) for row in valid_rows(random, 3000)]
    missing = set().union(*(covers for _, covers in drawn))
    rows = []
    while missing:
        # One that holds a missing pair is among the candidates, however rare it is.
        candidates = [drawn[i] for i in random.choice(len(drawn), 40, replace=False)]
        wanted = min(missing)
        candidates += [next(entry for entry in drawn if wanted in entry[1])]
        row, covers = max(candidates, key=lambda entry: len(entry[1] & missing))
        rows.append(row)
        missing -= covers
    return rows + valid_rows(random, max(0, least - len(rows)))


TABLE = pairwise()


def describe(row):
    return "; ".join(f"{k}={v}" for k, v in row.items() if v != ARGUMENTS[k][0]) or "defaults"


class Calls(keras.callbacks.Callback):
    """Keep every call: the name of the hook, the index, and the logs as they were."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def keep(self, hook, index, logs):
        # What the display is given differs: Perigee has one of its own.
        self.calls.append((hook, index, None if logs is None else dict(logs)))

    def on_train_begin(self, logs=None):
        self.keep("train_begin", dict(self.params), logs)

    def on_train_end(self, logs=None):
        self.keep("train_end", None, logs)

    def on_epoch_begin(self, epoch, logs=None):
        self.keep("epoch_begin", epoch, logs)

    def on_epoch_end(self, epoch, logs=None):
        self.keep("epoch_end", epoch, logs)

    def on_test_begin(self, logs=None):
        self.keep("test_begin", None, logs)

    def on_test_end(self, logs=None):
        self.keep("test_end", None, logs)


class EveryCall(Calls):
    def on_train_batch_begin(self, batch, logs=None):
        self.keep("train_batch_begin", batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        self.keep("train_batch_end", batch, logs)

    def on_test_batch_begin(self, batch, logs=None):
        self.keep("test_batch_begin", batch, logs)

    def on_test_batch_end(self, batch, logs=None):
        self.keep("test_batch_end", batch, logs)


class StopInAnEpoch(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 1:
            self.model.stop_training = True


def callbacks(kind):
    return {
        "every hook": lambda: [EveryCall()],
        "epochs only": lambda: [Calls()],
        "stop early": lambda: [EveryCall(), keras.callbacks.EarlyStopping("loss", min_delta=10)],
        "stop in an epoch": lambda: [EveryCall(), StopInAnEpoch()],
        "rates": lambda: [
            keras.callbacks.LearningRateScheduler(lambda epoch, rate: 0.1 / (epoch + 1)),
            Calls(),
        ],
    }[kind]()


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y, size=4):
        super().__init__()
        self.x, self.y, self.size = x, y, size

    def __len__(self):
        return -(-len(self.y) // self.size)

    def __getitem__(self, index):
        cut = slice(index * self.size, (index + 1) * self.size)
        return self.x[cut], self.y[cut]


def arrays(rows, seed):
    random = np.random.default_rng(seed)
    x = random.normal(size=(rows, FEATURES))
    return x, (x.sum(axis=1, keepdims=True) > 0).astype("int32"), random.uniform(0.2, 2, rows)


def inputs(kind, x):
    if kind == "two arrays":
        return [x[:, :1], x[:, 1:]]
    if kind == "dict":
        return {"a": x[:, :1], "b": x[:, 1:]}
    return x


def build(kind, is_eager):
    keras.utils.set_random_seed(3)
    if kind in ("two arrays", "dict"):
        a, b = keras.Input((1,), name="a"), keras.Input((FEATURES - 1,), name="b")
        given = [a, b] if kind == "two arrays" else {"a": a, "b": b}
        hidden = layers.Concatenate()([a, b])
    else:
        given = hidden = keras.Input((FEATURES,))
    hidden = layers.Dense(4, activation="tanh")(hidden)
    model = keras.Model(given, layers.Dense(1, activation="sigmoid")(hidden))
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9),
        "binary_crossentropy",
        metrics=["mae"],
        weighted_metrics=[keras.metrics.MeanSquaredError(name="mse")],
        run_eagerly=is_eager,
    )
    model.optimizer.build(model.trainable_variables)
    return model


_built = {}


def model_of(kind, who, is_eager=True):
    """Return a model as it was when it was new; compiled functions are kept."""
    kind = kind if kind in ("two arrays", "dict") else "array"
    key = kind, who, is_eager
    if key not in _built:
        model = build(kind, is_eager)
        variables = [*model.variables, *model.optimizer.variables]
        _built[key] = model, variables, [ops.convert_to_numpy(v) for v in variables]
    model, variables, values = _built[key]
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)
    return model


def given(row):
    """Return the arguments for `fit`, made anew: what is drawn from once is drawn up."""
    arguments = dict(row, callbacks=callbacks(row["callbacks"]))
    x, y, weights = arrays(ROWS, 0)
    kind = arguments["x"]
    arguments |= {"x": inputs(kind, x), "y": y}
    arguments["sample_weight"] = weights if row["sample_weight"] else None
    if kind in ("pydataset", "tf.data"):
        arguments["y"] = None
        arguments["x"] = Batches(x.astype("float32"), y)
        if kind == "tf.data":
            import tensorflow as tf

            pairs = tf.data.Dataset.from_tensor_slices((x.astype("float32"), y))
            arguments["x"] = pairs.batch(4)
    valid_x, valid_y, valid_weights = arrays(7, 1)
    arguments["validation_data"] = {
        None: None,
        "(x, y)": (inputs(kind, valid_x), valid_y),
        "(x, y, sample_weight)": (inputs(kind, valid_x), valid_y, valid_weights),
    }[row["validation_data"]]
    return arguments


def calls_of(arguments):
    return next(c.calls for c in arguments["callbacks"] if isinstance(c, Calls))


def assert_same_logs(ours, theirs):
    assert (ours is None) == (theirs is None)
    if theirs is not None:
        assert list(ours) == list(theirs)
        for name in theirs:
            np.testing.assert_allclose(
                ours[name], theirs[name], rtol=TOLERANCE, atol=1e-6, err_msg=name
            )


def assert_same_weights(model, other):
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=WEIGHT_TOLERANCE)


def by_both(row, is_eager=True):
    """Train by Perigee and by Keras; eagerly, what is done in a few steps is done soonest."""
    ours = model_of(row["x"], "ours", is_eager)
    theirs = model_of(row["x"], "theirs", is_eager)
    our_arguments, their_arguments = given(row), given(row)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # an epoch that ends early is told by both
        expected = theirs.fit(**their_arguments)
        history = pg.keras_fit(ours, **our_arguments)
    return (ours, history, calls_of(our_arguments)), (theirs, expected, calls_of(their_arguments))


def test_the_table_has_every_pair():
    assert len(TABLE) >= 60
    covered = set().union(*map(pairs, TABLE))
    for name, values in ARGUMENTS.items():
        for value in values:
            assert any((name, repr(value)) in pair for pair in covered), (name, value)
    others = valid_rows(np.random.default_rng(1), 1000)
    assert set().union(*map(pairs, others)) <= covered


def assert_same(row, by_perigee, by_keras):
    (ours, history, calls), (theirs, expected, expected_calls) = by_perigee, by_keras
    assert isinstance(history, keras.callbacks.History), describe(row)
    assert history.epoch == expected.epoch, describe(row)
    assert list(history.history) == list(expected.history), describe(row)
    for name, values in expected.history.items():
        np.testing.assert_allclose(
            history.history[name], values, rtol=TOLERANCE, atol=1e-6, err_msg=describe(row)
        )
    assert [call[:2] for call in calls] == [call[:2] for call in expected_calls], describe(row)
    for call, other in zip(calls, expected_calls, strict=True):
        assert_same_logs(call[2], other[2])
    assert_same_weights(ours, theirs)


@pytest.mark.spread(8, once=True)
@pytest.mark.parametrize("row", TABLE, ids=[str(i) for i in range(len(TABLE))])
def test_it_does_what_fit_does(row):
    assert_same(row, *by_both(row))


COMPILED = {
    "each step by itself": {"callbacks": "every hook", "validation_data": "(x, y)"},
    "many steps a call": {"callbacks": "epochs only", "validation_data": "(x, y)"},
    "class weights": {"callbacks": "epochs only", "class_weight": {0: 0.5, 1: 2.0}},
    "sample weights": {"callbacks": "rates", "sample_weight": True},
    "a data set": {"x": "pydataset", "batch_size": None, "callbacks": "epochs only"},
}


@pytest.mark.spread(1)
@pytest.mark.parametrize("name", COMPILED)
def test_compiled_it_does_what_fit_does(name):
    row = DEFAULTS | {"batch_size": 5, "epochs": 3} | COMPILED[name]
    assert_same(row, *by_both(row, is_eager=False))


DEFAULTS = {name: values[0] for name, values in ARGUMENTS.items()}


def test_a_call_that_differs_would_be_seen():
    row = DEFAULTS | {"epochs": 2, "batch_size": 4}
    (ours, _, calls), _ = by_both(row)
    weights = ours.get_weights()
    _, (theirs, _, expected_calls) = by_both(row | {"class_weight": {1: 1.01}})

    assert calls[0] == expected_calls[0]
    ours.set_weights(weights)
    with pytest.raises(AssertionError):
        assert_same_weights(ours, theirs)
    with pytest.raises(AssertionError):
        assert_same_logs(calls[-1][2], expected_calls[-1][2])


def test_a_score_for_each_class_is_one_value_as_in_fit():
    x, _, _ = arrays(ROWS, 0)
    y = np.eye(FEATURES, dtype="float32")[x.argmax(axis=1)]

    def train(fit):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(FEATURES, "softmax")])
        model.compile("sgd", "mse", metrics=[keras.metrics.F1Score(name="f1")], run_eagerly=True)
        calls = EveryCall()
        given = {"batch_size": 4, "epochs": 2, "shuffle": False, "verbose": 0}
        return fit(model, x, y, validation_data=(x, y), callbacks=[calls], **given), calls.calls

    history, calls = train(pg.keras_fit)
    expected, expected_calls = train(lambda model, *args, **given: model.fit(*args, **given))

    assert_same_logs(history.history, expected.history)
    for call, other in zip(calls, expected_calls, strict=True):
        assert_same_logs(call[2], other[2])


class Recurrent(keras.Model):
    def __init__(self):
        super().__init__()
        self.memory, self.head = layers.LSTM(3), layers.Dense(1)

    def call(self, x):
        return self.head(self.memory(x))


def test_a_recurrent_model_is_built_as_by_fit():
    x = np.random.default_rng(0).normal(size=(8, 4, 2)).astype("float32")

    def train(fit):
        keras.utils.set_random_seed(1)
        model = Recurrent()
        model.compile("sgd", "mse", run_eagerly=True)
        fit(model, x, x[:, -1, :1], batch_size=4, shuffle=False, verbose=0)
        return model

    ours = train(pg.keras_fit)
    assert_same_weights(ours, train(lambda model, *args, **given: model.fit(*args, **given)))


def test_training_goes_on_when_it_is_called_again():
    row = DEFAULTS | {"batch_size": 4, "epochs": 1}
    ours, theirs = model_of("array", "ours"), model_of("array", "theirs")
    for _ in range(2):
        theirs.fit(**given(row))
        pg.keras_fit(ours, **given(row))

    assert int(ours.optimizer.iterations) == int(theirs.optimizer.iterations) == 8
    assert_same_weights(ours, theirs)


def test_without_callbacks_steps_are_run_many_at_once():
    model = model_of("array", "ours")
    x, y, _ = arrays(ROWS, 0)

    history = pg.keras_fit(model, x, y, batch_size=4, epochs=2, verbose=0)

    assert history.epoch == [0, 1]
    assert model.history is history
    assert history.history.keys() == {"loss", "mae", "mse"}


def test_a_shuffled_epoch_sees_each_row_once():
    x, y, _ = arrays(ROWS, 0)
    first, second = (
        pg.keras_fit(model_of("array", "ours"), x, y, 5, verbose=0).history for _ in range(2)
    )

    assert first != second  # another order


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"model": "adam"}, "model"),
        ({"x": None}, "x"),
        ({"verbose": 3}, "verbose"),
        ({"validation_freq": 0}, "validation_freq"),
        ({"validation_freq": "epoch"}, "validation_freq"),
        ({"validation_split": 1.0}, "validation_split"),
        ({"validation_split": 0.01, "x": np.zeros((2, 3)), "y": np.zeros((2, 1))}, None),
        ({"class_weight": {0: 1.0}, "sample_weight": np.ones(ROWS)}, "class_weight"),
        ({"callbacks": [keras.callbacks.BackupAndRestore("x")]}, "callbacks"),
        ({"epochs": 1.5}, "epochs"),
        ({"steps_per_epoch": 0}, "steps_per_epoch"),
    ],
)
def test_what_cannot_be_meant_is_refused(wrong, named):
    x, y, _ = arrays(ROWS, 0)
    arguments = {"model": model_of("array", "ours"), "x": x, "y": y, "verbose": 0} | wrong

    if named is None:
        with pytest.raises(errors.ArgumentError):
            pg.keras_fit(**arguments | {"validation_split": 0.9})
        return
    with pytest.raises(errors.ArgumentError) as caught:
        pg.keras_fit(**arguments)
    assert named in str(caught.value)


@pytest.mark.parametrize(
    "more", [{"y": np.zeros(4)}, {"sample_weight": np.ones(4)}, {"validation_split": 0.5}]
)
def test_what_is_for_arrays_is_refused_for_a_data_set(more):
    x, y, _ = arrays(ROWS, 0)
    with pytest.raises(errors.ArgumentError, match=next(iter(more))):
        pg.keras_fit(model_of("array", "ours"), Batches(x, y), verbose=0, **more)


def test_a_nan_raises_where_fit_goes_on():
    model = model_of("array", "ours")
    x, y, _ = arrays(ROWS, 0)
    with pytest.raises(errors.NonFiniteError):
        pg.keras_fit(model, x, y, sample_weight=np.full(ROWS, np.nan), verbose=0)


def test_a_callback_for_nan_stops_as_in_fit():
    x, y, _ = arrays(ROWS, 0)
    histories = [
        train(
            x=x,
            y=y,
            sample_weight=np.full(ROWS, np.nan),
            epochs=3,
            verbose=0,
            shuffle=False,
            callbacks=[keras.callbacks.TerminateOnNaN()],
        ).epoch
        for train in (
            model_of("array", "theirs").fit,
            lambda **given: pg.keras_fit(model_of("array", "ours"), **given),
        )
    ]
    assert histories[0] == histories[1] == [0]


def test_a_run_that_was_stopped_goes_on_exactly(tmp_path):
    x, y, _ = arrays(ROWS, 0)

    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = epoch == 1

    def train(directory, epochs, stop=False):
        model = model_of("array", "ours")
        history = pg.keras_fit(
            model,
            x,
            y,
            batch_size=5,
            epochs=epochs,
            verbose=0,
            run=tmp_path / directory,
        )
        return model.get_weights(), history

    keras.utils.set_random_seed(1)
    whole, history = train("whole", 4)
    keras.utils.set_random_seed(1)
    train("parts", 2)
    weights, resumed = train("parts", 4)

    assert resumed.history == history.history
    assert resumed.epoch == history.epoch == [0, 1, 2, 3]
    for a, b in zip(weights, whole, strict=True):
        assert a.tobytes() == b.tobytes()


@pytest.mark.parametrize("averaging", [{}, {"use_ema": True}], ids=["plain", "averaged"])
def test_an_optimizer_that_accumulates_by_itself_trains_as_by_fit(averaging):
    x, y, _ = arrays(ROWS, 0)

    def trained(fit):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Dense(1)])
        sgd = keras.optimizers.SGD(0.02, gradient_accumulation_steps=2, **averaging)
        model.compile(sgd, "mse")
        history = fit(model, x, y, batch_size=5, epochs=2, shuffle=False, verbose=0)
        return model.get_weights(), history.history["loss"]

    (weights, losses), (expected, of_fit) = trained(pg.keras_fit), trained(keras.Model.fit)

    assert losses == pytest.approx(of_fit, rel=1e-5)
    for ours, theirs in zip(weights, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-7)


def test_validation_data_that_is_never_due_is_not_looked_at():
    x, y, _ = arrays(ROWS, 0)
    model = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    of_another_width = np.zeros((4, x.shape[1] + 1), "float32"), np.zeros((4, 1), "float32")

    history = pg.keras_fit(
        model, x, y, epochs=1, verbose=0, validation_data=of_another_width, validation_freq=2
    )

    assert list(history.history) == ["loss"]


# Data.


def small():
    keras.utils.set_random_seed(4)
    model = keras.Sequential([keras.Input((FEATURES,)), layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), "mse", run_eagerly=True)
    return model


def batched(count, start=0):
    x, y, _ = arrays(8 * count, 2)
    for index in range(start, count):
        rows = slice(8 * index, 8 * index + 8)
        yield x[rows].astype("float32"), y[rows].astype("float32")


def endless():
    while True:
        yield from batched(4)


def histories(make):
    """Return what Perigee and Keras log; `make` returns the arguments, new each time."""
    by_perigee = pg.keras_fit(small(), **make(), verbose=0).history
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return by_perigee, small().fit(**make(), verbose=0).history


@pytest.mark.parametrize(
    "make",
    [
        lambda: {"x": endless(), "steps_per_epoch": 3, "epochs": 3},
        lambda: {"x": batched(6), "steps_per_epoch": 3, "epochs": 2},
        lambda: {"x": batched(6)},
        lambda: {"x": endless(), "steps_per_epoch": 3, "validation_data": batched(3)},
        lambda: {
            "x": endless(),
            "steps_per_epoch": 3,
            "validation_data": endless(),
            "validation_steps": 2,
        },
    ],
    ids=["endless", "just enough", "one pass", "finite validation", "endless validation"],
)
def test_a_generator_object_is_drawn_on_as_by_fit(make):
    ours, theirs = histories(make)

    assert list(ours) == list(theirs)
    for name, values in theirs.items():
        np.testing.assert_allclose(ours[name], values, rtol=TOLERANCE)


def test_each_validation_draws_on_from_an_endless_generator():
    x, y, _ = arrays(ROWS, 0)
    model = small()
    frozen = {"x": x, "y": y, "epochs": 2, "callbacks": [NoTraining()], "verbose": 0}

    history = pg.keras_fit(model, **frozen, validation_data=endless(), validation_steps=2).history

    expected = [model.evaluate(batched(at + 2, at), verbose=0) for at in (0, 2)]
    # `evaluate` of a generator with two batches draws just these.
    np.testing.assert_allclose(history["val_loss"], expected, rtol=TOLERANCE)
    assert history["val_loss"][0] != history["val_loss"][1]


class NoTraining(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.kept = self.model.get_weights()

    def on_test_begin(self, logs=None):
        self.model.set_weights(self.kept)

    def on_train_end(self, logs=None):
        self.model.set_weights(self.kept)


@pytest.mark.parametrize(("steps", "epochs"), [(None, 1), (3, 2), (5, 2)])
def test_a_generator_that_ends_early_ends_the_training_as_in_fit(steps, epochs):
    calls = EveryCall()

    with pytest.warns(pg.PerigeeWarning, match="ran out of batches"):
        history = pg.keras_fit(
            small(),
            batched(6),
            epochs=4,
            steps_per_epoch=steps,
            callbacks=[calls],
            verbose=0,
        )

    hooks = [call[0] for call in calls.calls]
    assert history.epoch == list(range(epochs))
    assert len(history.history["loss"]) == epochs
    assert hooks.count("epoch_begin") == hooks.count("epoch_end") == epochs
    assert hooks.count("train_batch_end") == 6
    assert hooks[-1] == "train_end"


@pytest.mark.parametrize("given", ["generator", "function"])
def test_endless_validation_data_needs_a_number_of_steps(given):
    valid = endless() if given == "generator" else endless
    model = small()
    before = model.get_weights()

    with pytest.raises(errors.InfiniteDataError, match=r"pass `validation_steps=\.\.\.`"):
        pg.keras_fit(model, *arrays(ROWS, 0)[:2], epochs=2, validation_data=valid, verbose=0)

    for one, other in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)


def test_rows_are_shuffled_within_each_batch_as_in_fit():
    drawn = []

    class Seen(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(1)

        def call(self, x):
            drawn.append(ops.convert_to_numpy(x)[:, 0].astype(int).tolist())
            return self.dense(x)

    x = np.arange(20, dtype="float32")[:, None]
    model = Seen()
    model.compile("sgd", "mse", run_eagerly=True)
    model(x)  # built, so that nothing is called to build it

    drawn.clear()
    pg.keras_fit(model, x, x, batch_size=8, epochs=2, shuffle="batch", verbose=0)
    steps = drawn[-6:]

    batches = [list(range(0, 8)), list(range(8, 16)), list(range(16, 20))]
    assert [sorted(step) for step in steps] == batches * 2
    assert all(step != batch for step, batch in zip(steps, batches * 2, strict=True))
    assert steps[:3] != steps[3:]


class Series:
    """Like a column of a data frame, for Keras's way with it where pandas is not installed."""

    def __init__(self, values):
        self.values, self.shape, self.dtype = values, values.shape, values.dtype

    def to_numpy(self):
        return self.values


def test_one_column_of_a_data_frame_has_a_second_axis_as_in_fit():
    model = keras.Sequential([keras.Input((1,)), layers.Dense(1)])
    model.compile("sgd", "mse", run_eagerly=True)
    column = Series(np.arange(8, dtype="float32"))

    history = pg.keras_fit(model, column, column, verbose=0)

    assert np.isfinite(history.history["loss"]).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_nested_inputs_and_workers_train_as_in_fit(workers):
    def build_nested():
        keras.utils.set_random_seed(5)
        a, b = keras.Input((1,), name="a"), keras.Input((FEATURES - 1,), name="b")
        output = layers.Dense(1)(layers.Concatenate()([a, b]))
        model = keras.Model({"one": (a,), "two": (b,)}, output)
        model.compile("sgd", "mse", run_eagerly=True)
        return model

    x, y, _ = arrays(ROWS, 0)
    nested = {"one": (x[:, :1].astype("float32"),), "two": (x[:, 1:].astype("float32"),)}

    class Nested(Batches):
        def __getitem__(self, index):
            cut = slice(index * 4, index * 4 + 4)
            return keras.tree.map_structure(lambda a: a[cut], nested), y[cut]

    data = Nested(x, y)
    data.workers = workers
    ours = pg.keras_fit(build_nested(), data, shuffle=False, verbose=0).history
    data.workers = 1
    theirs = build_nested().fit(data, shuffle=False, verbose=0).history

    np.testing.assert_allclose(ours["loss"], theirs["loss"], rtol=TOLERANCE)


@pytest.mark.only_tensorflow
@pytest.mark.filterwarnings("ignore:Layer InputLayer")
def test_a_model_that_works_only_in_a_graph_trains_as_by_fit():
    """Keras's own custom gradients for float8 fail where they run op by op."""
    x, _, _ = arrays(ROWS, 0)

    def trained(fit):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input(x.shape[1:]), keras.layers.Dense(1)])
        model.quantize("float8")
        model.compile("sgd", "mse")
        history = fit(model, x, x[:, :1], batch_size=5, epochs=2, shuffle=False, verbose=0)
        return history.history["loss"]

    assert trained(pg.keras_fit) == pytest.approx(trained(keras.Model.fit), rel=1e-5)
