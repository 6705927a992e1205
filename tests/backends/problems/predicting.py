"""Problems that learn labels: losses of each kind, statistics, masks and added terms."""

from __future__ import annotations

from functools import partial

import keras
import numpy as np
from keras import ops

import perigee as pg
from tests.backends.problems._problem import (
    BATCH,
    ROWS,
    Problem,
    Tolerance,
    clusters,
    dense_model,
    fix_weights,
    points,
)


class Regression(pg.Step):
    """Least squares, one value an example.

    Args:
        model: From points to numbers.
        optimizer: Of the model.
        assumes_full_batches: The bug of dividing a sum by the size that batches usually have.
    """

    def __init__(self, model, optimizer, assumes_full_batches=False):
        self.model, self.optimizer = model, optimizer
        self.assumes_full_batches = assumes_full_batches

    def train_step(self, batch):
        x, y = batch

        def objective():
            values = ops.square(y - self.model(x, training=True))[:, 0]
            return ops.sum(values) / BATCH if self.assumes_full_batches else values

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def regression(optimizer=None, **arguments):
    optimizer = optimizer or keras.optimizers.SGD(0.1, momentum=0.9)
    return Regression(dense_model(3, 8, 1, name="line"), optimizer, **arguments)


class Classifier(pg.Step):
    """Cross entropy by a Keras loss, and metrics.

    Args:
        model: From points to logits.
        optimizer: Of the model.
        averages_batches: The bug of a metric that gives each batch the same weight.
    """

    def __init__(self, model, optimizer, averages_batches=False):
        self.model, self.optimizer = model, optimizer
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self.margin = keras.metrics.Mean(name="margin")
        self.averages_batches = averages_batches

    def train_step(self, batch):
        x, y = batch

        def objective():
            logits = self.model(x, training=True)
            return self.loss(y, logits), logits

        loss, logits = self.minimize(objective, self.optimizer, self.model)
        self._measure(y, logits)
        return {"loss": loss}

    def test_step(self, batch):
        x, y = batch
        logits = self.model(x, training=False)
        self._measure(y, logits)
        return {"loss": self.loss(y, logits)}

    def _measure(self, y, logits):
        self.accuracy.update_state(y, logits)
        margins = ops.max(logits, axis=-1) - ops.min(logits, axis=-1)
        self.margin.update_state(ops.mean(margins) if self.averages_batches else margins)


def classifier(**arguments):
    model = dense_model(4, 12, 3, activation="relu", name="classes")
    return Classifier(model, keras.optimizers.Adam(0.01), **arguments)


def mixed(precision):
    """Return a classifier whose layers all compute in half precision."""
    layers = [
        keras.layers.Dense(12, activation="relu", dtype=precision),
        keras.layers.Dense(3, dtype=precision),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers], name="classes")
    fix_weights(model)
    return Classifier(model, keras.optimizers.Adam(0.01))


def normalized(rate=0.0, momentum=0.9):
    """Return a classifier with batch statistics, and with dropout of `rate` where it is not 0."""
    layers = [
        # A bias here would get a gradient of rounding errors alone, which Adam makes steps of.
        keras.layers.Dense(8, use_bias=False),
        keras.layers.BatchNormalization(momentum=momentum),
        keras.layers.Activation("relu"),
    ]
    if rate:
        layers.append(keras.layers.Dropout(rate))
    model = keras.Sequential([keras.Input((4,)), *layers, keras.layers.Dense(3)], name="normalized")
    fix_weights(model)
    return Classifier(model, keras.optimizers.Adam(0.01))


class TwoOutputs(pg.Step):
    """A class and a number for each point, each loss with its weight."""

    def __init__(self, model, weights=(1.0, 0.3)):
        self.model, self.weights = model, weights
        self.optimizer = keras.optimizers.RMSprop(0.01)
        self.class_loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def train_step(self, batch):
        x, targets = batch

        def objective():
            y_pred = self.model(x, training=True)
            class_loss = self.class_loss(targets["label"], y_pred["label"])
            number_loss = ops.mean(ops.square(targets["number"] - y_pred["number"]))
            total = self.weights[0] * class_loss + self.weights[1] * number_loss
            return total, (class_loss, number_loss)

        loss, (class_loss, number_loss) = self.minimize(objective, self.optimizer, self.model)
        return {"loss": loss, "label_loss": class_loss, "number_loss": number_loss}


def branching_model():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(10, activation="tanh", name="hidden")(inputs)
    outputs = {
        "label": keras.layers.Dense(3, name="label")(hidden),
        "number": keras.layers.Dense(1, name="number")(hidden),
    }
    model = keras.Model(inputs, outputs, name="branching")
    fix_weights(model)
    return model


def two_targets():
    x, label = clusters()
    number = np.sin(x[:, :1] + x[:, 1:2]).astype("float32")
    return x, {"label": label, "number": number}


