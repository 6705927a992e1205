"""Each rule finds its fault, planted by one line, and leaves the program without it alone."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import losses, metrics, ops

import perigee as pg
from tests.doctor.programs import (
    Own,
    adam,
    answers,
    classes,
    codes,
    compiled,
    model,
    numbers,
    rows,
    small,
    sparse,
    squares,
    supervised,
)


def sparse_values(y, y_pred):
    return ops.sparse_categorical_crossentropy(y, y_pred, from_logits=True)


def with_bad(data, index, row, value):
    changed = [array.copy() for array in data]
    changed[index][row] = value
    return tuple(changed)


def with_layers(*hidden):
    return model(*hidden, kl.Dense(3))


def normalized(layer=kl.BatchNormalization):
    return with_layers(kl.Dense(8), layer(), kl.ReLU())


def dropped(rate=0.3):
    return with_layers(kl.Dense(8, activation="relu"), kl.Dropout(rate))


class Unmoved(kl.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


class Always(kl.Dropout):
    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


class Centered(kl.Layer):
    def call(self, x):
        return x - ops.mean(x, axis=0, keepdims=True)


def regularized():
    return with_layers(kl.Dense(8, activation="relu", kernel_regularizer="l2"))


def biased(bias):
    initial = keras.initializers.Constant(bias)
    return with_layers(kl.Dense(8, activation="relu", bias_initializer=initial))


def zeros(units):
    return model(kl.Dense(units, kernel_initializer="zeros"))


def own(**arguments):
    return lambda: (Own(dropped(), sparse_values, **arguments), classes())


def ignoring(y, y_pred):
    return sparse_values(ops.argmax(y_pred, axis=-1), y_pred)


def of_batch(power):
    def loss(y, y_pred):
        values = squares(y, y_pred)
        return values * ops.cast(ops.shape(values)[0], "float32") ** power

    return loss


def crossed(y, y_pred):
    return ops.mean(ops.square(y[:, 0] - y_pred))


def forgetful(step):
    step.optimizer.iterations.assign(0)


def hasty(step):
    step.optimizer.iterations.assign(step.optimizer.iterations + 1)


def accuracy():
    return metrics.SparseCategoricalAccuracy()


def yes(network, metric, from_logits=True):
    return supervised(network, losses.BinaryCrossentropy(from_logits=from_logits), [metric])


SICK = {
    "PG120": {
        "rounded": lambda: (
            Own(small(1), lambda y, p: squares(y, p * 0.0)),
            numbers(),
        ),
        "nothing left": lambda: (Own(small(1), lambda y, p: squares(y, p) * 0.0), numbers()),
    },
    "PG122": {
        "own": lambda: (Own(biased(-99.0), sparse_values), classes()),
        "supervised": lambda: (supervised(biased(-99.0), sparse()), classes()),
        "compiled": lambda: (compiled(biased(-99.0), sparse()), classes()),
    },
    "PG123": {
        "supervised": lambda: (supervised(with_layers(kl.Dense(8)), sparse()), classes()),
        "dropout between": lambda: (
            compiled(with_layers(kl.Dense(8), kl.Dropout(0.2)), sparse()),
            classes(),
        ),
    },
    "PG124": {
        "too high": lambda: (Own(small(1), squares, optimizer=adam(100.0)), numbers()),
        "too low": lambda: (Own(small(1), squares, optimizer=adam(1e-9)), numbers()),
    },
    "PG125": {
        "begins anew": lambda: (Own(small(1), squares, after=forgetful), numbers()),
        "twice": lambda: (Own(small(1), squares, after=hasty), numbers()),
    },
    "PG211": {
        "own": lambda: (Own(small(1), crossed), numbers()),
        "absolute": lambda: (Own(small(1), lambda y, p: ops.mean(ops.abs(y - p[:, 0]))), numbers()),
        "supervised": lambda: (supervised(small(1), crossed), numbers()),
        "compiled": lambda: (compiled(small(1), crossed), numbers()),
    },
    "PG220": {
        "sum": lambda: (Own(small(1), lambda y, p: ops.sum(squares(y, p))), numbers()),
        "times batch": lambda: (Own(small(1), of_batch(1.0)), numbers()),
        "divided twice": lambda: (Own(small(1), of_batch(-1.0)), numbers()),
        "reduction": lambda: (
            supervised(small(1), losses.MeanSquaredError(reduction="sum")),
            numbers(),
        ),
        "compiled": lambda: (
            compiled(small(1), losses.MeanSquaredError(reduction="sum")),
            numbers(),
        ),
    },
    "PG221": {
        "own answers": lambda: (Own(small(3), ignoring), classes()),
        "zeros": lambda: (Own(small(1), lambda y, p: ops.square(p)[:, 0]), numbers()),
        "supervised": lambda: (supervised(small(3), ignoring), classes()),
    },
    "PG222": {
        "own": lambda: (Own(small(1), lambda y, p: -squares(y, p)), numbers()),
        "classes": lambda: (Own(small(3), lambda y, p: -sparse_values(y, p)), classes()),
        "compiled": lambda: (compiled(small(1), lambda y, p: -squares(y, p)), numbers()),
    },
    "PG223": {
        "sigmoids": lambda: (supervised(small(3, "sigmoid"), sparse(False)), classes()),
        "one-hot": lambda: (
            compiled(small(3, "sigmoid"), losses.CategoricalCrossentropy()),
            rows(),
        ),
    },
    "PG224": {
        "one unit": lambda: (
            supervised(small(1, "softmax"), losses.BinaryCrossentropy()),
            answers(),
        ),
        "compiled": lambda: (compiled(small(1, "softmax"), "mse"), answers()),
        "zeros": lambda: (supervised(zeros(3), sparse()), classes()),
    },
    "PG225": {
        "relu": lambda: (supervised(small(3, "relu"), sparse()), classes()),
        "sigmoid": lambda: (
            compiled(small(1, "sigmoid"), losses.BinaryCrossentropy(from_logits=True)),
            answers(),
        ),
    },
    "PG226": {
        "sigmoid": lambda: (supervised(small(1, "sigmoid"), "mse"), numbers()),
        "relu": lambda: (Own(small(1, "relu"), squares), numbers()),
    },
    "PG227": {
        "ids": lambda: (supervised(small(1), "mse"), classes()),
        "rows": lambda: (
            compiled(small(3), losses.BinaryCrossentropy(from_logits=True)),
            rows(),
        ),
    },
    "PG229": {
        "own": lambda: (Own(regularized(), sparse_values, add_losses=False), classes()),
        "weighted": lambda: (
            Own(regularized(), lambda y, p: 2 * sparse_values(y, p), add_losses=False),
            classes(),
        ),
    },
    "PG230": {
        "scores": lambda: (Own(small(1), squares, metrics=[metrics.Accuracy()]), numbers()),
        "threshold": lambda: (yes(small(1), metrics.BinaryAccuracy()), answers()),
        "area": lambda: (yes(small(1), metrics.AUC()), answers()),
        "one of three": lambda: (
            supervised(
                small(3, "softmax"),
                losses.CategoricalCrossentropy(),
                [metrics.BinaryAccuracy()],
            ),
            rows(),
        ),
    },
    "PG232": {
        "own": lambda: (
            Own(small(3), sparse_values, metrics=[accuracy()], measures=False),
            classes(),
        ),
        "mean": lambda: (
            Own(small(1), squares, metrics=[metrics.Mean()], measures=False),
            numbers(),
        ),
    },
    "PG233": {
        "centered": lambda: (
            supervised(with_layers(kl.Dense(8, activation="relu"), Centered()), sparse()),
            classes(),
        ),
        "softmax": lambda: (
            Own(model(kl.Dense(3), kl.Softmax(axis=0)), lambda y, p: sparse(False)(y, p)),
            classes(),
        ),
    },
    "PG320": {
        "input": lambda: (supervised(small(1), "mse"), with_bad(numbers(), 0, 60, np.nan)),
        "target": lambda: (compiled(small(1), "mse"), with_bad(numbers(), 1, 7, np.inf)),
    },
    "PG321": {
        "wide": lambda: (supervised(small(3), sparse()), (255 * classes()[0], classes()[1])),
        "compiled": lambda: (compiled(small(1), "mse"), (99 * numbers()[0] + 50, numbers()[1])),
    },
    "PG322": {
        "labels": lambda: (supervised(small(3), sparse()), (classes()[0], 0 * classes()[1])),
        "feature": lambda: (
            compiled(small(1), "mse"),
            with_bad(numbers(), 0, np.s_[:, 2], 3.0),
        ),
    },
    "PG324": {
        "number": lambda: (
            compiled(small(1), "mse"),
            (numbers()[0], numbers()[0][:, 1:2]),
        ),
        "own": lambda: (Own(small(1), squares), (numbers()[0], numbers()[0][:, 3:4])),
    },
    "PG325": {
        "supervised": lambda: (supervised(small(1), "mse"), (numbers()[0], 1e4 * numbers()[1])),
        "own": lambda: (Own(small(1), squares), (numbers()[0], 1e5 * numbers()[1])),
    },
    "PG440": {
        "dropout": own(training=False),
        "nothing told": own(training=None),
        "statistics": lambda: (
            Own(normalized(), sparse_values, training=False),
            classes(),
        ),
        "unmoved": lambda: (compiled(normalized(Unmoved), sparse()), classes()),
    },
    "PG441": {
        "dropout": own(testing=True),
        "statistics": lambda: (Own(normalized(), sparse_values, testing=True), classes()),
        "always": lambda: (supervised(with_layers(kl.Dense(8), Always(0.3)), sparse()), classes()),
    },
    "PG442": {
        "nearly all": lambda: (supervised(dropped(0.95), sparse()), classes()),
        "last": lambda: (compiled(model(kl.Dense(3), kl.Dropout(0.5)), sparse()), classes()),
    },
}

HEALTHY = {
    "dropout and BatchNorm": lambda: (
        Own(
            with_layers(kl.Dense(8), kl.BatchNormalization(), kl.ReLU(), kl.Dropout(0.3)),
            sparse_values,
        ),
        classes(),
    ),
    "frozen": lambda: (
        supervised(with_layers(kl.Dense(8, activation="relu", trainable=False)), sparse()),
        classes(),
    ),
    "penalties": lambda: (Own(regularized(), sparse_values), classes()),
    "penalties by hand": lambda: (
        Own(regularized(), lambda y, p: sparse_values(y, p)),
        classes(),
    ),
    "penalties compiled": lambda: (compiled(regularized(), sparse(), [accuracy()]), classes()),
    "mean": lambda: (Own(small(1), lambda y, p: ops.mean(squares(y, p))), numbers()),
    "values": lambda: (Own(small(1), squares, metrics=[metrics.MeanAbsoluteError()]), numbers()),
    "average": lambda: (Own(small(1), lambda y, p: pg.mean(squares(y, p))), numbers()),
    "probabilities": lambda: (
        supervised(small(3, "softmax"), sparse(False), [accuracy()]),
        classes(),
    ),
    "rows": lambda: (
        compiled(
            small(3, "softmax"),
            losses.CategoricalCrossentropy(),
            [metrics.CategoricalAccuracy()],
        ),
        rows(),
    ),
    "logits": lambda: (yes(small(1), metrics.BinaryAccuracy(threshold=0.0)), answers()),
    "area": lambda: (yes(small(1, "sigmoid"), metrics.AUC(), from_logits=False), answers()),
    "area of logits": lambda: (yes(small(1), metrics.AUC(from_logits=True)), answers()),
    "low rank": lambda: (
        supervised(model(kl.Dense(2), kl.Dense(3)), sparse()),
        classes(),
    ),
    "sigmoid in reach": lambda: (
        supervised(small(1, "sigmoid"), "mse"),
        (numbers()[0], (numbers()[1] > 0).astype("float32")),
    ),
    "warm-up": lambda: (
        Own(
            small(1),
            squares,
            optimizer=keras.optimizers.SGD(
                keras.optimizers.schedules.CosineDecay(0.0, 9, warmup_target=0.1, warmup_steps=3)
            ),
        ),
        numbers(),
    ),
    "scaled inside": lambda: (
        supervised(with_layers(kl.BatchNormalization(), kl.Dense(8, activation="relu")), sparse()),
        (255 * classes()[0], classes()[1]),
    ),
    "negative likelihood": lambda: (
        Own(small(1), lambda y, p: squares(y, p) - 99.0),
        numbers(),
    ),
    "seldom wrong": lambda: (
        supervised(with_layers(kl.Dense(8, activation="relu"), kl.Dropout(0.8)), sparse()),
        classes(),
    ),
}


@pytest.mark.parametrize(
    ("code", "make"),
    [pytest.param(code, make, id=f"{code} {n}") for code in SICK for n, make in SICK[code].items()],
)
def test_a_rule_finds_its_fault(code, make):
    assert code in codes(*make())


@pytest.mark.parametrize("make", HEALTHY.values(), ids=HEALTHY)
def test_no_rule_says_anything_of_a_healthy_program(make):
    assert codes(*make()) == []


def test_examples_that_are_validated_and_trained_on_are_found():
    step, data = supervised(small(1), "mse"), numbers()
    some = tuple(array[:20] for array in data)

    assert codes(step, data, validation=some) == ["PG323"]


def test_few_shared_examples_are_left_alone():
    step, (x, y) = supervised(small(1), "mse"), numbers()
    others = np.concatenate([x[:3], x[:40] + 1.0]), np.concatenate([y[:3], y[:40]])

    assert codes(step, (x, y), validation=others) == []


def test_repeated_words_are_no_shared_examples():
    words = np.random.default_rng(2).integers(3, size=(64, 2)).astype("int32")
    network = keras.Sequential(
        [keras.Input((2,), dtype="int32"), kl.Embedding(3, 4), kl.Flatten(), kl.Dense(3)]
    )
    data = words, classes()[1]

    assert codes(supervised(network, sparse()), data, validation=data) == []


def test_examples_of_a_validation_that_differ_are_left_alone():
    step, (x, y) = supervised(small(1), "mse"), numbers()

    assert codes(step, (x, y), validation=(x + 1.0, y)) == []
