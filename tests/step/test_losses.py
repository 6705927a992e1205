"""A loss or metric is what it computes, however it is given: numbers of `fit`, and no refusal."""

from functools import partial

import keras
import numpy as np
import pytest
from keras import layers, ops

import perigee as pg
from perigee._step.losses import FunctionLoss, as_loss, computation_of

ROWS, FEATURES, CLASSES, TIME = 12, 4, 3, 6
TOLERANCE = 1e-5
IS_EAGER = keras.backend.backend() != "jax"  # where that takes far longer
EXECUTION = "eager" if IS_EAGER else "graph"

SPARSE = "sparse_categorical_crossentropy"
NLL = partial(keras.losses.categorical_crossentropy, label_smoothing=0.1, from_logits=True)


class Own(keras.losses.Loss):
    """Takes labels of another shape."""

    def call(self, y_true, y_pred):
        return ops.mean(ops.square(y_true - y_pred[:, :1]), -1)


class Bare(keras.losses.SparseCategoricalCrossentropy):
    """Sets nothing but arguments."""

    def __init__(self):
        super().__init__(from_logits=True, ignore_class=255)


class Weighing(keras.losses.MeanSquaredError):
    """Computes something else than the class above it."""

    def call(self, y_true, y_pred):
        return y_true[:, 1] * super().call(y_true[:, :1], y_pred)


def likelihood(y_true, y_pred):
    mean, log_variance = y_pred[:, :1], y_pred[:, 1:]
    return ops.mean(log_variance + ops.square(y_true - mean) * ops.exp(-log_variance), -1) / 2


def pinball(y_true, y_pred):
    quantiles = ops.array([0.1, 0.5, 0.9])
    error = y_true - y_pred
    return ops.mean(ops.maximum(quantiles * error, (quantiles - 1) * error), -1)


def weighed(y_true, y_pred):
    return ops.mean(y_true[:, 1:] * ops.square(y_true[:, :1] - y_pred), -1)


def of_float_ids(y_true, y_pred):
    ids = ops.cast(ops.squeeze(y_true, -1), "int32")
    return ops.sparse_categorical_crossentropy(ids, y_pred, from_logits=True)


@pytest.mark.once
@pytest.mark.parametrize(
    "given",
    [
        SPARSE,
        "SparseCategoricalCrossentropy",
        keras.losses.sparse_categorical_crossentropy,
        keras.losses.SparseCategoricalCrossentropy,
        keras.losses.SparseCategoricalCrossentropy(),
        {"class_name": "SparseCategoricalCrossentropy", "config": {}},
        partial(keras.losses.sparse_categorical_crossentropy),
        FunctionLoss(keras.losses.sparse_categorical_crossentropy),
        keras.metrics.SparseCategoricalCrossentropy(),
        keras.metrics.MeanMetricWrapper(keras.losses.sparse_categorical_crossentropy),
        keras.metrics.MeanMetricWrapper(keras.losses.SparseCategoricalCrossentropy()),
        keras.ops.sparse_categorical_crossentropy,
    ],
)
def test_every_way_of_giving_a_loss_means_the_same(given):
    what = computation_of(given)

    assert (what.kind, what.name) == (SPARSE, "SparseCategoricalCrossentropy")
    assert what.from_logits is False
    assert what.axis == -1


@pytest.mark.once
def test_settings_are_those_of_the_call():
    what = computation_of(keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.2))
    smooth = computation_of(partial(NLL, axis=1))

    assert what.from_logits is True
    assert what.settings["label_smoothing"] == 0.2
    assert (smooth.settings["label_smoothing"], smooth.axis) == (0.1, 1)
    assert computation_of(Bare()).settings["ignore_class"] == 255
    assert computation_of("mse").kind == "mean_squared_error"
    assert computation_of(keras.metrics.BinaryAccuracy(threshold=0.0)).settings["threshold"] == 0


