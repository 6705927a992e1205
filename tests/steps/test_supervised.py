"""`Supervised`: what `compile` offers, with exact numbers and errors instead of silence."""

import inspect

import keras
import numpy as np
import pytest
from keras import layers, ops

import perigee as pg
from perigee import _errors as errors
from perigee._step.losses import as_loss
from perigee.steps._reductions import average_loss, masked

ROWS, FEATURES, CLASSES, BATCH = 20, 4, 3, 8  # the last batch has 4 rows


def seeded(build):
    """Return a function that gives the same model each time."""

    def built(*args):
        keras.utils.set_random_seed(5)
        return build(*args)

    return built


@seeded
def one_output(units=CLASSES):
    inputs = keras.Input((FEATURES,))
    hidden = layers.Dense(6, activation="tanh", name="body")(inputs)
    return keras.Model(inputs, layers.Dense(units, name="head")(hidden))


@seeded
def two_outputs():
    inputs = keras.Input((FEATURES,))
    hidden = layers.Dense(6, activation="tanh", name="body")(inputs)
    heads = layers.Dense(1, name="price")(hidden), layers.Dense(CLASSES, name="kind")(hidden)
    return keras.Model(inputs, list(heads))


@keras.saving.register_keras_serializable("tests")
class Named(keras.Model):
    """Returns a dict whose keys are not in alphabetical order."""

    def __init__(self):
        super().__init__()
        self.price, self.kind = layers.Dense(1), layers.Dense(CLASSES)

    def call(self, x):
        return {"price": self.price(x), "kind": self.kind(x)}


@seeded
def named_outputs():
    model = Named()
    model(np.zeros((1, FEATURES), "float32"))
    return model


def sparse():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def sgd():
    return keras.optimizers.SGD(0.1)


@pytest.fixture
def random():
    return np.random.default_rng(2)


@pytest.fixture
def x(random):
    return random.normal(size=(ROWS, FEATURES)).astype("float32")


@pytest.fixture
def price(x):
    return np.sum(x**2, axis=1, keepdims=True)


@pytest.fixture
def kind(random):
    return random.integers(0, CLASSES, ROWS)


def train(step, data, epochs=1, **options):
    """Train in the order of the data, without a display; return the history of every name.

    Eagerly, as a few small steps are done before they would be compiled.
    """
    options = {"batch_size": BATCH, "shuffle": False, "execution": "eager"} | options
    return pg.fit(step, data, epochs=epochs, progress="off", **options).history


def by_fit(model, data, epochs=1, batch_size=BATCH, class_weight=None, **compiled):
    model.compile(**({"optimizer": sgd()} | compiled), run_eagerly=True)
    x, y, *weights = data
    return model.fit(
        x,
        y,
        sample_weight=weights[0] if weights else None,
        batch_size=batch_size,
        epochs=epochs,
        class_weight=class_weight,
        shuffle=False,
        verbose=0,
    ).history


def assert_same_weights(model, other, tolerance=1e-6):
    for ours, theirs in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


# One loss: its sum and its count.


def number(average):
    """Return the mean of an average with one term."""
    ((mean, _),) = average.pairs(ops.convert_to_tensor(1.0))
    return float(mean)


def with_mask(values, mask):
    return masked(ops.convert_to_tensor(values), None if mask is None else ops.array(mask))


LABELS = np.array([[0, 1, 2], [2, 0, 1]])
SCORES = np.random.default_rng(0).normal(size=(2, 3, 3)).astype("float32")
MASK = np.array([[True, True, False], [True, False, False]])
WEIGHTS = {
    "none": None,
    "of examples": np.array([[0.5], [2.0]], "float32"),
    "of places": np.array([[0.5, 1, 2], [3, 0, 1]], "float32"),
}


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("is_masked", [False, True], ids=["", "masked"])
@pytest.mark.parametrize("ignored", [None, 2], ids=["", "a class ignored"])
@pytest.mark.parametrize(
    "reduction", ["sum_over_batch_size", "mean", "mean_with_sample_weight", "sum"]
)
def test_an_average_is_the_number_of_the_loss_object(reduction, ignored, is_masked, weights):
    loss = keras.losses.SparseCategoricalCrossentropy(
        from_logits=True, ignore_class=ignored, reduction=reduction
    )
    y_true, weights = ops.convert_to_tensor(LABELS), WEIGHTS[weights]
    y_pred = with_mask(SCORES, MASK if is_masked else None)
    if keras.backend.backend() == "torch" and (is_masked or ignored) and np.size(weights) == 2:
        pytest.skip("Keras itself raises: it multiplies in place")

    expected = float(loss(y_true, y_pred, weights))
    assert number(average_loss(loss, y_true, y_pred, weights)) == pytest.approx(expected, rel=1e-6)


