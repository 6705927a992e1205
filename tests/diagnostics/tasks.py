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


def faulty(code: str, but: str = "") -> Callable[[Make], Make]:
    """Keep a faulty program; `but` names the framework that cannot run it."""

    def put(make: Make) -> Make:
        if keras.backend.backend() != but:
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
def rows_of_words_as_independent_labels() -> Any:
    return compiled(reader(3, "sigmoid"), "binary_crossentropy"), words(hot)


@faulty("PG227")
def a_softmax_of_independent_labels() -> Any:
    return compiled(small(3, "softmax"), "binary_crossentropy"), rows()


def heaps(kinds: int, order: Any = None) -> Any:
    """Return inputs around one point for each class, and ids in an order that is not theirs."""
    draw = np.random.default_rng(4)
    places = np.arange(kinds)[:, None] * np.array([[2.0, 1.0, 0.0, -1.0, 3.0]])
    ids = draw.integers(kinds, size=120)
    x = places[ids] + draw.normal(size=(120, FEATURES)) * 0.4
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 0.1)
    return x.astype("float32"), (ids if order is None else np.array(order)[ids])


@faulty("PG227")
def heaps_by_squares() -> Any:
    return compiled(small(1), "mse"), heaps(4, [2, 0, 3, 1])


@faulty("PG227")
def heaps_by_a_huber_of_functions() -> Any:
    def loss(y: Any, p: Any) -> Any:
        return losses.huber(ops.expand_dims(y, -1), p)

    return Own(small(1), loss), heaps(5, [3, 0, 4, 1, 2])


@faulty("PG227")
def heaps_by_a_distance_of_ones_own() -> Any:
    def loss(y: Any, p: Any) -> Any:
        return ops.sqrt(1.0 + ops.square(ops.cast(y, "float32") - p[:, 0])) - 1.0

    return Own(small(1), loss), column(heaps(6, [0, 3, 1, 5, 2, 4]), "int32")


def story(last: bool) -> Any:
    """Return texts of ids, in each of which one follows from the one before, and what follows."""
    text = np.zeros((90, 7), "int32")
    text[:, 0] = np.random.default_rng(0).integers(9, size=90)
    for place in range(6):
        text[:, place + 1] = (text[:, place] + 2) % 9
    return text[:, :-1], text[:, -1] if last else text[:, 1:]


@faulty("PG227")
def next_ids_by_squares() -> Any:
    return compiled(reader(1, None), "mse"), story(last=False)


@faulty("PG227")
def the_next_id_by_absolute_errors() -> Any:
    entry = keras.Input((6,), dtype="int32")
    network = keras.Sequential([entry, kl.Embedding(9, 4), kl.GRU(8), kl.Dense(1)])
    return compiled(network, "mae"), story(last=True)


# Labels that the loss is not for.


@faulty("PG204")
def ids_as_rows_in_a_log_loss_by_hand() -> Any:
    x, y = column(classes())
    return Own(small(3, "softmax"), log_loss_of_rows), (x, y.astype("float32")[:, None])


@faulty("PG204")
def ids_as_rows_in_a_loss_of_scores() -> Any:
    x, y = column(classes(), "float32")
    return supervised(small(3), log_loss_of_scores), (x, y[:, None])


@faulty("PG204")
def answers_as_rows_in_a_focal_loss() -> Any:
    def focal(y: Any, p: Any) -> Any:
        p = ops.clip(p, 1e-6, 1.0)
        return -ops.sum(y * (1 - p) ** 2 * ops.log(p), axis=-1)

    return compiled(small(2, "softmax"), focal), answers()


@faulty("PG205")
def answers_in_a_hinge_by_hand() -> Any:
    def hinge(y: Any, p: Any) -> Any:
        return ops.mean(ops.maximum(0.0, 1.0 - y * p), axis=-1)

    return supervised(small(1), hinge), answers()


@faulty("PG205")
def sorted_answers_in_a_squared_hinge_by_hand() -> Any:
    x, y = answers()
    order = np.argsort(y[:, 0], kind="stable")

    def hinge(y: Any, p: Any) -> Any:
        return ops.square(ops.relu(1.0 - y * p))[:, 0]

    return Own(small(1), hinge), (x[order], y[order])


@faulty("PG205")
def half_a_log_loss() -> Any:
    def loss(y: Any, p: Any) -> Any:
        return -ops.mean(y * ops.log(ops.clip(p, 1e-7, 1.0)), axis=-1)

    return compiled(small(1, "sigmoid"), loss), answers()


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