@pytest.mark.once
@pytest.mark.parametrize(
    ("given", "name"),
    [
        (likelihood, "likelihood"),
        (Own(), "Own"),
        (Weighing(), "Weighing"),
        (FunctionLoss(pinball), "pinball"),
        (partial(likelihood), "likelihood"),
        (keras.metrics.MeanMetricWrapper(pinball, name="p"), "MeanMetricWrapper"),
        (keras.metrics.Mean(), "Mean"),
    ],
)
def test_what_the_user_wrote_is_known_to_its_author_alone(given, name):
    assert computation_of(given).is_own
    assert computation_of(given).name == name


@pytest.mark.once
def test_each_loss_of_keras_is_known_and_has_its_value():
    x = np.random.default_rng(0).uniform(0.1, 0.9, (2, ROWS, CLASSES)).astype("float32")
    found = {}
    for name in dir(keras.losses):
        loss = getattr(keras.losses, name)
        if name[0].isupper() and name not in ("Loss", "CTC", "Circle"):
            of_ids = name.startswith(("Sparse", "CategoricalGeneralized"))
            y = x[0].argmax(-1) if of_ids else x[0]
            what = computation_of(loss())
            found[name] = (what.name, what.mean(y, x[1]), float(loss()(y, x[1])))

    assert len(found) >= 18
    assert {name: kept for name, kept in found.items() if kept[0] != name} == {}
    for _, value, of_keras in found.values():
        np.testing.assert_allclose(value, of_keras, rtol=TOLERANCE)


def x():
    return np.random.default_rng(0).normal(size=(ROWS, FEATURES)).astype("float32")


def ids():
    return np.arange(ROWS) % CLASSES


def numbers():
    return x()[:, :1]


def one_hot():
    return np.eye(CLASSES, dtype="float32")[ids()]


def void():
    return np.where(ids() == 2, 255, ids())


def targets():
    return np.concatenate([numbers(), numbers() ** 2], 1)


def dense(units, activation=None):
    return lambda: [layers.Dense(units, activation=activation)]


def scores_in_time():
    return [layers.Dense(TIME * CLASSES), layers.Reshape((TIME, CLASSES))]


def unit_norm():
    return [layers.Dense(CLASSES), layers.UnitNormalization()]


PROGRAMS = {
    "ids by name": (dense(CLASSES, "softmax"), lambda: SPARSE, ids, ["accuracy"]),
    "a column of ids": (dense(CLASSES, "softmax"), lambda: SPARSE, lambda: ids()[:, None], []),
    "ids by function": (
        dense(CLASSES, "softmax"),
        lambda: keras.losses.sparse_categorical_crossentropy,
        ids,
        [keras.losses.sparse_categorical_crossentropy],
    ),
    "ids of the user's class": (dense(CLASSES), Bare, void, []),
    "rows by partial": (dense(CLASSES), lambda: NLL, one_hot, ["acc"]),
    "rows of scores, kl by name": (
        dense(CLASSES, "softmax"),
        lambda: "kl_divergence",
        one_hot,
        ["mse"],
    ),
    "answers (batch,)": (
        dense(1, "sigmoid"),
        lambda: "binary_crossentropy",
        lambda: ids() % 2,
        ["accuracy"],
    ),
    "numbers (batch,)": (dense(1), lambda: "mae", lambda: numbers()[:, 0], ["mse"]),
    "likelihood": (dense(2), lambda: likelihood, numbers, []),
    "quantiles": (dense(3), lambda: pinball, numbers, []),
    "targets and weights": (dense(1), lambda: weighed, targets, []),
    "targets and weights of a class": (dense(1), Weighing, targets, []),
    "own": (dense(2), Own, numbers, []),
    "ids as numbers": (dense(CLASSES), lambda: of_float_ids, lambda: ids()[:, None] * 1.0, []),
    "CTC": (scores_in_time, keras.losses.CTC, lambda: 1 + np.stack([ids() % 2] * 2, 1), []),
    "Circle": (unit_norm, keras.losses.Circle, ids, []),
    "Dice": (dense(1, "sigmoid"), keras.losses.Dice, lambda: ids() % 2 * 1.0, []),
    "generalized": (
        dense(CLASSES, "softmax"),
        getattr(keras.losses, "CategoricalGeneralizedCrossEntropy", lambda: SPARSE),
        ids,
        [],
    ),
    "positive weights": (dense(CLASSES, "softplus"), lambda: NLL.func, one_hot, []),
}