def test_a_masked_average_counts_the_valid_places():
    y_pred = with_mask(SCORES, MASK)

    (term,) = average_loss(sparse(), LABELS, y_pred, WEIGHTS["of places"]).terms
    assert float(term.count) == MASK.sum()
    assert term.is_weighted


def test_a_loss_without_a_reduction_is_the_mean_of_its_values():
    unreduced = keras.losses.MeanSquaredError(reduction=None)
    y_true, y_pred = np.array([[0.0], [1.0]]), ops.convert_to_tensor([[2.0], [4.0]])

    assert number(average_loss(unreduced, y_true, y_pred, None)) == (4 + 9) / 2


def test_weights_of_examples_count_for_whole_sequences():
    # Keras multiplies them along the axis of time, which does not raise where both are equal.
    length = 3
    y_true, y_pred = np.zeros((length, length, 1)), ops.ones((length, length, 1))
    weights = np.array([1.0, 0, 0], "float32")
    mse = keras.losses.MeanSquaredError()

    y_pred = y_pred * np.array([3.0, 1, 1], "float32")[:, None, None]
    assert number(average_loss(mse, y_true, y_pred, weights)) == pytest.approx(9 / 3)
    assert float(mse(y_true, y_pred, weights)) == pytest.approx((9 + 1 + 1) / 9)


def test_weights_are_left_as_they_are():
    weights = ops.ones(MASK.shape)
    average_loss(sparse(), ops.array(LABELS), with_mask(SCORES, MASK), weights)

    np.testing.assert_array_equal(ops.convert_to_numpy(weights), np.ones(MASK.shape))


def test_a_mask_that_leaves_nothing_makes_the_loss_zero():
    y_pred = with_mask(SCORES, np.zeros_like(MASK))

    assert number(average_loss(sparse(), LABELS, y_pred, None)) == 0.0


def test_a_scalar_function_is_the_mean_over_the_batch():
    (term,) = average_loss(
        as_loss(lambda y, p: ops.mean(ops.abs(y - p)), None, None),
        np.zeros((2, 1)),
        ops.convert_to_tensor([[1.0], [4.0]]),
        None,
    ).terms

    assert float(term.total) == 2.5
    assert term.count is None


def test_a_loss_that_reduces_in_its_own_way_is_called_as_it_is():
    class Median(keras.losses.Loss):
        def __call__(self, y_true, y_pred, sample_weight=None):
            return ops.median(ops.abs(y_true - y_pred))

    y_pred = ops.convert_to_tensor([1.0, 2.0, 9.0])
    assert number(average_loss(Median(), ops.zeros(3), y_pred, None)) == 2.0


FUNCTIONS = [
    name
    for name, function in vars(keras.losses).items()
    if inspect.isfunction(function)
    # The last two want other shapes, or have a name that Keras does not take.
    and name
    not in ("get", "serialize", "deserialize", "ctc", "categorical_generalized_cross_entropy")
]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_name_means_the_function_of_keras(name):
    function = getattr(keras.losses, name)
    if name in ("sparse_categorical_crossentropy", "circle"):
        y_true = np.array([0, 1, 2, 1])
    else:
        y_true = np.eye(3, dtype="float32")[[0, 1, 2, 1]]
    y_pred = ops.softmax(ops.convert_to_tensor(SCORES[:, 0].repeat(2, axis=0)))

    found = as_loss(name, y_true, y_pred)
    assert as_loss(function, y_true, y_pred).__class__ is found.__class__
    expected = float(ops.mean(function(y_true, y_pred)))
    if name == "circle":  # it counts the values above zero only
        expected = float(keras.losses.Circle()(y_true, y_pred))
    assert number(average_loss(found, y_true, y_pred, None)) == pytest.approx(expected, rel=1e-5)


# Losses, in training.


def nearness(y_true, y_pred):
    return ops.sum(ops.abs(y_true - y_pred), axis=-1)


LOSSES = {
    "name": "mse",
    "full name": "mean_absolute_error",
    "object": keras.losses.Huber(0.5),
    "class": keras.losses.LogCosh,
    "function": nearness,
    "scalar function": lambda y, p: ops.mean(ops.square(y - p)),
    "list of one": ["mse"],
    "by the output's name": {"head": "mse"},
    "weights in the mean": keras.losses.MeanSquaredError(reduction="mean_with_sample_weight"),
}