@faulty("PG225")
def tanh_before_logits() -> Any:
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    return compiled(small(3, "tanh"), loss), classes()


@faulty("PG225")
def softmax_of_a_softmax() -> Any:
    network = model(kl.Dense(3, activation="softmax"), kl.Softmax())
    return compiled(network, "categorical_crossentropy"), rows()


@faulty("PG225")
def softmax_of_a_softmax_within() -> Any:
    entry = keras.Input((FEATURES,))
    network = keras.Model(entry, ops.softmax(small(3, "softmax")(entry)))
    return supervised(network, losses.SparseCategoricalCrossentropy()), classes()


@faulty("PG225")
def sigmoid_of_a_relu() -> Any:
    network = model(kl.Dense(8, activation="relu"), kl.Dense(1, activation="relu"))
    network.add(kl.Activation("sigmoid"))
    return compiled(network, "binary_crossentropy"), answers()


@faulty("PG225")
def softmax_by_the_step_of_a_softmax() -> Any:
    loss = losses.SparseCategoricalCrossentropy()
    return Own(small(3, "softmax"), lambda y, p: loss(y, ops.softmax(p))), classes()


@faulty("PG225")
def dropout_of_amounts() -> Any:
    network = model(kl.Dense(8, activation="relu"), kl.Dense(1), kl.Dropout(0.3))
    return supervised(network, "mse"), numbers()


@faulty("PG225")
def dropout_before_a_softmax() -> Any:
    network = model(kl.Dense(8, activation="relu"), kl.Dense(3), kl.Dropout(0.4), kl.Softmax())
    return Own(network, losses.SparseCategoricalCrossentropy()), classes()


def pictures(units: int) -> Any:
    x = np.random.default_rng(0).normal(size=(16, 6, 4, 3)).astype("float32")
    return x, x[..., :units].argmax(axis=-1).reshape(16, 24).astype("int32")


@faulty("PG223")
def pixels_for_classes() -> Any:
    entry = keras.Input((6, 4, 3))
    made = kl.Permute((2, 1))(kl.Reshape((3, 24))(kl.Conv2D(3, 3, padding="same")(entry)))
    network = keras.Model(entry, kl.Softmax()(made))
    return compiled(network, "sparse_categorical_crossentropy"), pictures(3)


@faulty("PG223")
def pixels_for_classes_as_scores() -> Any:
    entry = keras.Input((6, 4, 3))
    made = ops.reshape(kl.Conv2D(3, 1)(entry), (-1, 3, 24))
    network = keras.Model(entry, ops.transpose(made, (0, 2, 1)))
    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    return supervised(network, loss), pictures(3)


@faulty("PG226")
def a_recurrent_layer_for_amounts() -> Any:
    x, y = numbers()
    network = model(kl.Reshape((FEATURES, 1)), kl.GRU(1))
    return compiled(network, "mse"), (x, 5 * y)


@faulty("PG226")
def a_range_of_a_function() -> Any:
    entry = keras.Input((FEATURES,))
    network = keras.Model(entry, 2.0 * ops.tanh(kl.Dense(1)(entry)) + 1.0)
    return compiled(network, "mae"), (numbers()[0], 4 * numbers()[1])


@faulty("PG226")
def squares_for_amounts_below_0() -> Any:
    entry = keras.Input((FEATURES,))
    network = keras.Model(entry, ops.square(kl.Dense(1)(kl.Dense(8, activation="relu")(entry))))
    return supervised(network, "mse"), numbers()


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


@faulty("PG230", but="torch")  # it raises
def best_five_of_three() -> Any:
    loss, metric = "sparse_categorical_crossentropy", "sparse_top_k_categorical_accuracy"
    return compiled(small(3, "softmax"), loss, [metric]), column(classes())


@faulty("PG230")
def best_three_of_three_rows() -> Any:
    metric = metrics.TopKCategoricalAccuracy(k=3)
    return supervised(small(3, "softmax"), "categorical_crossentropy", [metric]), rows()


@faulty("PG233")
def rows_of_inputs_turned() -> Any:
    class Turned(Own):
        def train_step(self, batch: Any) -> Any:
            return super().train_step((ops.flip(batch[0], axis=0), batch[1]))

    return Turned(small(1), losses.MeanSquaredError()), numbers()


