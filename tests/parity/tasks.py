"""The table that programs are drawn from: what people train with Keras, in its usual idioms.

A task has data whose labels follow from its inputs, bodies (layers that end in what a head takes)
and heads. A head is the end of a model with the losses, labels and metrics that belong to it, so
that every row makes sense.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import losses, metrics, ops

BACKEND = keras.backend.backend()

Make = Callable[[], Any]


@dataclass(frozen=True)
class Head:
    """The end of a model, with what it is trained and measured by; each call makes it new.

    Attributes:
        layers: The last layers; for a task that makes its model itself, the kind of its end.
        losses: By the way in which they are given.
        labels: From the labels of the task to those that belong to the losses, by their form.
        metrics: By what they measure, each in every way in which it is given.
        loss_weights: Likely values of `loss_weights`.
    """

    layers: Callable[[], list[Any]]
    losses: Mapping[str, Make]
    labels: Mapping[str, Callable[[Any], Any]] = field(default_factory=lambda: {"": lambda y: y})
    metrics: Mapping[str, tuple[Make, ...]] = field(default_factory=dict)
    loss_weights: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Task:
    """What is learned from what.

    Attributes:
        data: From a generator and a number of rows to inputs and labels.
        heads: What can stand at the end, by name.
        bodies: What can stand before the head, by name; a chain of layers.
        model: Makes inputs and outputs from a head where layers are no chain.
        weights: Shapes that sample weights can have: that of the rows, or also of the places.
        classes: Classes that can be weighed.
        rows: Rows of every batch, where the model fixes them.
        whole_batches: Why no batch is ragged; empty where batches can be.
        only: The frameworks that it is for; empty for all.
    """

    data: Callable[[np.random.Generator, int], tuple[Any, Any]]
    heads: Mapping[str, Head]
    bodies: Mapping[str, Make] = field(default_factory=dict)
    model: Callable[[Any], tuple[Any, Any]] | None = None
    weights: tuple[str, ...] = ("rows",)
    classes: int = 0
    rows: int = 0
    whole_batches: str = ""
    only: tuple[str, ...] = ()


# Ways to give a loss.


def ways(function: Any, kind: Any, *names: str, **config: Any) -> dict[str, Make]:
    """Return every way in which a loss of Keras's is given."""

    class Own(losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return function(y_true, y_pred, **config)

    def own(y_true: Any, y_pred: Any) -> Any:
        return function(y_true, y_pred, **config)

    described = {"class_name": kind.__name__, "config": config}
    found: dict[str, Make] = {
        "object": lambda: kind(**config),
        "config": lambda: losses.get(described),
        "lambda": lambda: lambda t, p: function(t, p, **config),
        "partial": lambda: functools.partial(function, **config),
        "own function": lambda: own,
        "mean of own function": lambda: lambda t, p: ops.mean(own(t, p)),
        "own Loss": Own,
        "sum": lambda: kind(reduction="sum", **config),
        "weighted mean": lambda: kind(reduction="mean_with_sample_weight", **config),
        "named object": lambda: kind(name="objective", **config),
    }
    if not config:
        for name in names or (function.__name__,):
            found[f"name {name}"] = functools.partial(str, name)
        found["name of the class"] = lambda: kind.__name__
        found["function"] = lambda: function
        found["class"] = lambda: kind
    return found


def own_ways(function: Callable[[Any, Any], Any]) -> dict[str, Make]:
    """Return every way in which a loss of the user's own is given."""

    class Own(losses.Loss):
        def call(self, y_true: Any, y_pred: Any) -> Any:
            return function(y_true, y_pred)

    return {
        "own function": lambda: function,
        "lambda": lambda: lambda t, p: function(t, p),
        "partial": lambda: functools.partial(function),
        "own Loss": Own,
        "named own Loss": lambda: Own(name="objective"),
        "sum": lambda: Own(reduction="sum"),
    }


def any_of(**groups: Mapping[str, Make]) -> dict[str, Make]:
    """Return the ways of several losses."""
    return {f"{name}, {way}": make for name, group in groups.items() for way, make in group.items()}


SQUARED = ways(losses.mean_squared_error, losses.MeanSquaredError, "mse", "mean_squared_error")
ABSOLUTE = ways(losses.mean_absolute_error, losses.MeanAbsoluteError, "mae", "mean_absolute_error")
BINARY = ways(losses.binary_crossentropy, losses.BinaryCrossentropy)
BINARY_LOGITS = ways(losses.binary_crossentropy, losses.BinaryCrossentropy, from_logits=True)
SPARSE = ways(losses.sparse_categorical_crossentropy, losses.SparseCategoricalCrossentropy)
SPARSE_LOGITS = ways(
    losses.sparse_categorical_crossentropy, losses.SparseCategoricalCrossentropy, from_logits=True
)
ONE_HOT = ways(losses.categorical_crossentropy, losses.CategoricalCrossentropy)
ONE_HOT_LOGITS = ways(
    losses.categorical_crossentropy, losses.CategoricalCrossentropy, from_logits=True
)


# Metrics.


class Bias(metrics.Metric):
    """A metric of the user's own: the mean difference."""

    def __init__(self, name: str = "bias", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.total = self.add_weight(name="total", initializer="zeros")
        self.count = self.add_weight(name="count", initializer="zeros")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        difference = ops.cast(y_pred, "float32") - ops.reshape(
            ops.cast(y_true, "float32"), ops.shape(y_pred)
        )
        self.total.assign_add(ops.sum(difference))
        self.count.assign_add(ops.cast(ops.size(difference), "float32"))

    def result(self) -> Any:
        return self.total / ops.maximum(self.count, 1.0)


def largest(y_true: Any, y_pred: Any) -> Any:
    """Return the largest error of each example, as a metric of the user's own."""
    y_true = ops.reshape(ops.cast(y_true, "float32"), ops.shape(y_pred))
    return ops.max(ops.abs(y_true - y_pred), axis=-1)


def sharpness(y_true: Any, y_pred: Any) -> Any:
    """Return the highest probability of each example, as a metric of the user's own."""
    return ops.max(y_pred, axis=-1)


def texts(*names: str) -> tuple[Make, ...]:
    return tuple(functools.partial(str, name) for name in names)


OF_NUMBERS: dict[str, tuple[Make, ...]] = {
    "absolute error": (
        *texts("mae", "mean_absolute_error", "MeanAbsoluteError"),
        lambda: metrics.mean_absolute_error,
        metrics.MeanAbsoluteError,
    ),
    "squared error": (*texts("mse"), lambda: metrics.MeanSquaredError(name="squares")),
    "root": (metrics.RootMeanSquaredError, *texts("RootMeanSquaredError")),
    "R2": (metrics.R2Score, lambda: metrics.R2Score(name="r2")),
    "own function": (lambda: largest,),
    "own metric": (Bias,),
    "mean of a function": (lambda: metrics.MeanMetricWrapper(largest, name="largest_mean"),),
}
OF_TWO_CLASSES: dict[str, tuple[Make, ...]] = {
    "accuracy": (
        *texts("accuracy", "acc", "binary_accuracy"),
        lambda: metrics.binary_accuracy,
        metrics.BinaryAccuracy,
    ),
    "AUC": (*texts("AUC"), metrics.AUC, lambda: metrics.AUC(curve="PR", name="pr")),
    "precision": (metrics.Precision, *texts("Precision")),
    "recall": (metrics.Recall, lambda: metrics.Recall(thresholds=0.4, name="recall_40")),
    "F1": (lambda: metrics.F1Score(threshold=0.5), lambda: metrics.F1Score("micro", 0.5)),
    "counts": (metrics.TruePositives, metrics.FalseNegatives),
    "at recall": (lambda: metrics.PrecisionAtRecall(0.5),),
    "cross entropy": (metrics.BinaryCrossentropy,),
    "own metric": (Bias,),
}
OF_TWO_CLASSES_AS_LOGITS: dict[str, tuple[Make, ...]] = {
    "accuracy": (lambda: metrics.BinaryAccuracy(threshold=0.0),),
    "AUC": (lambda: metrics.AUC(from_logits=True),),
    "cross entropy": (lambda: metrics.BinaryCrossentropy(from_logits=True),),
}
OF_IDS: dict[str, tuple[Make, ...]] = {
    "accuracy": (
        *texts("accuracy", "acc", "sparse_categorical_accuracy"),
        lambda: metrics.sparse_categorical_accuracy,
        lambda: metrics.SparseCategoricalAccuracy(name="hits"),
    ),
    "top": (
        lambda: metrics.SparseTopKCategoricalAccuracy(k=2),
        lambda: functools.partial(metrics.sparse_top_k_categorical_accuracy, k=2),
    ),
}
OF_IDS_AS_PROBABILITIES = OF_IDS | {
    "cross entropy": (metrics.SparseCategoricalCrossentropy,),
    "own function": (lambda: sharpness,),
}
OF_ONE_HOT: dict[str, tuple[Make, ...]] = {
    "accuracy": (
        *texts("accuracy", "acc", "categorical_accuracy"),
        lambda: metrics.categorical_accuracy,
        metrics.CategoricalAccuracy,
    ),
    "top": (lambda: metrics.TopKCategoricalAccuracy(k=2, name="top_2"),),
}
OF_ONE_HOT_AS_PROBABILITIES = OF_ONE_HOT | {
    "AUC": (metrics.AUC, lambda: metrics.AUC(multi_label=True, name="areas")),
    "precision": (lambda: metrics.Precision(class_id=1), metrics.Precision),
    "F1": (lambda: metrics.F1Score(average="macro"), metrics.F1Score),
    "cross entropy": (metrics.CategoricalCrossentropy,),
}


# Forms of labels.


def cast(dtype: str) -> Callable[[Any], Any]:
    return lambda y: y.astype(dtype)


def column(y: Any) -> Any:
    return y[..., None]


def one_hot(classes: int, dtype: str = "float32") -> Callable[[Any], Any]:
    return lambda y: np.eye(classes, dtype=dtype)[y]


def id_forms(*extra: str) -> dict[str, Callable[[Any], Any]]:
    return {
        "ids": cast("int64"),
        "ids, int32": cast("int32"),
        "ids, uint8": cast("uint8"),
        "ids, float": cast("float32"),
        "ids in a column": column,
    }


NUMBERS = {
    "column": cast("float32"),
    "column of doubles": cast("float64"),
    "(n,)": lambda y: y[:, 0].astype("float32"),
}
BITS = {
    "(n,)": cast("int64"),
    "column": lambda y: column(y).astype("int32"),
    "column of floats": lambda y: column(y).astype("float32"),
    "bool": lambda y: column(y).astype("bool"),
    "uint8": cast("uint8"),
}


def one_hots(classes: int) -> dict[str, Callable[[Any], Any]]:
    return {
        "one-hot": one_hot(classes),
        "one-hot, integers": one_hot(classes, "int64"),
        "one-hot, doubles": one_hot(classes, "float64"),
        "to_categorical": lambda y: keras.utils.to_categorical(y, classes),
    }


# Heads.


def dense(units: int, activation: Any = None, **options: Any) -> Callable[[], list[Any]]:
    return lambda: [kl.Dense(units, activation=activation, **options)]


def with_activation(units: int, activation: str) -> Callable[[], list[Any]]:
    return lambda: [kl.Dense(units), kl.Activation(activation)]


def of_classes(classes: int, are_places: bool = False) -> dict[str, Head]:
    """Return the heads of a classifier of each example, or of each place."""
    by_id = OF_IDS_AS_PROBABILITIES
    by_one_hot = dict(OF_ONE_HOT_AS_PROBABILITIES)
    if are_places:
        del by_one_hot["F1"]
    return {
        "softmax, ids": Head(dense(classes, "softmax"), SPARSE, id_forms(), by_id),
        "softmax layer, ids": Head(
            lambda: [kl.Dense(classes), kl.Softmax()], SPARSE, id_forms(), by_id
        ),
        "logits, ids": Head(dense(classes), SPARSE_LOGITS, id_forms(), OF_IDS),
        "softmax, one-hot": Head(
            dense(classes, "softmax"),
            any_of(
                plain=ONE_HOT,
                smooth=ways(
                    losses.categorical_crossentropy,
                    losses.CategoricalCrossentropy,
                    label_smoothing=0.1,
                ),
                focal=ways(
                    losses.categorical_focal_crossentropy, losses.CategoricalFocalCrossentropy
                ),
                hinge=ways(losses.categorical_hinge, losses.CategoricalHinge),
            ),
            one_hots(classes),
            by_one_hot,
        ),
        "logits, one-hot": Head(dense(classes), ONE_HOT_LOGITS, one_hots(classes), OF_ONE_HOT),
        "softmax, noisy ids": Head(
            dense(classes, "softmax"),
            {
                "object": losses.CategoricalGeneralizedCrossEntropy,
                "with q": lambda: losses.CategoricalGeneralizedCrossEntropy(q=0.7),
                "function": lambda: losses.categorical_generalized_cross_entropy,
                "class": lambda: losses.CategoricalGeneralizedCrossEntropy,
            },
            {"ids": cast("int64"), "ids, int32": cast("int32")},
            by_id,
        ),
    }


OF_BITS = {
    "sigmoid": Head(
        dense(1, "sigmoid"),
        any_of(
            plain=BINARY,
            smooth=ways(losses.binary_crossentropy, losses.BinaryCrossentropy, label_smoothing=0.1),
            focal=ways(losses.binary_focal_crossentropy, losses.BinaryFocalCrossentropy),
            balanced=ways(
                losses.binary_focal_crossentropy,
                losses.BinaryFocalCrossentropy,
                apply_class_balancing=True,
            ),
            squares=SQUARED,
        ),
        BITS,
        OF_TWO_CLASSES,
    ),
    "sigmoid layer": Head(with_activation(1, "sigmoid"), BINARY, BITS, OF_TWO_CLASSES),
    "logits": Head(dense(1), BINARY_LOGITS, BITS, OF_TWO_CLASSES_AS_LOGITS),
    "two logits": Head(dense(2), SPARSE_LOGITS, {"ids": cast("int64")}, OF_IDS),
    "margin": Head(
        dense(1, "tanh"),
        any_of(
            hinge=ways(losses.hinge, losses.Hinge),
            squared=ways(losses.squared_hinge, losses.SquaredHinge),
        ),
        {
            "-1 and 1": lambda y: column(2 * y - 1),
            "-1.0 and 1.0": lambda y: column(2.0 * y - 1).astype("float32"),
        },
        {"hinge": (*texts("hinge"), metrics.Hinge)},
    ),
}

OF_A_NUMBER = {
    "linear": Head(
        dense(1),
        any_of(
            squared=SQUARED,
            absolute=ABSOLUTE,
            huber=ways(losses.huber, losses.Huber),
            narrow=ways(losses.huber, losses.Huber, delta=0.5),
            log_cosh=ways(losses.log_cosh, losses.LogCosh, "log_cosh"),
            own=own_ways(lambda t, p: ops.square(ops.reshape(t, ops.shape(p)) - p)),
        ),
        NUMBERS,
        OF_NUMBERS,
    ),
}


# Own losses on labels of another shape.

QUANTILES = np.array([0.1, 0.5, 0.9], "float32")


def pinball(y_true: Any, y_pred: Any) -> Any:
    error, quantiles = y_true - y_pred, ops.convert_to_tensor(QUANTILES)
    return ops.mean(ops.maximum(quantiles * error, (quantiles - 1) * error), axis=-1)


def quantile(y_true: Any, y_pred: Any, q: float) -> Any:
    error = y_true - y_pred
    return ops.mean(ops.maximum(q * error, (q - 1) * error), axis=-1)


def gaussian(y_true: Any, y_pred: Any) -> Any:
    mean, log_variance = y_pred[:, :1], y_pred[:, 1:]
    error = ops.square(y_true - mean) * ops.exp(-log_variance)
    return 0.5 * ops.mean(log_variance + error, axis=-1)


def mixture(y_true: Any, y_pred: Any) -> Any:
    weights, means, widths = ops.split(y_pred, 3, axis=-1)
    widths = ops.softplus(widths) + 0.1
    chances = (
        ops.log_softmax(weights) - ops.log(widths) - 0.5 * ops.square((y_true - means) / widths)
    )
    return -ops.logsumexp(chances, axis=-1)


def survival(y_true: Any, y_pred: Any) -> Any:
    """Return the negative log likelihood of exponential times, some of them censored."""
    time, event = y_true[:, 0], y_true[:, 1]
    rate = y_pred[:, 0]
    return rate * time - event * ops.log(rate + 1e-6)


def cox(y_true: Any, y_pred: Any) -> Any:
    """Return the partial likelihood of Cox's model: examples of a batch compete."""
    time, event, risk = y_true[:, 0], y_true[:, 1], y_pred[:, 0]
    at_risk = ops.cast(time[None, :] >= time[:, None], "float32")
    log_sum = ops.log(ops.sum(at_risk * ops.exp(risk)[None, :], axis=1))
    return -ops.sum((risk - log_sum) * event) / (ops.sum(event) + 1.0)


def ordinal(y_true: Any, y_pred: Any) -> Any:
    grade = ops.reshape(ops.cast(y_true, "float32"), (-1, 1))
    levels = ops.cast(grade > ops.arange(3, dtype="float32"), "float32")
    return ops.mean(ops.binary_crossentropy(levels, y_pred, from_logits=True), axis=-1)


def contrast(y_true: Any, y_pred: Any) -> Any:
    """Return a supervised contrastive loss: the labels are ids, the outputs embeddings."""
    ids = ops.reshape(ops.cast(y_true, "int32"), (-1, 1))
    alike = ops.cast(ids == ops.transpose(ids), "float32")
    distance = ops.sum(ops.square(y_pred[:, None] - y_pred[None, :]), axis=-1)
    apart = ops.square(ops.maximum(1.0 - ops.sqrt(distance + 1e-6), 0.0))
    return ops.mean(alike * distance + (1 - alike) * apart, axis=-1)


def ranking(y_true: Any, y_pred: Any) -> Any:
    """Return a pairwise ranking loss over the batch."""
    labels, scores = ops.reshape(y_true, (-1,)), ops.reshape(y_pred, (-1,))
    better = ops.cast(labels[:, None] > labels[None, :], "float32")
    losses_of_pairs = ops.softplus(-(scores[:, None] - scores[None, :]))
    return ops.sum(better * losses_of_pairs) / (ops.sum(better) + 1.0)


def known(y_true: Any, y_pred: Any) -> Any:
    """Return the squared error over the labels that are known; the others are NaN."""
    is_known = ops.logical_not(ops.isnan(y_true))
    error = ops.where(is_known, y_true, y_pred) - y_pred
    return ops.sum(ops.square(error), axis=-1)


def packed(y_true: Any, y_pred: Any) -> Any:
    """Return a squared error whose weight is packed into the labels."""
    return y_true[:, 1] * ops.square(y_true[:, 0] - y_pred[:, 0])


def policy(y_true: Any, y_pred: Any) -> Any:
    """Return the loss of a policy gradient: labels are actions and their advantages."""
    chosen = ops.one_hot(ops.cast(y_true[:, 0], "int32"), 3)
    chance = ops.sum(chosen * y_pred, axis=-1)
    return -ops.log(chance + 1e-7) * y_true[:, 1]


def detection(y_true: Any, y_pred: Any) -> Any:
    """Return the loss of a class and a box: labels `(n, 5)`, outputs `(n, 7)`."""
    ids = ops.cast(y_true[:, 0], "int32")
    kind = ops.sparse_categorical_crossentropy(ids, y_pred[:, :3], from_logits=True)
    return kind + ops.mean(ops.abs(y_true[:, 1:] - y_pred[:, 3:]), axis=-1)


def gamma(y_true: Any, y_pred: Any) -> Any:
    return ops.mean(y_true / y_pred + ops.log(y_pred), axis=-1)


# Data.


def features(random: np.random.Generator, rows: int) -> Any:
    return random.normal(size=(rows, 6)).astype("float32")


def score(x: Any, columns: int = 1) -> Any:
    """Return a smooth function of the inputs of each row."""
    flat = x.reshape(len(x), -1).astype("float32")
    mix = np.random.default_rng(5).normal(size=(flat.shape[1], columns)) / np.sqrt(flat.shape[1])
    return (np.tanh(flat @ mix) + 0.5 * flat @ mix).astype("float32")


def with_number(make: Callable[..., Any], columns: int = 1) -> Callable[..., tuple[Any, Any]]:
    def data(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
        x = make(random, rows)
        return x, score(x, columns) + random.normal(0, 0.1, (rows, columns)).astype("float32")

    return data


def with_bit(make: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    def data(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
        x = make(random, rows)
        return x, (score(x)[:, 0] > 0).astype("int64")

    return data


def with_class(make: Callable[..., Any], classes: int = 3) -> Callable[..., tuple[Any, Any]]:
    def data(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
        x = make(random, rows)
        return x, score(x, classes).argmax(axis=-1)

    return data


def images(random: np.random.Generator, rows: int) -> Any:
    return random.uniform(size=(rows, 8, 8, 3)).astype("float32")


def raw_images(random: np.random.Generator, rows: int) -> Any:
    return random.integers(0, 256, (rows, 8, 8, 1)).astype("uint8")


def signals(random: np.random.Generator, rows: int) -> Any:
    return random.normal(size=(rows, 12, 2)).astype("float32")


def series(random: np.random.Generator, rows: int) -> Any:
    steps = random.normal(0, 0.4, (rows, 6, 3))
    return np.cumsum(steps, axis=1).astype("float32")


def words(random: np.random.Generator, rows: int) -> Any:
    ids = random.integers(1, 20, (rows, 7))
    lengths = random.integers(2, 8, rows)
    return np.where(np.arange(7) < lengths[:, None], ids, 0)


def pixel_classes(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = images(random, rows)
    return x, x.argmax(axis=-1)


def pixel_bits(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = images(random, rows)
    return x, (x[..., 0] > x[..., 1]).astype("int64")


def steps_of_signals(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = signals(random, rows)
    return x, (x[..., 0] > 0).astype("int64") + (x[..., 1] > 0)


def tagged(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = words(random, rows)
    return x, x % 3


def sentiment(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = words(random, rows)
    return x, ((x > 9).sum(axis=1) * 2 > (x > 0).sum(axis=1)).astype("int64")


def counts(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = features(random, rows)
    return x, random.poisson(np.exp(0.5 * score(x))).astype("float32")


def positive(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = features(random, rows)
    noise = random.gamma(4.0, 0.25, (rows, 1))
    return x, (np.exp(0.5 * score(x)) * noise + 0.1).astype("float32")


def lifetimes(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = features(random, rows)
    time = random.exponential(np.exp(-0.5 * score(x)[:, 0])) + 0.05
    return x, np.stack([time, random.uniform(size=rows) < 0.7], axis=1).astype("float32")


def grades(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = features(random, rows)
    return x, np.digitize(score(x)[:, 0], [-0.7, 0.0, 0.7])


def some_known(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = features(random, rows)
    y = score(x, 3)
    y[random.uniform(size=y.shape) < 0.3] = np.nan
    return x, y


def weighted_labels(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = features(random, rows)
    return x, np.concatenate([score(x), random.uniform(0.5, 2, (rows, 1))], 1).astype("float32")


def actions(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = features(random, rows)
    action = random.integers(0, 3, rows)
    advantage = score(x, 3)[np.arange(rows), action]
    return x, np.stack([action, advantage], axis=1).astype("float32")


def boxes(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = images(random, rows)
    kind = score(x, 3).argmax(axis=-1)[:, None]
    return x, np.concatenate([kind, 0.5 + 0.2 * np.tanh(score(x, 4))], axis=1).astype("float32")


def mixtures(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = features(random, rows)
    y = np.exp(score(x, 3))
    return x, (y / y.sum(axis=1, keepdims=True)).astype("float32")


def directions(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = features(random, rows)
    y = score(x, 4)
    return x, (y / np.linalg.norm(y, axis=1, keepdims=True)).astype("float32")


def itself(make: Callable[..., Any]) -> Callable[..., tuple[Any, Any]]:
    def data(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
        x = make(random, rows)
        return x, x

    return data


def unlabeled(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    return features(random, rows), None


def speech(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    """Return signals with a text of one to three letters; 0 pads."""
    x = signals(random, rows)
    y = random.integers(1, 5, (rows, 3))
    return x, np.where(np.arange(3) < random.integers(1, 4, (rows, 1)), y, 0)


def shifted(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    start = random.integers(0, 10, (rows, 1))
    text = (start + np.arange(8) * random.integers(1, 3, (rows, 1))) % 10
    return text[:, :-1], text[:, 1:]


def futures(steps: int) -> Callable[..., tuple[Any, Any]]:
    def data(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
        x = series(random, rows)
        return x, x[:, -1:, 0] * 0.9 + 0.1 * x[:, -1:, 1] + np.zeros((1, steps), "float32")

    return data


def next_values(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = series(random, rows)
    return x, np.cumsum(x, axis=1)[..., :1] * 0.3


def ratings(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    user, item = random.integers(0, 8, rows), random.integers(0, 10, rows)
    taste = np.random.default_rng(6).normal(size=(8, 10))
    return {"user": user, "item": item}, taste[user, item][:, None].astype("float32")


def clicks(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x, y = ratings(random, rows)
    return [x["user"], x["item"]], (y[:, 0] > 0).astype("int64")


def customers(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = {
        "age": random.integers(18, 80, (rows, 1)).astype("float32"),
        "income": random.normal(3, 1, (rows, 1)).astype("float32"),
        "city": random.integers(0, 5, (rows, 1)),
    }
    return x, (x["age"][:, 0] / 80 + x["income"][:, 0] / 6 + x["city"][:, 0] / 5 > 1.5).astype(
        "int64"
    )


def translations(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    source = random.integers(1, 9, (rows, 5))
    target = source[:, ::-1]
    begun = np.concatenate([np.full((rows, 1), 9), target[:, :-1]], axis=1)
    return {"source": source, "target": begun}, target


def twins(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    """Return pairs of examples, and whether they are alike."""
    a = features(random, rows)
    alike = random.integers(0, 2, rows)
    b = np.where(alike[:, None] == 1, a + random.normal(0, 0.1, a.shape), features(random, rows))
    return [a, b.astype("float32")], alike.astype("int64")


def price_and_kind(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = features(random, rows)
    return x, (score(x), score(x, 3).argmax(axis=-1))


def streams(random: np.random.Generator, rows: int) -> tuple[Any, Any]:
    x = random.normal(size=(rows, 5, 2)).astype("float32")
    return x, x.mean(axis=1)[:, :1]


# Layers of users' own.


class Scale(kl.Layer):
    """A layer of the user's own."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

    def call(self, x: Any) -> Any:
        return x * self.scale


class Penalty(kl.Layer):
    """Adds a loss of what flows through it."""

    def call(self, x: Any) -> Any:
        self.add_loss(0.01 * ops.mean(ops.square(x)))
        return x


class Noise(kl.Layer):
    """Draws while it trains."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(3)

    def call(self, x: Any, training: bool | None = None) -> Any:
        if training:
            return x + 0.1 * keras.random.normal(ops.shape(x), seed=self.seed)
        return x


class Sampling(kl.Layer):
    """The code of a variational autoencoder, with its loss."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.seed = keras.random.SeedGenerator(4)

    def call(self, x: Any) -> Any:
        mean, log_variance = ops.split(x, 2, axis=-1)
        divergence = ops.exp(log_variance) + ops.square(mean) - 1 - log_variance
        self.add_loss(0.05 * ops.mean(ops.sum(divergence, axis=-1)))
        noise = keras.random.normal(ops.shape(mean), seed=self.seed)
        return mean + ops.exp(0.5 * log_variance) * noise


class Reconstruction(kl.Layer):
    """An autoencoder inside one layer, trained on its added loss alone."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.encoder, self.decoder = kl.Dense(3, activation="tanh"), kl.Dense(6)

    def build(self, shape: Any) -> None:
        self.encoder.build(shape)
        self.decoder.build((*shape[:-1], 3))

    def call(self, x: Any) -> Any:
        y = self.decoder(self.encoder(x))
        self.add_loss(ops.mean(ops.square(x - y)))
        return y


class Attention(kl.Layer):
    """A block of a transformer."""

    def __init__(self, is_causal: bool = False, **options: Any) -> None:
        super().__init__(**options)
        self.attention = kl.MultiHeadAttention(2, 4, use_bias=False)  # that of keys changes nothing
        self.norm = kl.LayerNormalization()
        self.is_causal = is_causal

    def build(self, shape: Any) -> None:
        self.attention.build(shape, shape)
        self.norm.build(shape)

    def call(self, x: Any) -> Any:
        return self.norm(x + self.attention(x, x, use_causal_mask=self.is_causal))


FEATURES: dict[str, Make] = {
    "dense": lambda: [kl.Dense(8, activation="relu")],
    "two layers": lambda: [kl.Dense(8, activation="tanh"), kl.Dense(8, activation="gelu")],
    "dropout": lambda: [kl.Dense(8, activation="relu"), kl.Dropout(0.2, seed=5)],
    "unseeded dropout": lambda: [kl.Dense(8, activation="relu"), kl.Dropout(0.2)],
    "batch normalization": lambda: [
        kl.Dense(8, use_bias=False),
        kl.BatchNormalization(),
        kl.Activation("relu"),
    ],
    "layer normalization": lambda: [kl.Dense(8), kl.LayerNormalization(), kl.ReLU()],
    "weight penalty": lambda: [kl.Dense(8, activation="relu", kernel_regularizer="l2")],
    "activity penalty": lambda: [
        kl.Dense(8, activation="relu", activity_regularizer=keras.regularizers.L2(1e-3))
    ],
    "added loss": lambda: [kl.Dense(8, activation="relu"), Penalty()],
    "own layer": lambda: [kl.Dense(8, activation="tanh"), Scale()],
    "noise": lambda: [Noise(), kl.Dense(8, activation="relu")],
    "Gaussian noise": lambda: [kl.GaussianNoise(0.1, seed=6), kl.Dense(8, activation="relu")],
    "constraint": lambda: [kl.Dense(8, activation="relu", kernel_constraint="max_norm")],
    "normalization": lambda: [adapted(), kl.Dense(8, activation="relu")],
    "frozen": lambda: [
        kl.Dense(6, activation="tanh", trainable=False),
        kl.Dense(8, activation="relu"),
    ],
    "no layer": lambda: [],
}


def adapted() -> Any:
    layer = kl.Normalization()
    layer.adapt(features(np.random.default_rng(9), 64))
    return layer


IMAGES: dict[str, Make] = {
    "convolution": lambda: [kl.Conv2D(4, 3, activation="relu"), kl.Flatten()],
    "pooled": lambda: [
        kl.Conv2D(4, 3, padding="same", activation="relu"),
        kl.MaxPooling2D(),
        kl.Conv2D(4, 3, padding="same", activation="relu"),
        kl.GlobalAveragePooling2D(),
    ],
    "batch normalization": lambda: [
        kl.Conv2D(4, 3, use_bias=False),
        kl.BatchNormalization(),
        kl.ReLU(),
        kl.GlobalMaxPooling2D(),
    ],
    "separable": lambda: [kl.SeparableConv2D(4, 3, activation="relu"), kl.GlobalAveragePooling2D()],
    "flipped": lambda: [kl.RandomFlip("horizontal", seed=8), kl.Conv2D(4, 3), kl.Flatten()],
}
RAW_IMAGES: dict[str, Make] = {
    name: functools.partial(lambda make: [kl.Rescaling(1 / 255), *make()], make)
    for name, make in IMAGES.items()
}
PIXELS: dict[str, Make] = {
    "convolution": lambda: [kl.Conv2D(6, 3, padding="same", activation="relu")],
    "up and down": lambda: [
        kl.Conv2D(6, 3, strides=2, padding="same", activation="relu"),
        kl.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu"),
    ],
    "normalized": lambda: [
        kl.Conv2D(6, 3, padding="same", use_bias=False),
        kl.BatchNormalization(),
        kl.ReLU(),
        kl.SpatialDropout2D(0.1, seed=3),
    ],
}
SIGNALS: dict[str, Make] = {
    "convolution": lambda: [kl.Conv1D(6, 3, padding="same", activation="relu")],
    "causal": lambda: [kl.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="relu")],
    "GRU": lambda: [kl.GRU(5, return_sequences=True)],
}
WORDS: dict[str, Make] = {
    "mean": lambda: [kl.Embedding(20, 4), kl.GlobalAveragePooling1D()],
    "masked mean": lambda: [kl.Embedding(20, 4, mask_zero=True), kl.GlobalAveragePooling1D()],
    "LSTM": lambda: [kl.Embedding(20, 4, mask_zero=True), kl.LSTM(5)],
    "GRU": lambda: [kl.Embedding(20, 4), kl.GRU(5)],
    "bidirectional": lambda: [kl.Embedding(20, 4), kl.Bidirectional(kl.LSTM(3))],
    "convolution": lambda: [
        kl.Embedding(20, 4),
        kl.Conv1D(6, 3, activation="relu"),
        kl.GlobalMaxPooling1D(),
    ],
    "attention": lambda: [kl.Embedding(20, 4), Attention(), kl.GlobalAveragePooling1D()],
    "flat": lambda: [kl.Embedding(20, 4), kl.Flatten(), kl.Dense(8, activation="relu")],
}
TAGS: dict[str, Make] = {
    "masked LSTM": lambda: [
        kl.Embedding(20, 4, mask_zero=True),
        kl.LSTM(5, return_sequences=True),
    ],
    "masked bidirectional": lambda: [
        kl.Embedding(20, 4, mask_zero=True),
        kl.Bidirectional(kl.GRU(3, return_sequences=True)),
    ],
    "embedding alone": lambda: [kl.Embedding(20, 6, mask_zero=True)],
    "no mask": lambda: [kl.Embedding(20, 6), kl.Conv1D(6, 3, padding="same", activation="relu")],
    "time distributed": lambda: [
        kl.Embedding(20, 6),
        kl.TimeDistributed(kl.Dense(6, activation="relu")),
    ],
}
SERIES: dict[str, Make] = {
    "LSTM": lambda: [kl.LSTM(5)],
    "two LSTMs": lambda: [kl.LSTM(4, return_sequences=True), kl.LSTM(4)],
    "GRU with dropout": lambda: [kl.GRU(5, dropout=0.1, seed=2)],
    "recurrent dropout": lambda: [kl.LSTM(4, recurrent_dropout=0.1, seed=2)],
    "SimpleRNN": lambda: [kl.SimpleRNN(5)],
    "bidirectional": lambda: [kl.Bidirectional(kl.GRU(3))],
    "cells": lambda: [kl.RNN([kl.LSTMCell(4), kl.GRUCell(4)])],
    "masking": lambda: [kl.Masking(0.0), kl.LSTM(5)],
    "convolution": lambda: [kl.Conv1D(5, 3, activation="relu"), kl.GlobalAveragePooling1D()],
    "flat": lambda: [kl.Flatten(), kl.Dense(8, activation="relu")],
}
SEQUENCES: dict[str, Make] = {
    "LSTM": lambda: [kl.LSTM(5, return_sequences=True)],
    "GRU, unrolled": lambda: [kl.GRU(5, return_sequences=True, unroll=True)],
    "causal": lambda: [kl.Conv1D(5, 2, padding="causal", activation="tanh")],
}
TEXTS: dict[str, Make] = {
    "causal attention": lambda: [kl.Embedding(10, 6), Attention(is_causal=True)],
    "GRU": lambda: [kl.Embedding(10, 6), kl.GRU(6, return_sequences=True)],
}
STATEFUL: dict[str, Make] = {
    "LSTM": lambda: [kl.LSTM(3, stateful=True)],
    "GRU": lambda: [kl.GRU(3, stateful=True)],
    "SimpleRNN": lambda: [kl.SimpleRNN(3, stateful=True)],
    "two LSTMs": lambda: [
        kl.LSTM(3, stateful=True, return_sequences=True),
        kl.LSTM(3, stateful=True),
    ],
}


# Models that are no chain of layers: from a head to inputs and outputs.


def two_towers(head: Head) -> tuple[Any, Any]:
    user, item = (
        keras.Input((), name="user", dtype="int32"),
        keras.Input((), name="item", dtype="int32"),
    )
    vectors = [kl.Embedding(8, 4)(user), kl.Embedding(10, 4)(item)]
    x = kl.Dot(axes=1)(vectors)
    return {"user": user, "item": item}, chained(head.layers(), x)


def click_model(head: Head) -> tuple[Any, Any]:
    user, item = keras.Input((), dtype="int32"), keras.Input((), dtype="int32")
    x = kl.Concatenate()([kl.Embedding(8, 4)(user), kl.Embedding(10, 4)(item)])
    return [user, item], chained([kl.Dense(6, activation="relu"), *head.layers()], x)


def customer_model(head: Head) -> tuple[Any, Any]:
    age, income = keras.Input((1,), name="age"), keras.Input((1,), name="income")
    city = keras.Input((1,), name="city", dtype="int64")
    ages = kl.Normalization(mean=50.0, variance=300.0)(age)
    cities = kl.CategoryEncoding(5, output_mode="one_hot")(city)
    x = kl.Concatenate()([ages, income, cities])
    outputs = chained([kl.Dense(8, activation="relu"), *head.layers()], x)
    return {"age": age, "income": income, "city": city}, outputs


def translator(head: Head) -> tuple[Any, Any]:
    source = keras.Input((5,), name="source", dtype="int32")
    target = keras.Input((5,), name="target", dtype="int32")
    embedding = kl.Embedding(10, 6)
    state = kl.GRU(6)(embedding(source))
    x = kl.GRU(6, return_sequences=True)(embedding(target), initial_state=state)
    return {"source": source, "target": target}, chained(head.layers(), x)


def siamese(head: Head) -> tuple[Any, Any]:
    a, b = keras.Input((6,)), keras.Input((6,))
    encoder = keras.Sequential([kl.Dense(8, activation="relu"), kl.Dense(4)])
    distance = kl.Lambda(
        lambda pair: ops.sqrt(ops.sum(ops.square(pair[0] - pair[1]), -1, keepdims=True) + 1e-6),
        output_shape=(1,),
    )([encoder(a), encoder(b)])
    return [a, b], chained(head.layers(), distance)


def price_and_kind_of(head: Head) -> tuple[Any, Any]:
    """Return a model of two outputs: a dict where the head says so, else a list."""
    inputs = keras.Input((6,))
    x = kl.Dense(8, activation="tanh")(inputs)
    price, kind = kl.Dense(1, name="price")(x), kl.Dense(3, activation="softmax", name="kind")(x)
    return inputs, {"price": price, "kind": kind} if head.layers() else [price, kind]


def chained(layers: list[Any], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


AS_DICT = {
    "dict": lambda y: {"price": y[0], "kind": y[1]},
}
AS_LIST = {
    "list": list,
    "tuple": tuple,
}
TWO = {
    "dict": Head(
        lambda: [None],
        {
            "dict of names": lambda: {"price": "mse", "kind": "sparse_categorical_crossentropy"},
            "dict of objects": lambda: {
                "price": losses.Huber(),
                "kind": losses.SparseCategoricalCrossentropy(),
            },
            "dict of functions": lambda: {
                "price": lambda t, p: ops.mean(ops.abs(t - p), -1),
                "kind": losses.sparse_categorical_crossentropy,
            },
        },
        AS_DICT,
        {
            "dict": (
                lambda: {"price": ["mae", metrics.RootMeanSquaredError()], "kind": "accuracy"},
                lambda: {"kind": [metrics.SparseCategoricalAccuracy(name="hits")]},
            )
        },
        (None, {"price": 0.5, "kind": 2.0}),
    ),
    "list": Head(
        list,
        {
            "list of names": lambda: ["mse", "sparse_categorical_crossentropy"],
            "list of objects": lambda: [
                losses.MeanAbsoluteError(),
                losses.SparseCategoricalCrossentropy(),
            ],
            "dict by names of outputs": lambda: {
                "price": "mae",
                "kind": losses.SparseCategoricalCrossentropy(),
            },
        },
        AS_LIST,
        {
            "list": (lambda: [["mae"], ["accuracy"]], lambda: [None, ["accuracy"]]),
        },
        (None, [1.0, 0.3]),
    ),
}

MULTI_OUTPUT = (
    "Keras weighs the losses of single outputs by a size that compiled code does not know, so that "
    "their means over a ragged epoch are wrong"
)
FIXED = "the model fixes the rows of its batches"


TASKS: dict[str, Task] = {
    "regression": Task(with_number(features), OF_A_NUMBER, FEATURES),
    "several targets": Task(
        with_number(features, 3),
        {
            "linear": Head(
                dense(3),
                any_of(squared=SQUARED, absolute=ABSOLUTE, huber=ways(losses.huber, losses.Huber)),
                {"": cast("float32"), "doubles": cast("float64")},
                OF_NUMBERS,
            )
        },
        FEATURES,
    ),
    "binary": Task(with_bit(features), OF_BITS, FEATURES, classes=2),
    "classes": Task(with_class(features), of_classes(3), FEATURES, classes=3),
    "several labels": Task(
        lambda random, rows: (lambda x: (x, (score(x, 4) > 0).astype("int64")))(
            features(random, rows)
        ),
        {
            "sigmoid": Head(
                dense(4, "sigmoid"),
                any_of(
                    plain=BINARY,
                    focal=ways(losses.binary_focal_crossentropy, losses.BinaryFocalCrossentropy),
                ),
                {"integers": cast("int64"), "floats": cast("float32"), "bool": cast("bool")},
                OF_TWO_CLASSES
                | {
                    "AUC": (lambda: metrics.AUC(multi_label=True, num_labels=4), metrics.AUC),
                    "F1": (
                        lambda: metrics.F1Score("macro", 0.5),
                        lambda: metrics.F1Score(threshold=0.5),
                    ),
                },
            ),
            "logits": Head(
                dense(4),
                BINARY_LOGITS,
                {"integers": cast("int64"), "floats": cast("float32")},
                OF_TWO_CLASSES_AS_LOGITS,
            ),
        },
        FEATURES,
    ),
    "images": Task(with_class(images), of_classes(3), IMAGES, classes=3),
    "raw images": Task(with_class(raw_images), of_classes(3), RAW_IMAGES, classes=3),
    "image numbers": Task(with_number(images), OF_A_NUMBER, IMAGES),
    "segmentation": Task(
        pixel_classes,
        {
            "softmax, ids": Head(
                lambda: [kl.Conv2D(3, 1, activation="softmax")],
                any_of(
                    plain=SPARSE,
                    void=ways(
                        losses.sparse_categorical_crossentropy,
                        losses.SparseCategoricalCrossentropy,
                        ignore_class=2,
                    ),
                ),
                {"maps": cast("int64"), "maps, uint8": cast("uint8"), "maps with an axis": column},
                {
                    "accuracy": OF_IDS["accuracy"],
                    "IoU": (
                        lambda: metrics.MeanIoU(3, sparse_y_pred=False),
                        lambda: metrics.IoU(3, [1], sparse_y_pred=False),
                    ),
                },
            ),
            "logits, ids": Head(
                lambda: [kl.Conv2D(3, 1)],
                any_of(
                    plain=SPARSE_LOGITS,
                    void=ways(
                        losses.sparse_categorical_crossentropy,
                        losses.SparseCategoricalCrossentropy,
                        from_logits=True,
                        ignore_class=0,
                    ),
                ),
                {"maps": cast("int32"), "maps with an axis": column},
                {"accuracy": OF_IDS["accuracy"]},
            ),
            "logits, void pixels": Head(
                lambda: [kl.Conv2D(3, 1)],
                any_of(
                    void=ways(
                        losses.sparse_categorical_crossentropy,
                        losses.SparseCategoricalCrossentropy,
                        from_logits=True,
                        ignore_class=255,
                    ),
                ),
                {"maps with void": lambda y: np.where(y + np.eye(8, dtype=int) > 2, 255, y)},
                {},
            ),
            "softmax, one-hot": Head(
                lambda: [kl.Conv2D(3, 1, activation="softmax")],
                any_of(
                    plain=ONE_HOT,
                    dice=ways(losses.dice, losses.Dice),
                    tversky=ways(losses.tversky, losses.Tversky, alpha=0.3, beta=0.7),
                ),
                {"one-hot": one_hot(3)},
                {
                    "accuracy": OF_ONE_HOT["accuracy"],
                    "IoU": (lambda: metrics.OneHotMeanIoU(3), lambda: metrics.OneHotIoU(3, [0, 1])),
                },
            ),
        },
        PIXELS,
        weights=("places",),
    ),
    "masks of pixels": Task(
        pixel_bits,
        {
            "sigmoid": Head(
                lambda: [kl.Conv2D(1, 1, activation="sigmoid")],
                any_of(
                    plain=BINARY,
                    dice=ways(losses.dice, losses.Dice),
                    focal=ways(losses.binary_focal_crossentropy, losses.BinaryFocalCrossentropy),
                ),
                {
                    "with an axis": lambda y: column(y).astype("float32"),
                    "integers": column,
                    "bool": lambda y: column(y).astype("bool"),
                },
                {
                    "accuracy": OF_TWO_CLASSES["accuracy"],
                    "IoU": (lambda: metrics.BinaryIoU([1], 0.5),),
                    "AUC": (metrics.AUC,),
                },
            ),
        },
        PIXELS,
    ),
    "steps of signals": Task(
        steps_of_signals, of_classes(3, are_places=True), SIGNALS, weights=("places",)
    ),
    "tags": Task(
        tagged,
        {
            name: head
            for name, head in (
                of_classes(3, are_places=True)
                | {
                    "logits, ignored": Head(
                        dense(3),
                        ways(
                            losses.sparse_categorical_crossentropy,
                            losses.SparseCategoricalCrossentropy,
                            from_logits=True,
                            ignore_class=-1,
                        ),
                        {"-1 where padded": lambda y: np.where(y == 0, -1, y)},
                    )
                }
            ).items()
            if "noisy" not in name
        },
        TAGS,
        weights=("places",),
    ),
    "sentiment": Task(sentiment, OF_BITS, WORDS, classes=2),
    "topics": Task(with_class(words), of_classes(3), WORDS, classes=3),
    "language model": Task(
        shifted,
        {name: of_classes(10)[name] for name in ("softmax, ids", "logits, ids")},
        TEXTS,
        weights=("places",),
    ),
    "translation": Task(
        translations,
        {name: of_classes(10)[name] for name in ("softmax, ids", "logits, ids")},
        model=translator,
        weights=(),
    ),
    "ratings": Task(
        ratings,
        {
            "number": Head(
                dense(1),
                any_of(squared=SQUARED, huber=ways(losses.huber, losses.Huber)),
                NUMBERS,
                OF_NUMBERS,
            )
        },
        model=two_towers,
    ),
    "clicks": Task(
        clicks,
        {name: OF_BITS[name] for name in ("sigmoid", "logits")},
        model=click_model,
        classes=2,
    ),
    "customers": Task(
        customers,
        {name: OF_BITS[name] for name in ("sigmoid", "sigmoid layer", "logits")},
        model=customer_model,
        classes=2,
    ),
    "pairs": Task(
        twins,
        {
            "alike": Head(dense(1, "sigmoid"), BINARY, BITS, OF_TWO_CLASSES),
            "distance": Head(
                lambda: [],
                own_ways(
                    lambda t, p: t * ops.square(p) + (1 - t) * ops.square(ops.maximum(1.0 - p, 0.0))
                ),
                {"column": lambda y: column(y).astype("float32")},
            ),
        },
        model=siamese,
    ),
    "autoencoder": Task(
        itself(features),
        {
            "linear": Head(
                lambda: [kl.Dense(3, activation="tanh"), kl.Dense(6)],
                any_of(squared=SQUARED, absolute=ABSOLUTE),
                {"": cast("float32")},
                {"absolute error": OF_NUMBERS["absolute error"]},
            ),
            "variational": Head(
                lambda: [kl.Dense(4), Sampling(), kl.Dense(6)], SQUARED, {"": cast("float32")}
            ),
        },
        {
            name: FEATURES[name]
            for name in ("dense", "dropout", "Gaussian noise", "batch normalization")
        },
    ),
    "image autoencoder": Task(
        itself(images),
        {
            "sigmoid": Head(
                lambda: [kl.Conv2D(3, 3, padding="same", activation="sigmoid")],
                any_of(binary=BINARY, squared=SQUARED),
                {"": cast("float32")},
                {"absolute error": OF_NUMBERS["absolute error"]},
            )
        },
        PIXELS,
    ),
    "added losses alone": Task(
        unlabeled,
        {"no loss": Head(lambda: [Reconstruction()], {"None": lambda: None}, {"": lambda y: y})},
        {"no layer": list, "own layer": lambda: [Scale()]},
        weights=(),
    ),
    "quantiles": Task(
        with_number(features),
        {
            "three": Head(dense(3), own_ways(pinball), {"column": cast("float32")}),
            "one": Head(
                dense(1),
                {
                    "partial": lambda: functools.partial(quantile, q=0.9),
                    "lambda": lambda: lambda t, p: quantile(t, p, 0.2),
                },
                NUMBERS,
                {"absolute error": OF_NUMBERS["absolute error"]},
            ),
        },
        FEATURES,
    ),
    "mean and variance": Task(
        with_number(features),
        {"both": Head(dense(2), own_ways(gaussian), {"column": cast("float32")})},
        FEATURES,
    ),
    "mixture density": Task(
        with_number(features),
        {"three": Head(dense(9), own_ways(mixture), {"column": cast("float32")})},
        FEATURES,
    ),
    "counts": Task(
        counts,
        {
            "exp": Head(
                dense(1, "exponential"),
                ways(losses.poisson, losses.Poisson),
                NUMBERS | {"integers": cast("int64")},
                {"absolute error": OF_NUMBERS["absolute error"], "Poisson": (metrics.Poisson,)},
            ),
            "softplus": Head(
                dense(1, "softplus"), ways(losses.poisson, losses.Poisson), NUMBERS, OF_NUMBERS
            ),
        },
        {name: make for name, make in FEATURES.items() if name != "no layer"},
    ),
    "positive numbers": Task(
        positive,
        {
            "exp": Head(dense(1, "exponential"), own_ways(gamma), {"column": cast("float32")}),
            "softplus": Head(
                dense(1, "softplus"),
                any_of(
                    logarithmic=ways(
                        losses.mean_squared_logarithmic_error,
                        losses.MeanSquaredLogarithmicError,
                        "msle",
                    ),
                    percent=ways(
                        losses.mean_absolute_percentage_error,
                        losses.MeanAbsolutePercentageError,
                        "mape",
                    ),
                ),
                NUMBERS,
                {"percent": (*texts("mape"), metrics.MeanSquaredLogarithmicError)},
            ),
        },
        FEATURES,
    ),
    "lifetimes": Task(
        lifetimes,
        {
            "rate": Head(dense(1, "softplus"), own_ways(survival)),
            "risk": Head(dense(1), own_ways(cox)),
        },
        FEATURES,
    ),
    "grades": Task(
        grades,
        {
            "levels": Head(
                dense(3),
                own_ways(ordinal),
                {"ids": cast("int64"), "floats": lambda y: column(y).astype("float32")},
            ),
            "levels as bits": Head(
                dense(3, "sigmoid"),
                BINARY,
                {"bits": lambda y: (y[:, None] > np.arange(3)).astype("float32")},
                {"accuracy": OF_TWO_CLASSES["accuracy"]},
            ),
        },
        FEATURES,
    ),
    "some labels unknown": Task(some_known, {"linear": Head(dense(3), own_ways(known))}, FEATURES),
    "weights in the labels": Task(
        weighted_labels, {"linear": Head(dense(1), own_ways(packed))}, FEATURES
    ),
    "policy": Task(actions, {"softmax": Head(dense(3, "softmax"), own_ways(policy))}, FEATURES),
    "boxes": Task(boxes, {"both": Head(dense(7), own_ways(detection))}, IMAGES),
    "distributions": Task(
        mixtures,
        {
            "softmax": Head(
                dense(3, "softmax"),
                any_of(divergence=ways(losses.kl_divergence, losses.KLDivergence), plain=ONE_HOT),
                {"": cast("float32")},
                {"divergence": (metrics.KLDivergence, *texts("kl_divergence"))},
            )
        },
        FEATURES,
    ),
    "directions": Task(
        directions,
        {
            "linear": Head(
                dense(4),
                ways(losses.cosine_similarity, losses.CosineSimilarity),
                {"": cast("float32")},
                {"cosine": (metrics.CosineSimilarity,)},
            ),
            "unit": Head(
                lambda: [kl.Dense(4), kl.UnitNormalization()],
                any_of(
                    cosine=ways(losses.cosine_similarity, losses.CosineSimilarity), squared=SQUARED
                ),
                {"": cast("float32")},
            ),
        },
        FEATURES,
    ),
    "embeddings of ids": Task(
        with_class(features, 4),
        {
            "contrast": Head(
                lambda: [kl.Dense(4), kl.UnitNormalization()],
                own_ways(contrast),
                {"ids": cast("int64"), "ids in a column": column, "floats": cast("float32")},
            ),
            "circle": Head(
                lambda: [kl.Dense(4), kl.UnitNormalization()],
                {"object": losses.Circle, "with margin": lambda: losses.Circle(margin=0.3)},
                {"ids": cast("int32")},
            ),
        },
        FEATURES,
    ),
    "ranking": Task(
        with_number(features),
        {
            "score": Head(
                dense(1), own_ways(ranking), {"column": cast("float32"), "(n,)": lambda y: y[:, 0]}
            )
        },
        FEATURES,
    ),
    "speech": Task(
        speech,
        {
            "logits": Head(
                dense(5),
                {
                    "name": lambda: "ctc",
                    "object": losses.CTC,
                    "class": lambda: losses.CTC,
                    "function": lambda: losses.ctc,
                },
                {"ids": cast("int32")},
            )
        },
        SIGNALS,
    ),
    "forecast": Task(futures(1), OF_A_NUMBER, SERIES),
    "forecast of three steps": Task(
        futures(3),
        {
            "linear": Head(
                dense(3),
                any_of(squared=SQUARED, absolute=ABSOLUTE),
                {"": cast("float32")},
                {"absolute error": OF_NUMBERS["absolute error"]},
            ),
            "with an axis": Head(
                lambda: [kl.Dense(3), kl.Reshape((3, 1))],
                any_of(squared=SQUARED, absolute=ABSOLUTE),
                {"(n, 3, 1)": column, "(n, 3)": cast("float32")},
            ),
        },
        SERIES,
    ),
    "next values": Task(
        next_values,
        {
            "linear": Head(
                dense(1),
                any_of(squared=SQUARED, huber=ways(losses.huber, losses.Huber)),
                {"(n, t, 1)": cast("float32"), "(n, t)": lambda y: y[..., 0]},
                {"absolute error": OF_NUMBERS["absolute error"]},
            )
        },
        SEQUENCES,
        weights=("places",),
    ),
    "streams": Task(
        streams,
        {
            "linear": Head(
                dense(1),
                any_of(squared=SQUARED, absolute=ABSOLUTE),
                {"": cast("float32")},
                OF_NUMBERS,
            )
        },
        STATEFUL,
        rows=4,
        whole_batches=FIXED,
    ),
    "price and kind": Task(
        price_and_kind, TWO, model=price_and_kind_of, weights=(), whole_batches=MULTI_OUTPUT
    ),
}