@pytest.mark.spread(3)
@pytest.mark.parametrize("loss", LOSSES)
def test_each_form_of_a_loss_trains_as_in_fit(loss, x, price):
    theirs, ours = one_output(1), one_output(1)
    by_fit(theirs, (x, price), loss=LOSSES[loss])
    train(pg.Supervised(ours, sgd(), LOSSES[loss]), (x, price))
    assert_same_weights(ours, theirs)


@pytest.mark.parametrize("loss", ["name", "function", "weights in the mean"])
def test_sample_weights_train_as_in_fit(loss, x, price, random):
    data = (x, price, random.uniform(0.1, 2, ROWS).astype("float32"))

    theirs, ours = one_output(1), one_output(1)
    by_fit(theirs, data, loss=LOSSES[loss])
    train(pg.Supervised(ours, sgd(), LOSSES[loss]), data)
    assert_same_weights(ours, theirs)


def test_weights_for_a_loss_of_one_number_are_refused(x, price):
    # Keras multiplies the loss of the batch with the mean of the weights.
    step = pg.Supervised(one_output(1), sgd(), LOSSES["scalar function"])
    with pytest.raises(errors.ArgumentError, match="one number for the whole batch"):
        train(step, (x, price, np.ones(ROWS, "float32")))


@pytest.mark.parametrize("y", ["flat", "one-hot", "binary"])
def test_crossentropy_means_what_the_shapes_say(y, x, kind):
    units = 1 if y == "binary" else CLASSES
    labels = {"flat": kind, "one-hot": np.eye(CLASSES)[kind], "binary": kind % 2}[y]

    def model():
        model = one_output(units)
        activation = "sigmoid" if units == 1 else "softmax"
        return keras.Model(model.input, layers.Activation(activation)(model.output))

    theirs, ours = model(), model()
    compiled = {"loss": "crossentropy", "metrics": ["accuracy"]}
    expected = by_fit(theirs, (x, labels), batch_size=10, **compiled)
    history = train(
        pg.Supervised(ours, sgd(), "crossentropy", ["accuracy"]), (x, labels), batch_size=10
    )
    assert_same_weights(ours, theirs)
    assert history["accuracy"] == pytest.approx(expected["accuracy"])
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-6)


def test_flat_labels_do_not_meet_every_prediction(x, price):
    theirs, ours = one_output(1), one_output(1)
    by_fit(theirs, (x, price), loss=nearness)
    train(pg.Supervised(ours, sgd(), nearness), (x, price[:, 0]))
    assert_same_weights(ours, theirs)


def test_without_a_loss_the_terms_of_layers_are_trained_on(x):
    @keras.saving.register_keras_serializable("tests")
    class Small(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(ops.mean(ops.square(inputs)))
            return inputs

    def model():
        inner = one_output()
        return keras.Model(inner.input, Small()(inner.output))

    theirs, ours = model(), model()
    theirs.compile(sgd(), jit_compile=False)
    expected = theirs.fit(x, batch_size=10, shuffle=False, verbose=0).history
    history = train(pg.Supervised(ours, sgd(), None), (x,), batch_size=10)
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-6)
    assert_same_weights(ours, theirs)


def test_a_measured_loss_includes_penalties_and_terms_of_layers_as_in_evaluate(x, price):
    inputs = keras.Input((FEATURES,))
    options = {"kernel_regularizer": "l2", "activity_regularizer": "l1"}
    model = keras.Model(inputs, layers.Dense(1, **options)(inputs))
    model.compile(loss="mse")

    expected = model.evaluate(x, price, batch_size=10, verbose=0)
    measured = pg.evaluate(pg.Supervised(model, "sgd", "mse"), (x, price), batch_size=10)
    assert measured["loss"] == pytest.approx(expected, rel=1e-6)


def test_the_label_checks_see_the_loss_of_the_user(x, kind):
    own = pg.Supervised(one_output(), sgd(), keras.losses.SparseCategoricalCrossentropy())
    with pytest.raises(errors.LogitsError, match=r"^LogitsError .*: SparseCategoricalCross"):
        train(own, (x, kind))

    by_name = pg.Supervised(one_output(), sgd(), "sparse_categorical_crossentropy")
    with pytest.raises(errors.LogitsError):
        train(by_name, (x, kind))

    with pytest.raises(errors.LabelRangeError):
        train(pg.Supervised(one_output(), sgd(), sparse()), (x, kind + 1))

    with pytest.raises(errors.BroadcastError):
        train(pg.Supervised(one_output(), sgd(), "mse"), (x, x[:, :1]))