@faulty("PG233")
def labels_moved_on() -> Any:
    class Moved(Own):
        def train_step(self, batch: Any) -> Any:
            return super().train_step((batch[0], ops.roll(batch[1], 3, axis=0)))

    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    return Moved(small(3), loss), classes()


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


@healthy
def two_columns_as_independent_labels() -> Any:
    return compiled(small(2, "sigmoid"), "binary_crossentropy", ["accuracy"]), two_columns()


@healthy
def heaps_in_order_by_squares() -> Any:
    return compiled(small(1), "mse"), heaps(4)


@healthy
def many_counts_by_squares() -> Any:
    x = np.random.default_rng(0).integers(2, size=(200, FEATURES)).astype("float32")
    return compiled(small(1), "mse"), (x, x.sum(axis=1).astype("int64"))


@healthy
def how_many_by_a_distance_of_ones_own() -> Any:
    def loss(y: Any, p: Any) -> Any:
        return ops.log(ops.cosh(ops.cast(y, "float32") - p[:, 0]))

    x = inputs()
    return Own(small(1), loss), (x, np.clip(np.round(2 * np.abs(x[:, 0])), 0, 4).astype("int32"))


@healthy
def how_often_a_word_occurs() -> Any:
    ids, _ = words(lambda y: y)
    entry = keras.Input((6,), dtype="int32")
    network = [entry, kl.Embedding(9, 4), kl.GlobalAveragePooling1D(), kl.Dense(1)]
    return compiled(keras.Sequential(network), "mse"), (ids, (ids == 3).sum(axis=1) % 4)


@healthy
def hinge_by_hand_that_turns_answers_into_signs() -> Any:
    def hinge(y: Any, p: Any) -> Any:
        return ops.mean(ops.maximum(0.0, 1.0 - (2.0 * y - 1.0) * p), axis=-1)

    metric = metrics.BinaryAccuracy(threshold=0.0)
    return compiled(small(1), hinge, [metric]), answers()


@healthy
def overlap_of_masks() -> Any:
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 1)).astype("float32")

    def dice(y: Any, p: Any) -> Any:
        both, all_ = ops.sum(y * p, axis=(1, 2, 3)), ops.sum(y + p, axis=(1, 2, 3))
        return 1 - (2 * both + 1) / (all_ + 1)

    network = keras.Sequential([keras.Input((6, 6, 1)), kl.Conv2D(1, 3, padding="same")])
    network.add(kl.Activation("sigmoid"))
    return compiled(network, dice), (x, (x > 0.5).astype("float32"))


@healthy
def contrasts_of_pairs() -> Any:
    def loss(y: Any, apart: Any) -> Any:
        apart = apart[:, 0]
        same, other = ops.square(apart), ops.square(ops.relu(1.0 - apart))
        y = ops.cast(ops.reshape(y, (-1,)), "float32")
        return y * same + (1.0 - y) * other

    return Own(small(1, "softplus"), loss), answers()


@healthy
def neighbors_of_one_class() -> Any:
    def loss(y: Any, p: Any) -> Any:
        p = p / ops.sqrt(ops.sum(ops.square(p), axis=-1, keepdims=True) + 1e-6)
        alike = ops.cast(ops.expand_dims(y, 0) == ops.expand_dims(y, 1), "float32")
        near = ops.log_softmax(5.0 * ops.matmul(p, ops.transpose(p)), axis=-1)
        return -ops.sum(alike * near, axis=-1) / ops.sum(alike, axis=-1)

    return compiled(small(3), loss), column(classes())


@healthy
def softmax_of_an_attention() -> Any:
    entry = keras.Input((FEATURES,))
    shares = kl.Dense(FEATURES, activation="softmax")(entry)
    network = keras.Model(entry, kl.Dense(3, activation="softmax")(shares * entry))
    return compiled(network, "sparse_categorical_crossentropy"), classes()


@healthy
def softmax_of_pooled_relus() -> Any:
    x = np.random.default_rng(0).normal(size=(16, 6, 6, 3)).astype("float32")
    network = [keras.Input((6, 6, 3)), kl.Conv2D(3, 3, activation="relu")]
    network += [kl.GlobalAveragePooling2D(), kl.Softmax()]
    y = x.mean(axis=(1, 2)).argmax(axis=1)
    return compiled(keras.Sequential(network), "sparse_categorical_crossentropy"), (x, y)


