"""Programs whose labels, head, loss and metric are not of one task, and odd ones where they are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import losses, metrics, ops

from tests.diagnostics.programs import (
    CLASSES,
    FEATURES,
    ROWS,
    Own,
    answers,
    classes,
    compiled,
    inputs,
    model,
    numbers,
    rows,
    small,
    squares,
    supervised,
)

Make = Callable[[], tuple[Any, Any]]

FAULTY: dict[str, tuple[str, Make]] = {}
"""By name: the code that is to be told first, and what makes the target and its data."""

HEALTHY: dict[str, Make] = {}


def faulty(code: str) -> Callable[[Make], Make]:
    def put(make: Make) -> Make:
        FAULTY[make.__name__] = code, make
        return make

    return put


def healthy(make: Make) -> Make:
    HEALTHY[make.__name__] = make
    return make


def column(data: Any, dtype: str = "int64") -> Any:
    """Return data with labels of shape `(rows,)`."""
    return data[0], data[1].reshape(-1).astype(dtype)


def two_columns() -> Any:
    x, y = column(answers())
    return x, np.eye(2, dtype="float32")[y]


def counts() -> Any:
    x = inputs()
    return x, np.random.default_rng(0).poisson(np.exp(0.5 * x[:, 0] + 0.5))


def tags() -> Any:
    x = inputs()
    return x, (x[:, :4] + 0.3 * x[:, 1:5] > 0).astype("int32")


def words(labels: Callable[[Any], Any]) -> Any:
    ids = np.random.default_rng(0).integers(9, size=(ROWS, 6)).astype("int32")
    return ids, labels(ids % CLASSES)


def reader(units: int, head: str | None) -> keras.Model:
    entry = keras.Input((6,), dtype="int32")
    return keras.Sequential([entry, kl.Embedding(9, 4), kl.Dense(units, activation=head)])


def hot(ids: Any) -> np.ndarray:
    return np.eye(CLASSES, dtype="float32")[ids]


def log_loss(y: Any, p: Any) -> Any:
    p = ops.clip(p, 1e-7, 1 - 1e-7)
    return -ops.mean(y * ops.log(p) + (1 - y) * ops.log(1 - p), axis=-1)


def log_loss_of_rows(y: Any, p: Any) -> Any:
    return -ops.sum(y * ops.log(ops.maximum(p, 1e-8)), axis=-1)


def log_loss_of_scores(y: Any, p: Any) -> Any:
    return -ops.sum(y * ops.log_softmax(p), axis=-1)


def pinball(y: Any, p: Any) -> Any:
    return ops.mean(ops.maximum(0.8 * (y - p), -0.2 * (y - p)), axis=-1)


# Classes as numbers.


@faulty("PG227")
def ids_by_squares() -> Any:
    return compiled(small(1), "mse", ["accuracy"]), column(classes())


@faulty("PG227")
def ids_as_floats_by_absolute_errors() -> Any:
    x, y = column(classes(), "float32")
    return compiled(small(1), "mae", ["accuracy"]), (x, y[:, None])


@faulty("PG227")
def ids_for_a_sigmoid() -> Any:
    return compiled(small(1, "sigmoid"), "mse"), column(classes(), "uint8")


@faulty("PG227")
def ids_for_a_sigmoid_by_hand() -> Any:
    def loss(y: Any, p: Any) -> Any:
        return ops.square(ops.cast(y, "float32") - p[:, 0])

    return Own(small(1, "sigmoid"), loss), column(classes())


@faulty("PG227")
def rows_by_squares() -> Any:
    x, y = rows()
    return compiled(small(3, "softmax"), "mse", ["accuracy"]), (x, y.astype("int64"))


@faulty("PG227")
def images_by_squares() -> Any:
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype("float32")
    head = kl.Conv2D(3, 3, padding="same", activation="softmax")
    network = keras.Sequential([keras.Input((6, 6, 3)), head])
    return compiled(network, "mse", ["accuracy"]), (x, hot(x.argmax(axis=-1)))


@faulty("PG227")
def answers_by_squares() -> Any:
    return compiled(small(1), "mse", ["accuracy"]), column(answers())


@faulty("PG227")
def rows_as_independent_labels() -> Any:
    return compiled(small(3, "sigmoid"), "binary_crossentropy", ["accuracy"]), rows()


@faulty("PG227")
def two_columns_as_independent_labels() -> Any:
    return compiled(small(2, "sigmoid"), "binary_crossentropy"), two_columns()


@faulty("PG227")
def rows_of_words_as_independent_labels() -> Any:
    return compiled(reader(3, "sigmoid"), "binary_crossentropy"), words(hot)


@faulty("PG227")
def a_softmax_of_independent_labels() -> Any:
    return compiled(small(3, "softmax"), "binary_crossentropy"), rows()


# Labels that the loss is not for.


@faulty("PG228")
def amounts_as_ids() -> Any:
    x, y = column(numbers(), "float32")
    y = (y - y.min()) / np.ptp(y) * 2.9
    return compiled(small(3, "softmax"), "sparse_categorical_crossentropy"), (x, y)


@faulty("PG228")
def tags_for_a_softmax() -> Any:
    return compiled(small(4, "softmax"), "categorical_crossentropy", ["accuracy"]), tags()


@faulty("PG205")
def ids_from_one() -> Any:
    x, y = classes()
    return compiled(small(3, "softmax"), "sparse_categorical_crossentropy"), (x, y + 1)


@faulty("PG205")
def signs_in_a_later_batch() -> Any:
    x, y = column(answers())
    order = np.argsort(-y, kind="stable")
    return compiled(small(1, "sigmoid"), "binary_crossentropy"), (x[order], 2 * y[order] - 1)


@faulty("PG205")
def words_for_a_sigmoid() -> Any:
    return compiled(reader(1, "sigmoid"), "binary_crossentropy"), words(lambda y: y[..., None])


# Heads.


@faulty("PG224")
def softmax_of_one_unit_for_two_rows() -> Any:
    x, y = answers()
    return compiled(small(1, "softmax"), "binary_crossentropy"), (x[:2], y[:2])


@faulty("PG224")
def softmax_in_a_layer_of_its_own() -> Any:
    network = model(kl.Dense(8, activation="relu"), kl.Dense(1), kl.Softmax(), kl.Reshape((1,)))
    return compiled(network, "mse"), answers()


@faulty("PG224")
def softmax_as_a_function() -> Any:
    entry = keras.Input((FEATURES,))
    network = keras.Model(entry, ops.softmax(kl.Dense(1)(entry)))
    return compiled(network, "binary_crossentropy"), answers()


@faulty("PG206")
def small_scores_above_0_as_probabilities() -> Any:
    x, y = answers()
    return compiled(small(1, "relu"), "binary_crossentropy"), (0.1 * x, y)


@faulty("PG206")
def scores_through_dropout() -> Any:
    network = model(kl.Dense(8, activation="relu"), kl.Dense(1), kl.Dropout(0.1))
    return compiled(network, "binary_crossentropy", ["accuracy"]), answers()


@faulty("PG225")
def sigmoid_before_logits_through_dropout() -> Any:
    network = model(kl.Dense(1), kl.Activation("sigmoid"), kl.Dropout(0.1))
    return compiled(network, losses.BinaryCrossentropy(from_logits=True)), answers()


@faulty("PG225")
def scores_in_a_log_loss_by_hand() -> Any:
    return Own(small(1), log_loss), answers()


@faulty("PG225")
def scores_in_a_log_loss_that_is_compiled() -> Any:
    return compiled(small(1), log_loss), answers()


@faulty("PG225")
def scores_in_a_log_loss_of_rows() -> Any:
    return supervised(small(3), log_loss_of_rows), rows()


@faulty("PG225")
def scores_in_a_function_of_keras() -> Any:
    loss = keras.losses.sparse_categorical_crossentropy
    return Own(small(3), lambda y, p: loss(y, p)), classes()


@faulty("PG225")
def softmax_twice_by_hand() -> Any:
    return Own(small(3, "softmax"), log_loss_of_scores), rows()


@faulty("PG225")
def rates_below_0() -> Any:
    return compiled(small(1), "poisson"), column(counts())


@faulty("PG225")
def sigmoid_before_a_hinge() -> Any:
    x, y = column(answers())
    return compiled(small(1, "sigmoid"), "hinge"), (x, 2 * y - 1)


@faulty("PG226")
def sigmoid_for_a_column() -> Any:
    return compiled(small(1, "sigmoid"), "mse"), column(numbers(), "float64")


@faulty("PG226")
def tanh_for_integers() -> Any:
    x, y = column(numbers(), "float32")
    return compiled(small(1, "tanh"), "mae"), (x, np.round(9 * y).astype("int32"))


@faulty("PG226")
def relu_for_a_later_batch() -> Any:
    x, y = column(numbers(), "float32")
    order = np.argsort(-y)
    return compiled(small(1, "relu"), "mse"), (x[order], y[order])


@faulty("PG226")
def softmax_for_shares_that_sum_to_more() -> Any:
    x, y = numbers()
    y = (y - y.min()) / np.ptp(y)
    return compiled(small(3, "softmax"), "mse"), (x, np.concatenate([y, y, 1 - 0.2 * y], axis=1))


# Metrics.


@faulty("PG230")
def accuracy_of_amounts() -> Any:
    return compiled(small(1), "mse", ["accuracy"]), column(numbers(), "float32")


@faulty("PG230")
def categorical_accuracy_of_ids() -> Any:
    loss = "sparse_categorical_crossentropy"
    return compiled(small(3, "softmax"), loss, ["categorical_accuracy"]), column(classes())


@faulty("PG230")
def accuracy_of_small_logits() -> Any:
    initial = keras.initializers.RandomNormal(stddev=1e-3, seed=1)
    head = kl.Dense(
        1, kernel_initializer=initial, bias_initializer=keras.initializers.Constant(0.3)
    )
    loss = losses.BinaryCrossentropy(from_logits=True)
    return supervised(model(head), loss, ["accuracy"]), answers()


@faulty("PG230")
def sparse_accuracy_of_one_unit() -> Any:
    metric = metrics.SparseCategoricalAccuracy()
    return compiled(small(1, "sigmoid"), "binary_crossentropy", [metric]), answers()


@faulty("PG230")
def accuracy_of_signs() -> Any:
    x, y = column(answers())
    return compiled(small(1, "tanh"), "hinge", ["binary_accuracy"]), (x, 2 * y - 1)


# What looks like that, and is right.


@healthy
def brier_score() -> Any:
    return compiled(small(1, "sigmoid"), "mse", [metrics.AUC()]), column(answers())


@healthy
def brier_score_of_rows() -> Any:
    return compiled(small(3, "softmax"), "mse"), rows()


@healthy
def brier_score_by_name() -> Any:
    def brier(y: Any, p: Any) -> Any:
        return ops.mean(ops.square(y - p), axis=-1)

    return compiled(small(1, "sigmoid"), brier, ["accuracy"]), answers()


@healthy
def counts_by_squares() -> Any:
    return compiled(small(1), "mse", ["mae"]), counts()


@healthy
def counts_by_poisson() -> Any:
    return compiled(small(1, "softplus"), "poisson", ["mae"]), counts()


@healthy
def grades() -> Any:
    x = inputs()
    edges = np.quantile(x[:, 0], [0.2, 0.4, 0.6, 0.8])
    return compiled(small(1), "mse", ["mae"]), (x, np.digitize(x[:, 0], edges))


@healthy
def hinge_of_signs() -> Any:
    x, y = column(answers())
    return compiled(small(1, "tanh"), "hinge"), (x, 2 * y - 1)


@healthy
def hinge_of_answers() -> Any:
    return compiled(small(1), "squared_hinge"), answers()


@healthy
def hinge_of_rows() -> Any:
    return compiled(small(3), "categorical_hinge", ["accuracy"]), rows()


@healthy
def smoothed() -> Any:
    loss = losses.CategoricalCrossentropy(label_smoothing=0.1)
    return compiled(small(3, "softmax"), loss, ["accuracy"]), rows()


@healthy
def smoothed_by_hand() -> Any:
    x, y = rows()
    return compiled(small(3, "softmax"), "kl_divergence", ["accuracy"]), (x, 0.9 * y + 0.1 / 3)


@healthy
def soft_answers() -> Any:
    x, y = answers()
    return compiled(small(1, "sigmoid"), "binary_crossentropy"), (x, 0.8 * y + 0.1)


@healthy
def quantiles() -> Any:
    return compiled(small(1), pinball, ["mae"]), numbers()


@healthy
def autoencoder_of_bits() -> Any:
    x = (inputs() > 0).astype("float32")
    return compiled(small(FEATURES, "sigmoid"), "mse"), (x, x)


@healthy
def autoencoder_of_shares() -> Any:
    x = 1 / (1 + np.exp(-inputs()))
    return compiled(small(FEATURES, "sigmoid"), "binary_crossentropy"), (x, x)


@healthy
def several_tags() -> Any:
    return compiled(small(4, "sigmoid"), "binary_crossentropy", ["binary_accuracy"]), tags()


@healthy
def at_most_one_tag() -> Any:
    x, y = rows()
    y[::5] = 0
    return compiled(small(3, "sigmoid"), "binary_crossentropy"), (x, y)


@healthy
def nearly_always_one_tag() -> Any:
    x, y = rows()
    y[3] = 1
    return compiled(small(3, "sigmoid"), "binary_crossentropy"), (x, y)


@healthy
def two_columns_of_a_softmax() -> Any:
    return compiled(small(2, "softmax"), "binary_crossentropy", ["accuracy"]), two_columns()


@healthy
def two_units_by_id() -> Any:
    loss = "sparse_categorical_crossentropy"
    return compiled(small(2, "softmax"), loss, ["accuracy"]), column(answers())


@healthy
def ids_as_floats() -> Any:
    x, y = column(classes(), "float32")
    loss = "sparse_categorical_crossentropy"
    return compiled(small(3, "softmax"), loss, ["accuracy"]), (x, y[:, None])


@healthy
def truth_values() -> Any:
    return compiled(small(1, "sigmoid"), "binary_crossentropy", ["accuracy"]), column(
        answers(), "bool"
    )


@healthy
def words_by_id() -> Any:
    loss = "sparse_categorical_crossentropy"
    return compiled(reader(3, "softmax"), loss, ["accuracy"]), words(lambda y: y.astype("uint8"))


@healthy
def scaled_after_a_sigmoid() -> Any:
    x, y = numbers()
    network = model(kl.Dense(1, activation="sigmoid"), kl.Rescaling(20.0, offset=-10.0))
    return compiled(network, "mse"), (x, y)


@healthy
def zeros_in_the_head() -> Any:
    head = kl.Dense(3, kernel_initializer="zeros")
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    return compiled(model(kl.Dense(8, activation="relu"), head), loss, ["accuracy"]), classes()


@healthy
def log_loss_of_probabilities() -> Any:
    return Own(small(1, "sigmoid"), log_loss), answers()


@healthy
def log_loss_of_logits() -> Any:
    return Own(small(3), log_loss_of_scores), rows()


@healthy
def squares_of_real_and_made_up() -> Any:
    return Own(small(1), squares), answers()


@healthy
def chosen_actions() -> Any:
    draw = np.random.default_rng(0)
    actions, gains = draw.integers(4, size=ROWS), draw.normal(size=ROWS).astype("float32")

    def loss(action: Any, scores: Any, gain: Any) -> Any:
        return ops.square(ops.sum(scores * ops.one_hot(action, 4), axis=-1) - gain)

    return Own(small(4), loss), (inputs(), actions, gains)


@healthy
def directions() -> Any:
    x, _ = numbers()
    return compiled(small(3), "cosine_similarity"), (x, np.tanh(x[:, :3]))


@healthy
def shares_of_several() -> Any:
    x, y = tags()
    y = (y + 1e-3) / (y + 1e-3).sum(axis=1, keepdims=True)
    return compiled(small(4, "softmax"), "categorical_crossentropy"), (x, y)