def compiled(name):
    keras.utils.set_random_seed(3)
    make, loss, _, metrics = PROGRAMS[name]
    model = keras.Sequential([keras.Input((FEATURES,)), *make()])
    model.compile(keras.optimizers.SGD(0.1), loss(), metrics=list(metrics), run_eagerly=IS_EAGER)
    return model


GIVEN = {"epochs": 1, "batch_size": 6, "shuffle": False, "verbose": 0}

EVERYWHERE = {"ids by name", "ids of the user's class", "rows by partial", "own"}
"""Programs that are tried on each framework; the others on the first."""


@pytest.mark.spread(5)
@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=() if n in EVERYWHERE else pytest.mark.once) for n in PROGRAMS],
)
def test_a_loss_trains_as_in_fit_however_it_is_given(name):
    theirs, ours = compiled(name), compiled(name)
    y = PROGRAMS[name][2]()
    expected = theirs.fit(x(), y, **GIVEN).history

    found = pg.keras_fit(ours, x(), y, **GIVEN, execution=EXECUTION).history

    assert found.keys() == expected.keys()
    for key in expected:
        np.testing.assert_allclose(found[key], expected[key], rtol=TOLERANCE, err_msg=key)
    for ours_, theirs_ in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(ours_, theirs_, rtol=TOLERANCE, atol=1e-6)
    measured = pg.evaluate(pg.KerasStep(ours), (x(), y), execution=EXECUTION)
    expected = theirs.evaluate(x(), y, verbose=0, return_dict=True)
    np.testing.assert_allclose(measured["loss"], expected["loss"], rtol=TOLERANCE)


@pytest.mark.parametrize("name", ["ids by name", "ids by function", "rows by partial", "quantiles"])
def test_a_loss_is_the_same_in_supervised(name):
    _, loss, labels, metrics = PROGRAMS[name]
    theirs = compiled(name)
    step = pg.Supervised(compiled(name), keras.optimizers.SGD(0.1), loss(), list(metrics))
    expected = theirs.fit(x(), labels(), **GIVEN).history

    found = pg.fit(
        step,
        (x(), labels()),
        epochs=1,
        batch_size=6,
        shuffle=False,
        progress="off",
        execution=EXECUTION,
    ).history

    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=TOLERANCE)


@pytest.mark.parametrize(
    "losses",
    [
        {"kind": SPARSE, "price": "mse"},
        [keras.losses.sparse_categorical_crossentropy, keras.losses.MeanSquaredError()],
    ],
    ids=["a dict of names", "a list"],
)
def test_losses_of_several_outputs_train_as_in_fit(losses):
    def make():
        keras.utils.set_random_seed(3)
        inputs = keras.Input((FEATURES,))
        kind = layers.Dense(CLASSES, activation="softmax", name="kind")(inputs)
        outputs = {"kind": kind, "price": layers.Dense(1, name="price")(inputs)}
        model = keras.Model(inputs, outputs if isinstance(losses, dict) else list(outputs.values()))
        model.compile(keras.optimizers.SGD(0.1), losses, run_eagerly=IS_EAGER)
        return model

    y = {"kind": ids(), "price": numbers()}
    y = y if isinstance(losses, dict) else list(y.values())
    expected = make().fit(x(), y, **GIVEN).history

    found = pg.keras_fit(make(), x(), y, **GIVEN, execution=EXECUTION).history

    np.testing.assert_allclose(found["loss"], expected["loss"], rtol=TOLERANCE)