def test_the_label_checks_leave_functions_alone(x):
    def pinball(y_true, y_pred):
        quantiles = ops.convert_to_tensor([0.1, 0.5, 0.9])
        error = y_true - y_pred
        return ops.mean(ops.maximum(quantiles * error, (quantiles - 1) * error), axis=-1)

    step = pg.Supervised(one_output(CLASSES), sgd(), pinball)
    assert train(step, (x, x[:, :1]))["loss"][0] > 0


def test_functions_may_branch_on_tensors(x, price):
    def steep(y_true, y_pred):
        error = ops.mean(ops.abs(y_true - y_pred))
        if error > 1e3:
            return error * 2
        return error

    if keras.backend.backend() == "jax":
        pytest.skip("JAX branches by `ops.cond` only")
    step = pg.Supervised(one_output(1), sgd(), steep)
    assert train(step, (x, price), execution="auto")["loss"][0] > 0


# Exact means.


def test_E16_losses_of_outputs_are_exact_with_a_ragged_last_batch(x, price, kind):
    price = price.copy()
    price[-ROWS % BATCH :] += 10  # the short batch is far off
    model = two_outputs()
    model.trainable = True
    step = pg.Supervised(model, keras.optimizers.SGD(0.0), ["mse", sparse()])

    first, second = model.predict(x, verbose=0)
    history = train(step, (x, [price, kind]))
    exact = {
        "price_loss": np.mean((first - price) ** 2),
        "kind_loss": float(sparse()(kind, second)),
    }
    exact["loss"] = sum(exact.values())
    for name, value in exact.items():
        assert history[name] == pytest.approx([value], rel=1e-5)


def test_masked_losses_are_means_over_all_valid_places(random):
    words = random.integers(1, 9, (ROWS, 5))
    words[np.arange(5) >= random.integers(1, 6, ROWS)[:, None]] = 0
    inputs = keras.Input((5,), dtype="int32")
    embedded = layers.Embedding(9, 4, mask_zero=True)(inputs)
    model = keras.Model(inputs, layers.Dense(CLASSES)(embedded))
    step = pg.Supervised(model, keras.optimizers.SGD(0.0), sparse(), ["accuracy"])

    history = train(step, (words, words % CLASSES), execution="auto")
    valid = words > 0
    scores = model.predict(words, verbose=0)[valid]
    assert history["loss"] == pytest.approx([float(sparse()(words[valid] % CLASSES, scores))])
    right = scores.argmax(-1) == words[valid] % CLASSES
    assert history["accuracy"] == pytest.approx([right.mean()])


@pytest.mark.parametrize("reduction", ["sum_over_batch_size", "mean_with_sample_weight"])
def test_micro_batches_make_the_update_of_the_whole_batch(reduction, x, kind, random):
    weights = random.uniform(0.1, 2, ROWS).astype("float32")
    models = one_output(), one_output()
    for model, size, accumulate in zip(models, (10, 5), (1, 2), strict=True):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction=reduction)
        step = pg.Supervised(model, sgd(), loss)
        train(step, (x, kind, weights), epochs=3, batch_size=size, accumulate=accumulate)
    assert_same_weights(*models)


def test_a_sum_cannot_be_accumulated(x, price):
    total = keras.losses.MeanSquaredError(reduction="sum")
    step = pg.Supervised(one_output(1), sgd(), total)
    with pytest.raises(errors.AccumulationError, match="a sum over the batch"):
        train(step, (x, price), accumulate=2)


def test_a_sum_trains_as_in_fit(x, price):
    total = keras.losses.MeanSquaredError(reduction="sum")
    theirs, ours = one_output(1), one_output(1)
    slow = keras.optimizers.SGD(1e-3)
    expected = by_fit(theirs, (x, price), loss=total, optimizer=slow)
    history = train(pg.Supervised(ours, keras.optimizers.SGD(1e-3), total), (x, price))
    assert_same_weights(ours, theirs)
    assert history["loss"] == pytest.approx(expected["loss"], rel=1e-6)


# Several outputs.