class Tagger(pg.Step):
    """One number for each word of sentences of different lengths; padding counts nothing."""

    def __init__(self, model, counts_padding=False):
        self.model, self.counts_padding = model, counts_padding
        self.optimizer = keras.optimizers.Adam(0.01)

    def train_step(self, batch):
        words, y = batch
        weights = ops.cast(ops.not_equal(words, 0), "float32")

        def objective():
            values = ops.square(y - self.model(words, training=True)[..., 0])
            return pg.mean(values, ops.ones_like(weights) if self.counts_padding else weights)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def tagger(**arguments):
    layers = [
        keras.layers.Embedding(12, 5, mask_zero=True),
        keras.layers.GRU(6, return_sequences=True),
        keras.layers.Dense(1),
    ]
    model = keras.Sequential([keras.Input((7,), dtype="int32"), *layers], name="tagger")
    fix_weights(model)
    return Tagger(model, **arguments)


def sentences():
    """Return word ids `(ROWS, 7)`, 0 after the end of each, and a number for each word."""
    random = np.random.default_rng(3)
    words = random.integers(1, 12, size=(ROWS, 7))
    lengths = random.integers(2, 8, size=(ROWS, 1))
    words[np.arange(7) >= lengths] = 0
    y = np.cumsum(np.sin(words), axis=1) / 3
    return words.astype("int32"), y.astype("float32")


@keras.saving.register_keras_serializable("conformance")
class Activity(keras.layers.Layer):
    """Adds a penalty on how active it is, at each call."""

    def call(self, x):
        self.add_loss(0.05 * ops.mean(ops.square(x)))
        return x


class Twins(pg.Step):
    """A model called twice: its answers must not change under a small shift.

    Args:
        model: Regularized, and with layers that add losses.
        adds_losses: `False` plants the bug of dropping what layers add.
    """

    def __init__(self, model, adds_losses=True):
        self.model, self.adds_losses = model, adds_losses
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch

        def objective():
            here = self.model(x, training=True)
            there = self.model(x + 0.1, training=True)
            return ops.mean(ops.square(y - here)) + ops.mean(ops.square(here - there))

        loss = self.minimize(objective, self.optimizer, self.model, add_losses=self.adds_losses)
        return {"loss": loss}


def twins(**arguments):
    layers = [
        keras.layers.Dense(8, activation="tanh", kernel_regularizer=keras.regularizers.L2(0.01)),
        Activity(),
        keras.layers.Dense(1, activity_regularizer=keras.regularizers.L1(0.01)),
    ]
    model = keras.Sequential([keras.Input((3,)), *layers], name="twins")
    fix_weights(model)
    return Twins(model, **arguments)


def spectral():
    """Return a step whose model assigns to the weights that it is differentiated for."""
    hidden = keras.layers.Dense(4, activation="tanh")
    layers = [keras.layers.SpectralNormalization(hidden), keras.layers.Dense(1)]
    model = keras.Sequential([keras.Input((3,)), *layers], name="spectral")
    fix_weights(model)
    for vector in model.non_trainable_weights:
        vector.assign(np.linspace(0.1, 1.0, np.prod(vector.shape)).reshape(vector.shape))
    return Regression(model, keras.optimizers.SGD(0.1))


def supervised():
    """Return the ready-made Step for two outputs."""
    return pg.Supervised(
        branching_model(),
        keras.optimizers.RMSprop(0.01),
        loss={
            "label": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            "number": keras.losses.MeanSquaredError(),
        },
        loss_weights={"label": 1.0, "number": 0.3},
        metrics={"label": keras.metrics.SparseCategoricalAccuracy(name="accuracy")},
    )


PROBLEMS = (
    Problem(
        "vector loss",
        regression,
        points(),
        {"epochs": 6},
        planted={"sum over a full batch": partial(regression, assumes_full_batches=True)},
    ),
    Problem(
        "classifier",
        classifier,
        clusters(),
        {"epochs": 6, "validation": clusters(25)},
        planted={"mean of batch means": partial(classifier, averages_batches=True)},
    ),
    Problem(
        "batch statistics",
        normalized,
        clusters(),
        {"epochs": 6},
        planted={"momentum of statistics": partial(normalized, momentum=0.901)},
    ),
    Problem(
        "batch statistics and dropout",
        partial(normalized, rate=0.3),
        clusters(),
        {"epochs": 6},
        is_random=True,
        planted={"rate": partial(normalized, rate=0.3001)},
    ),
    Problem(
        "two outputs",
        lambda: TwoOutputs(branching_model()),
        two_targets(),
        {"epochs": 6},
        planted={"loss weight": lambda: TwoOutputs(branching_model(), (1.0, 0.3003))},
    ),
    Problem("two outputs, ready-made", supervised, two_targets(), {"epochs": 6}),
    Problem(
        "masked words",
        tagger,
        sentences(),
        {"epochs": 6},
        planted={"padding counts": partial(tagger, counts_padding=True)},
    ),
    Problem(
        "added losses",
        twins,
        points(),
        {"epochs": 6},
        planted={"added losses dropped": partial(twins, adds_losses=False)},
    ),
    Problem("spectral normalization", spectral, points(), {"epochs": 6}),
    Problem(
        "mixed bfloat16",
        partial(mixed, "mixed_bfloat16"),
        clusters(),
        {"epochs": 3},
        Tolerance(first=1e-2, later=1e-2, weights=5e-3),  # a number has 8 bits
        rate_factor=1.2,
    ),
    Problem(
        "mixed float16",
        partial(mixed, "mixed_float16"),
        clusters(),
        {"epochs": 3},
        Tolerance(first=1e-3, later=1e-3, weights=1e-3),  # a number has 11 bits
        rate_factor=1.02,
    ),
)