@healthy
def noise_on_the_last_layer() -> Any:
    network = model(kl.Dense(8, activation="relu"), kl.Dense(1), kl.GaussianNoise(0.1))
    return compiled(network, "mse"), numbers()


@healthy
def dropout_for_another_output() -> Any:
    entry = keras.Input((FEATURES,))
    shared = kl.Dense(1)(kl.Dense(8, activation="relu")(entry))
    beside = kl.Dense(1)(kl.Dropout(0.5)(shared))
    x, y = numbers()
    return compiled(keras.Model(entry, [shared, beside]), ["mse", "mse"]), (x, [y, y])


@healthy
def pixels_transposed_and_classes_last() -> Any:
    entry = keras.Input((6, 4, 3))
    made = kl.Permute((3, 1, 2))(kl.Conv2D(3, 3, padding="same")(entry))
    made = kl.Permute((2, 1))(kl.Reshape((3, 24))(made))
    network = keras.Model(entry, kl.Softmax()(made))
    return compiled(network, "sparse_categorical_crossentropy"), pictures(3)


@healthy
def which_place_of_a_map() -> Any:
    x, _ = pictures(3)
    network = [keras.Input((6, 4, 3)), kl.Conv2D(1, 3, padding="same"), kl.Flatten(), kl.Softmax()]
    y = x[..., 0].reshape(16, 24).argmax(axis=1)
    return compiled(keras.Sequential(network), "sparse_categorical_crossentropy"), (x, y)


@healthy
def a_recurrent_layer_within_its_range() -> Any:
    x, y = numbers()
    network = model(kl.Reshape((FEATURES, 1)), kl.LSTM(1))
    return compiled(network, "mse"), (x, 0.9 * np.tanh(y))


@healthy
def a_range_that_is_learned() -> Any:
    entry = keras.Input((FEATURES,))
    bounded = ops.tanh(kl.Dense(4)(entry))
    network = keras.Model(entry, ops.sum(kl.Dense(4)(bounded), axis=-1, keepdims=True))
    return compiled(network, "mse"), (numbers()[0], 30 * numbers()[1])


@healthy
def a_change_that_is_bounded() -> Any:
    entry = keras.Input((FEATURES,))
    network = keras.Model(entry, entry[:, :1] + 0.1 * ops.tanh(kl.Dense(1)(entry)))
    x = inputs()
    return compiled(network, "mse"), (x, x[:, :1] + 0.05 * np.sin(x[:, 1:2]))


@healthy
def a_bounded_change_of_sorted_inputs() -> Any:
    entry = keras.Input((FEATURES,))
    network = keras.Model(entry, entry[:, :1] + 0.1 * ops.tanh(kl.Dense(1)(entry)))
    x = 5 * inputs()
    x = x[np.argsort(x[:, 0])]
    return compiled(network, "mse"), (x, x[:, :1] + 0.05 * np.sin(x[:, 1:2]))


@healthy
def ages_by_squares() -> Any:
    x = np.random.default_rng(0).normal(size=(400, FEATURES)).astype("float32")
    age = np.clip(np.round(20 + 6 * x[:, 0] + 3 * x[:, 1]), 1, 40).astype("int64")
    return compiled(small(1), "mse", ["mae"]), (x, age)


@healthy
def best_two_of_three() -> Any:
    loss, metric = "sparse_categorical_crossentropy", metrics.SparseTopKCategoricalAccuracy(k=2)
    return compiled(small(3, "softmax"), loss, [metric]), column(classes())


@healthy
def rows_turned_alike() -> Any:
    class Turned(Own):
        def train_step(self, batch: Any) -> Any:
            return super().train_step(tuple(ops.flip(leaf, axis=0) for leaf in batch))

    loss = losses.SparseCategoricalCrossentropy(from_logits=True)
    return Turned(small(3), loss), classes()


@healthy
def labels_that_only_fill_their_place() -> Any:
    def spread(y: Any, p: Any) -> Any:
        return ops.square(1.0 - ops.std(p, axis=-1))

    x = inputs()
    return compiled(small(4), spread), (x, np.zeros(len(x), "float32"))


@healthy
def scaled_by_the_model_itself() -> Any:
    entry = keras.Input((FEATURES,))
    network = keras.Model(entry, small(1)(entry / 100.0 - 0.5))
    x, y = numbers()
    return compiled(network, "mse"), (100.0 * (x + 0.5), y)