def test_outputs_by_position_train_and_log_as_in_fit(x, price, kind, random):
    weights = list(random.uniform(0.1, 2, (2, ROWS)).astype("float32"))
    options = {
        "loss": ["mse", sparse()],
        "loss_weights": [0.5, 2.0],
        "metrics": [
            "mae",
            ["accuracy", keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")],
        ],
        "weighted_metrics": [[], ["accuracy"]],
    }
    data = x[:16], [price[:16], kind[:16]], [weight[:16] for weight in weights]
    theirs, ours = two_outputs(), two_outputs()
    expected = by_fit(theirs, data, epochs=2, **options)
    options["metrics"][1][1] = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top")
    history = train(pg.Supervised(ours, sgd(), **options), data, epochs=2)

    assert_same_weights(ours, theirs)
    assert set(history) == {*expected, "learning_rate"}
    assert {"price_mae", "kind_accuracy", "kind_top", "kind_weighted_accuracy"} < set(expected)
    for name, values in expected.items():
        assert history[name] == pytest.approx(values, rel=1e-5), name


def test_E25_outputs_by_name_train_and_log_as_in_fit(x, price, kind):
    options = {
        "loss": {"kind": sparse(), "price": "mse"},
        "loss_weights": {"kind": 2.0, "price": 0.5},
        "metrics": {"kind": ["accuracy"]},
    }
    data = x[:16], {"kind": kind[:16], "price": price[:16]}
    theirs, ours = named_outputs(), named_outputs()
    expected = by_fit(theirs, data, epochs=2, **options)
    step = pg.Supervised(ours, sgd(), **options)
    history = train(step, data, epochs=2, execution="auto")

    assert_same_weights(ours, theirs)
    assert set(history) == {*expected, "learning_rate"} >= {"kind_accuracy", "price_loss"}
    for name, values in expected.items():
        assert history[name] == pytest.approx(values, rel=1e-5), name

    measured = pg.evaluate(step, data)
    assert measured == pytest.approx(theirs.evaluate(*data, verbose=0, return_dict=True), rel=1e-5)
    predicted = pg.predict(step, (x,))
    np.testing.assert_allclose(predicted["kind"], theirs.predict(x, verbose=0)["kind"], atol=1e-6)


@pytest.mark.slow
def test_one_loss_means_each_output(x, price):
    theirs, ours = two_outputs(), two_outputs()
    y = [price, np.tile(price, CLASSES)]
    by_fit(theirs, (x, y), loss="mse")
    history = train(pg.Supervised(ours, sgd(), "mse"), (x, y))
    assert_same_weights(ours, theirs)
    assert {"loss", "price_loss", "kind_loss"} < set(history)


@pytest.mark.spread(2)
@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        ([None, sparse()], "all"),
        ([None, sparse()], "those with a loss"),
        ([None, sparse()], "one array"),
        ({"kind": sparse()}, "by name"),
        ({"kind": sparse(), "price": None}, "by name"),
    ],
    ids=["all", "those with a loss", "one array", "by name", "by name, with none"],
)
def test_none_leaves_an_output_out(loss, labels, x, price, kind):
    y = {
        "all": [price, kind],
        "those with a loss": [kind],
        "one array": kind,
        "by name": {"kind": kind},
    }[labels]
    inner = two_outputs()
    inner.get_layer("price").trainable = False
    step = pg.Supervised(inner, sgd(), loss)
    history = train(step, (x, y), batch_size=ROWS)
    assert set(history) == {"loss", "learning_rate"}

    alone = two_outputs()
    by_fit(keras.Model(alone.input, alone.outputs[1]), (x, kind), batch_size=ROWS, loss=sparse())
    assert_same_weights(inner, alone)


def test_one_array_of_weights_counts_for_all_outputs(x, price, kind, random):
    weights = random.uniform(0.1, 2, ROWS).astype("float32")
    models = two_outputs(), two_outputs()
    for model, given in zip(models, (weights, [weights, weights]), strict=True):
        train(pg.Supervised(model, sgd(), ["mse", sparse()]), (x, [price, kind], given))
    assert_same_weights(*models)