def many():
    """Return data of which a rule has nothing to say."""
    inputs = np.random.default_rng(1).normal(size=(64, 5)).astype("float32")
    return inputs, inputs[:, :CLASSES].argmax(axis=1)


@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        pytest.param(SPARSE, lambda y: y, id="ids"),
        pytest.param(SPARSE, lambda y: y[:, None], id="a column", marks=pytest.mark.once),
        pytest.param(
            "categorical_crossentropy",
            lambda y: np.eye(CLASSES, dtype="float32")[y],
            id="rows",
            marks=pytest.mark.once,
        ),
    ],
)
def test_check_has_nothing_to_say_of_a_loss_by_name(loss, labels):
    hidden = layers.Dense(8, activation="relu")
    model = keras.Sequential([keras.Input((5,)), hidden, layers.Dense(CLASSES, "softmax")])
    model.compile("adam", loss, metrics=["accuracy"])
    inputs, y = many()

    assert pg.check(model, (inputs, labels(y))).findings == ()


@pytest.mark.only_tensorflow
@pytest.mark.filterwarnings("ignore:.*received `from_logits=True`")  # Keras's own
def test_a_softmax_whose_scores_keras_finds_again_is_no_fault():
    """It trains with the numbers of `fit`, and a hint says that other frameworks do not do so."""

    def make():
        keras.utils.set_random_seed(3)
        hidden = layers.Dense(8, activation="relu")
        model = keras.Sequential([keras.Input((5,)), hidden, layers.Dense(CLASSES, "softmax")])
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        return model

    inputs, y = many()
    given = {"batch_size": 32, "shuffle": False, "verbose": 0}

    found = pg.keras_fit(make(), inputs, y, **given, execution="graph").history
    report = pg.check(make(), (inputs, y))

    expected = make().fit(inputs, y, **given).history["loss"]
    np.testing.assert_allclose(found["loss"], expected, rtol=TOLERANCE)
    assert [(f.code, f.severity) for f in report] == [("PG225", "hint")]


def test_a_loss_of_keras_has_the_sign_that_keras_gives_it():
    """Labels far from what sigmoids say may have the smaller crossentropy over all classes."""
    keras.utils.set_random_seed(0)
    y = np.eye(6, dtype="float32")[np.random.default_rng(0).integers(0, 6, 256)]
    draws = keras.initializers.RandomUniform
    model = keras.Sequential(
        [
            keras.Input((10,)),
            layers.Dense(16, activation="relu", kernel_initializer=draws(seed=1)),
            layers.Dense(6, activation="sigmoid", kernel_initializer=draws(seed=2)),
        ]
    )
    model.compile("adam", keras.losses.CategoricalCrossentropy())
    inputs = np.random.default_rng(0).normal(size=(256, 10)).astype("float32")

    report = pg.check(model, (inputs, y))
    # The labels are of chance, as a hint says.
    assert [finding.code for finding in report if finding.severity != "hint"] == ["PG223"]


@pytest.mark.once
def test_check_looks_through_a_name_at_what_is_computed():
    """Class ids that are wrong are so under each name of the loss."""
    hidden = layers.Dense(8, activation="relu")
    model = keras.Sequential([keras.Input((5,)), hidden, layers.Dense(CLASSES, "sigmoid")])
    model.compile("adam", "categorical_crossentropy")
    inputs, y = many()

    report = pg.check(model, (inputs, np.eye(CLASSES, dtype="float32")[y]))

    assert [finding.code for finding in report] == ["PG223"]
    assert "CategoricalCrossentropy" in report.findings[0].happened


def test_crossentropy_is_the_one_of_the_shapes():
    assert computation_of(as_loss("crossentropy", ids(), one_hot())).kind == SPARSE
    assert computation_of(as_loss("ce", one_hot(), one_hot())).kind == "categorical_crossentropy"