def test_outputs_without_names_are_numbered(x, price):
    @keras.saving.register_keras_serializable("tests")
    class Pair(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = layers.Dense(1)

        def call(self, x):
            y = self.inner(x)
            return y, -y

    step = pg.Supervised(Pair(), sgd(), "mse", metrics=[None, "mae"])
    history = train(step, (x, (price, -price)))
    assert set(history) == {
        "loss",
        "output_0_loss",
        "output_1_loss",
        "output_1_mae",
        "learning_rate",
    }


def test_a_loss_weight_may_be_a_variable(x, price, kind):
    models = two_outputs(), two_outputs()
    variable = keras.Variable(0.0, trainable=False, dtype="float32", name="weight")
    step = pg.Supervised(
        models[0], sgd(), ["mse", sparse()], loss_weights={"price": variable, "kind": 1.0}
    )
    train(step, (x, [price, kind]), epochs=1)
    variable.assign(3.0)
    train(step, (x, [price, kind]), epochs=1)

    for factor in (0.0, 3.0):
        other = pg.Supervised(models[1], sgd(), ["mse", sparse()], loss_weights=[factor, 1.0])
        train(other, (x, [price, kind]), epochs=1)
    assert_same_weights(*models)


# What does not match the outputs.


def refused(x, y, model=one_output, loss="mse", weights=None, **options):
    data = (x, y) if weights is None else (x, y, weights)
    with pytest.raises(errors.OutputsError) as raised:
        train(pg.Supervised(model(), sgd(), loss, **options), data)
    return raised.value


def test_E18_a_second_loss_for_one_output_is_refused(x, price):
    error = refused(x, price, lambda: one_output(1), ["mse", "mae"])

    assert (error.what, error.given, error.outputs) == ("loss", ("mse", "mae"), ("head",))


@pytest.mark.parametrize(
    ("what", "options"),
    [
        ("loss", {"loss": ["mse"]}),
        ("loss", {"loss": ["mse", "mse", "mse"]}),
        ("loss", {"loss": {"prize": "mse", "kind": "mse"}}),
        ("loss_weights", {"loss_weights": [1.0]}),
        ("loss_weights", {"loss_weights": {"prize": 1.0}}),
        ("loss_weights", {"loss_weights": 0.5}),
        ("metrics", {"metrics": ["mae"]}),
        ("metrics", {"metrics": {"prize": "mae"}}),
        ("weighted_metrics", {"weighted_metrics": ["mae", "mae", "mae"]}),
    ],
    ids=str,
)
def test_wrong_names_and_numbers_are_refused(what, options, x, price):
    error = refused(x, [price, x[:, :CLASSES]], two_outputs, **options)

    assert error.what == what
    assert error.outputs == ("price", "kind")


@pytest.mark.parametrize(
    "y",
    [lambda p: [p, p, p], lambda p: {"prize": p}, lambda p: {"price": p}, lambda p: p],
    ids=["too many", "wrong name", "one missing", "one array"],
)
def test_labels_that_do_not_match_are_refused(y, x, price):
    assert refused(x, y(price), two_outputs).what == "y"


def test_missing_labels_are_refused(x):
    with pytest.raises(errors.OutputsError):
        train(pg.Supervised(one_output(), sgd(), "mse"), (x,))


def test_weights_that_do_not_match_are_refused(x, price):
    y, weights = [price, x[:, :CLASSES]], np.ones(ROWS, "float32")
    assert refused(x, y, two_outputs, weights={"prize": weights}).what == "sample_weight"


def test_a_list_for_outputs_by_name_is_refused_where_the_order_is_in_doubt(x, price, kind):
    # As written price comes first, sorted kind does, and Keras goes by both.
    error = refused(x, {"price": price, "kind": kind}, named_outputs, ["mse", sparse()])

    assert error.outputs == ("price", "kind")


def test_the_labels_of_a_single_output_may_stand_in_a_list_or_dict(x, price):
    models = one_output(1), one_output(1), one_output(1)
    for model, y in zip(models, (price, [price], {"head": price}), strict=True):
        train(pg.Supervised(model, sgd(), "mse"), (x, y))
    assert_same_weights(models[0], models[1])
    assert_same_weights(models[0], models[2])


# Metrics and class weights.


def slightlyOff(y_true, y_pred):
    return ops.mean(ops.abs(y_true - y_pred), axis=-1) < 1


def test_metrics_are_logged_as_in_fit(x, price, random):
    weights = random.uniform(0.1, 2, ROWS).astype("float32")

    def options():
        return {
            "loss": "mse",
            "metrics": ["mae", keras.metrics.MeanSquaredError(name="error"), slightlyOff, "mae"],
            "weighted_metrics": ["mae", keras.metrics.RootMeanSquaredError()],
        }

    theirs, ours = one_output(1), one_output(1)
    expected = by_fit(theirs, (x, price, weights), epochs=2, **options())
    step = pg.Supervised(ours, sgd(), **options())
    history = train(step, (x, price, weights), epochs=2)

    assert set(history) == {*expected, "learning_rate"}
    for name, values in expected.items():
        assert history[name] == pytest.approx(values, rel=1e-5), name
    expected = theirs.evaluate(x, price, sample_weight=weights, verbose=0, return_dict=True)
    assert pg.evaluate(step, (x, price, weights)) == pytest.approx(expected, rel=1e-5)


def test_a_metric_may_stand_at_one_place_only():
    shared = keras.metrics.MeanSquaredError()
    with pytest.raises(errors.ArgumentError, match="twice"):
        pg.Supervised(two_outputs(), sgd(), "mse", [[shared], [shared]])


def test_a_name_that_is_not_known_comes_out_as_the_error_of_keras(x, price):
    with pytest.raises(ValueError, match="no_such_metric"):
        pg.Supervised(one_output(1), sgd(), "mse", ["no_such_metric"])
    with pytest.raises(ValueError, match="no_such_loss"):
        train(pg.Supervised(one_output(1), sgd(), "no_such_loss"), (x, price))


@pytest.mark.parametrize("form", ["ids", "column", "one-hot"])
def test_class_weights_train_as_in_fit(form, x, kind):
    classes = {0: 0.2, 2: 3.0}  # a class without a weight counts 1
    y = {"ids": kind, "column": kind[:, None], "one-hot": np.eye(CLASSES)[kind]}[form]

    def options():
        loss = sparse()
        if form == "one-hot":
            loss = keras.losses.CategoricalCrossentropy(from_logits=True)
        return {"loss": loss, "metrics": ["accuracy"], "weighted_metrics": ["acc"]}

    theirs, ours = one_output(), one_output()
    expected = by_fit(theirs, (x, y), class_weight=classes, **options())
    step = pg.Supervised(ours, sgd(), **options(), class_weight=classes)
    history = train(step, (x, y), execution="auto")

    assert_same_weights(ours, theirs)
    for name, values in expected.items():
        assert history[name] == pytest.approx(values, rel=1e-5), name
    plain = theirs.evaluate(x, y, verbose=0, return_dict=True)
    assert pg.evaluate(step, (x, y)) == pytest.approx(plain, rel=1e-5)


def test_class_weights_multiply_sample_weights(x, kind, random):
    classes = {0: 0.2, 1: 1.5, 2: 3.0}
    weights = random.uniform(0.1, 2, (ROWS, 1)).astype("float32")
    joint = weights[:, 0] * np.array([classes[i] for i in kind], "float32")
    models = one_output(), one_output()
    both = pg.Supervised(models[0], sgd(), sparse(), class_weight=classes)
    train(both, (x, kind, weights))
    train(pg.Supervised(models[1], sgd(), sparse()), (x, kind, joint))
    assert_same_weights(*models)


def test_a_class_above_those_that_are_weighted_counts_once(x, kind):
    classes, above = {0: 0.2, 1: 1.5}, 2
    weights = np.array([classes.get(i, 1.0) for i in kind], "float32")
    models = one_output(), one_output()

    train(pg.Supervised(models[0], sgd(), sparse(), class_weight=classes), (x, kind))
    train(pg.Supervised(models[1], sgd(), sparse()), (x, kind, weights))

    assert above in kind
    assert_same_weights(*models)


def test_class_weights_that_cannot_be_meant_are_refused(x, price, kind):
    with pytest.raises(errors.ArgumentError, match="class ids"):
        pg.Supervised(one_output(), sgd(), "mse", class_weight={-1: 2.0})
    step = pg.Supervised(two_outputs(), sgd(), ["mse", sparse()], class_weight={0: 2.0})
    with pytest.raises(errors.ArgumentError, match="one output"):
        train(step, (x, [price, kind]))


# Several optimizers.


def groups_of(model):
    body, head = model.get_layer("body"), model.get_layer("head")
    return {
        "layers": (body, head),
        "lists": ([body.kernel, [body.bias]], [head]),
        "expressions": ("^body/", "^head/"),
        "mixed": ([body], r"head/(kernel|bias)$"),
    }


@pytest.mark.parametrize("form", ["layers", "lists", "expressions", "mixed"])
def test_each_optimizer_updates_its_group(form, x, price):
    slow, fast = 0.01, 0.1
    model, expected = one_output(1), one_output(1)
    first, second = groups_of(model)[form]
    step = pg.Supervised(
        model, [(keras.optimizers.SGD(slow), first), (keras.optimizers.SGD(fast), second)], "mse"
    )
    history = train(step, (x, price), batch_size=ROWS)
    assert history["optimizer/0/learning_rate"] == pytest.approx([slow])

    before = [weight.copy() for weight in expected.get_weights()]
    by_fit(expected, (x, price), batch_size=ROWS, loss="mse", optimizer=keras.optimizers.SGD(1.0))
    rates = (slow, slow, fast, fast)
    for now, old, new, rate in zip(
        model.get_weights(), before, expected.get_weights(), rates, strict=True
    ):
        np.testing.assert_allclose(now - old, rate * (new - old), atol=1e-6)
    assert [int(optimizer.iterations) for optimizer in step.optimizer] == [1, 1]


@pytest.mark.parametrize(
    ("patterns", "missing", "doubled"),
    [
        (("^head/kernel", "^body/"), ("head/bias",), ()),
        (("kernel", "^body/", "^head/bias"), (), ("body/kernel",)),
        (("^head/", "^head/kernel"), ("body/kernel", "body/bias"), ("head/kernel",)),
    ],
)
def test_groups_must_cover_each_variable_once(patterns, missing, doubled, x, price):
    model = one_output(1)
    before = model.get_weights()
    step = pg.Supervised(model, [(sgd(), pattern) for pattern in patterns], "mse")
    with pytest.raises(errors.OptimizerGroupsError) as raised:
        train(step, (x, price))
    assert (raised.value.missing, raised.value.doubled) == (missing, doubled)
    assert_same_weights(model, one_output(1), tolerance=0)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


def test_a_frozen_group_is_left_alone(x, price):
    model = one_output(1)
    model.get_layer("body").trainable = False
    step = pg.Supervised(model, [(sgd(), "^body/"), (sgd(), "^head/")], "mse")
    train(step, (x, price))
    assert int(step.optimizer[1].iterations) == 3
    np.testing.assert_array_equal(
        model.get_layer("body").get_weights()[0], one_output(1).get_layer("body").get_weights()[0]
    )


def test_groups_work_with_a_model_that_is_built_at_its_first_call(x, price):
    keras.utils.set_random_seed(5)
    model = keras.Sequential([layers.Dense(6, name="body"), layers.Dense(1, name="head")])
    step = pg.Supervised(model, [(sgd(), model.layers[0]), ("adam", model.layers[1])], "mse")
    history = train(step, (x, price), epochs=5, execution="auto")
    assert history["loss"][-1] < history["loss"][0]


def test_micro_batches_work_with_several_optimizers(x, price):
    models = one_output(1), one_output(1)
    for model, size, accumulate in zip(models, (10, 5), (1, 2), strict=True):
        pairs = [(sgd(), "^body/"), (keras.optimizers.SGD(0.01), "^head/")]
        train(
            pg.Supervised(model, pairs, "mse"),
            (x, price),
            epochs=2,
            batch_size=size,
            accumulate=accumulate,
        )
    assert_same_weights(*models)


@pytest.mark.parametrize(
    "optimizer",
    [[], [keras.optimizers.SGD], ("adam", "head"), [("adam", 3)]],
    ids=["empty", "no pairs", "a bare pair", "a number as group"],
)
def test_optimizers_that_cannot_be_meant_are_refused(optimizer):
    with pytest.raises(errors.ArgumentError):
        pg.Supervised(one_output(), optimizer, "mse")


def test_a_group_that_means_nothing_in_the_model_is_refused(x, price):
    other = layers.Dense(1)
    other.build((None, 1))
    for group in ("^haed/", other):
        step = pg.Supervised(one_output(1), [(sgd(), "."), (sgd(), group)], "mse")
        with pytest.raises(errors.ArgumentError, match="group"):
            train(step, (x, price))


# As a Step among others.


def test_batches_of_every_form(x, price):
    step = pg.Supervised(one_output(1), "sgd", "mse")
    weights = np.ones(ROWS, "float32")
    expected = None
    for data in ((x, price), (x, price, weights)):
        loss = pg.evaluate(step, data)["loss"]
        assert loss == pytest.approx(expected or loss)
        expected = loss
    alone, pair = pg.predict(step, (x,)), pg.predict(step, (x, price))
    np.testing.assert_array_equal(alone, pair)
    np.testing.assert_array_equal(alone, pg.predict(step, x))


def test_a_model_that_is_built_at_its_first_call(x, kind):
    step = pg.Supervised(keras.Sequential([layers.Dense(CLASSES)]), "adam", sparse(), ["accuracy"])
    history = train(step, (x, kind), validation=(x, kind))
    assert {"loss", "accuracy", "val_loss", "val_accuracy"} < set(history)


def test_it_may_stand_inside_another_step(x, price):
    class Logged(pg.Step):
        def __init__(self, inner):
            self.inner = inner

        def train_step(self, batch):
            return {**self.inner.train_step(batch), "one": 1.0}

    model, expected = one_output(1), one_output(1)
    history = train(Logged(pg.Supervised(model, sgd(), "mse", ["mae"])), (x, price))
    train(pg.Supervised(expected, sgd(), "mse"), (x, price))
    assert {"loss", "mae", "one"} < set(history)
    assert_same_weights(model, expected)


def test_what_is_not_a_model_is_refused():
    with pytest.raises(errors.ArgumentError, match="model"):
        pg.Supervised(lambda x: x, "adam", "mse")
