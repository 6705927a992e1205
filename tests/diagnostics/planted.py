"""Programs with one fault each, by the code of the rule that is to find it, and healthy ones."""

from __future__ import annotations

import itertools
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import losses, metrics, ops

import perigee as pg
from tests.diagnostics.programs import (
    FEATURES,
    Own,
    adam,
    answers,
    classes,
    compiled,
    model,
    numbers,
    reader,
    rows,
    small,
    sparse,
    squares,
    supervised,
    weighted,
    words,
)


def sparse_values(y, y_pred):
    return ops.sparse_categorical_crossentropy(y, y_pred, from_logits=True)


def of_rows(y, y_pred):
    return -ops.sum(y * ops.log(ops.maximum(y_pred, 1e-7)), axis=-1)


def of_scores(y, y_pred):
    return -ops.sum(y * ops.log_softmax(y_pred), axis=-1)


def column_of_classes():
    x, y = classes()
    return x, y.astype("float32")[:, None]


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


class Forgetful(Own):
    """Forgets `minimize`."""

    def train_step(self, batch):
        x, y = batch
        y_pred = self.model(x, training=True)
        self.measure(y, y_pred)
        return {"loss": self.loss(y, y_pred)}


def beside(more):
    """Return batches of 16 rows of a regression, with something that is not of the same length."""
    x, y = numbers()
    return [(x[i : i + 16], y[i : i + 16], more) for i in range(0, 64, 16)]


def toward(y, y_pred, more):
    return ops.mean(squares(y, y_pred)) + ops.mean(more)


class Counted(Own):
    """Tells how many examples a batch has."""

    def num_examples(self, batch):
        return ops.shape(batch[0])[0]


class ByHand(Own):
    """Applies optimizers itself.

    Args:
        parts: For each call of an optimizer: which one, and which of the variables it updates.
    """

    def __init__(self, network, *parts, **options):
        super().__init__(network, squares, **options)
        self.optimizers = [adam(), adam()][: 1 + max(which for which, _ in parts)]
        self.optimizer, self.parts = self.optimizers[0], parts
        for optimizer in self.optimizers:
            optimizer.build(network.trainable_variables)

    def train_step(self, batch):
        x, y = batch
        objective = lambda: self.loss(y, self.model(x, training=True))  # noqa: E731
        gradients = self.gradients(objective, self.model)
        pairs = list(zip(gradients.values, gradients.variables, strict=True))
        for which, part in self.parts:
            self.optimizers[which].apply_gradients(pairs[part])
        return {"loss": gradients.returned}


ALL, FIRST_HALF, SECOND_HALF = slice(None), slice(0, 2), slice(2, None)


class Waiting(Forgetful):
    """Remembers what an update will be made of later."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.seen = keras.Variable(np.zeros(FEATURES, "float32"), trainable=False)

    def train_step(self, batch):
        self.seen.assign_add(ops.mean(batch[0], axis=0))
        return super().train_step(batch)


def measuring():
    """Return a step that is there to measure, and has no optimizer."""
    step = Forgetful(small(1), squares)
    del step.optimizer
    return step


def frozen_whole():
    network = small(1)
    network.trainable = False
    return Forgetful(network, squares)


class OneByOne(kl.Dense):
    """Calls a layer on one example after another, in a loop that is compiled by itself."""

    def __init__(self, units, **arguments):
        super().__init__(units, **arguments)
        self.inner = kl.Dense(units)

    def build(self, shape):
        super().build(shape)
        self.inner.build((1, self.units))

    def call(self, inputs):
        return ops.map(lambda row: self.inner(row[None])[0], super().call(inputs))

    def compute_output_shape(self, shape):
        return (*shape[:-1], self.units)


class Unmoved(kl.BatchNormalization):
    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=False, mask=mask)


class Always(kl.Dropout):
    def call(self, inputs, training=None):
        return super().call(inputs, training=True)


class Centered(kl.Layer):
    def call(self, x):
        return x - ops.mean(x, axis=0, keepdims=True)


def regularized(factor=0.01):
    penalty = keras.regularizers.L2(factor)
    return with_layers(kl.Dense(8, activation="relu", kernel_regularizer=penalty))


def deep(hidden="relu", times=2, initial="glorot_uniform"):
    layers = [kl.Dense(8, activation=hidden, kernel_initializer=initial) for _ in range(times)]
    return with_layers(*layers)


def wide(deviation):
    return keras.initializers.RandomNormal(stddev=deviation, seed=1)


def begun(deviation, hidden="relu"):
    return with_layers(kl.Dense(8, activation=hidden, kernel_initializer=wide(deviation)))


def pictures():
    """Return 64 pictures of 6 by 6 from 0 to 1, and three classes."""
    x = np.random.default_rng(6).uniform(size=(64, 6, 6, 1)).astype("float32")
    return x, x[:, :3, 0, 0].argmax(axis=1).astype("int32")


def pictured(bends=True, *, first=3, second=3):
    """Return a model of two convolutions, with or without an activation."""
    hidden = [kl.Activation("relu")] if bends else []
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            *(kl.Conv2D(12, first), *hidden, kl.Conv2D(12, second), kl.ReLU()),
            *(kl.GlobalAveragePooling2D(), kl.Dense(3)),
        ]
    )


def encoder(depth):
    """Return a model that names a class for each word, from rows with a single 1."""
    ids = keras.Input((6,), dtype="int32")
    return keras.Model(ids, kl.Dense(3)(ops.one_hot(ids, depth)))


class Clipped(kl.Layer):
    """Holds values within -4 and 4."""

    def call(self, inputs):
        return ops.clip(inputs, -4.0, 4.0)


class Factors(kl.Layer):
    """Adds to its inputs, or returns, a product with two matrices, the second of zeros."""

    def __init__(self, units, first="glorot_uniform"):
        super().__init__()
        self.units, self.first = units, first

    def build(self, shape):
        self.down = self.add_weight(shape=(shape[-1], 4), initializer=self.first)
        self.up = self.add_weight(shape=(4, self.units), initializer="zeros")

    def call(self, inputs):
        product = ops.matmul(ops.matmul(inputs, self.down), self.up)
        return inputs + product if self.units == FEATURES else product


def ended(deviation):
    return model(kl.Dense(8, activation="relu"), kl.Dense(3, kernel_initializer=wide(deviation)))


def repeated():
    return with_layers(*[kl.Dense(FEATURES, activation="relu")] * 2)


def partly_frozen():
    return with_layers(kl.Dense(8, activation="relu", trainable=False))


class Drifting(kl.Dense):
    """Gives its own weights other values each time."""

    def call(self, x, training=None):
        if training:
            self.kernel.assign(0.99 * self.kernel)
        return super().call(x)


def drifting():
    return with_layers(Drifting(8, activation="relu", trainable=False))


class WithUnused(kl.Layer):
    """Has a layer that it does not call."""

    def __init__(self, layer):
        super().__init__()
        self.layer, self.unused = layer, kl.Dense(2)

    def build(self, shape):
        self.layer.build(shape)
        self.unused.build(shape)
        self.built = True

    def call(self, x):
        return self.layer(x)


class Box:
    def __init__(self, layer):
        self.layer = layer


class Hiding(kl.Layer):
    """Holds a layer in an object that Keras does not look into."""

    def __init__(self, layer):
        super().__init__()
        self.box = Box(layer)

    def build(self, shape):
        self.box.layer.build(shape)
        self.built = True

    def call(self, x):
        return self.box.layer(x)


class Kept(metrics.SparseCategoricalAccuracy):
    def reset_state(self):
        pass


class Chosen(Own):
    """Trains a part of the variables."""

    def __init__(self, *arguments, part=slice(None, -1), **options):
        super().__init__(*arguments, **options)
        self.part = (part.start, part.stop)

    def minimize(self, objective, optimizer, variables, **options):
        some = list(variables.trainable_variables)[slice(*self.part)]
        return super().minimize(objective, optimizer, some, **options)


class Forgetting(pg.Supervised):
    def train_step(self, batch):
        return super().train_step(batch[:2])


class Averaging(Own):
    def measure(self, y, y_pred):
        self.metrics[0].update_state(ops.mean(ops.abs(y - y_pred)))


class Weighing(Own):
    def measure(self, y, y_pred):
        value = ops.mean(ops.abs(y - y_pred))
        self.metrics[0].update_state(value, sample_weight=ops.shape(y)[0])


class Reading(Own):
    """Makes a mask of the words."""

    def train_step(self, batch):
        return super().train_step((*batch, ops.cast(batch[0] > 0, "float32")))

    def test_step(self, batch):
        return super().test_step((*batch, ops.cast(batch[0] > 0, "float32")))


class Testing(Own):
    def test_step(self, batch):
        logs = super().test_step(batch)
        self.metrics[0].update_state(logs["loss"][0])
        return logs

    def measure(self, y, y_pred):
        pass


def exchanged(i, j):
    def change(values):
        values[i], values[j] = values[j], values[i]
        return values

    return change


def negated(gradients: list[Any]) -> list[Any]:
    """Return gradients with the other sign."""
    return [-gradient for gradient in gradients]


class Dreaming(pg.Step):
    """Changes an input so that a model, which stays as it is, returns more."""

    def __init__(self, network: keras.Model) -> None:
        self.model = network
        self.model.trainable = False
        self.image = keras.Variable(np.ones((1, network.input_shape[-1]), "float32"))
        self.optimizer = keras.optimizers.SGD(0.01)

    def train_step(self, batch: Any) -> dict[str, Any]:
        gradients = self.gradients(
            lambda: ops.mean(self.model(self.image, training=False)), [self.image]
        )
        self.apply(self.optimizer, [(-value, self.image) for value in gradients.values])
        return {"loss": gradients.loss}


def clipped(values):
    return [ops.clip(value, -1.0, 1.0) for value in values]


def calm(limit):
    def change(values):
        norm = ops.sqrt(sum(ops.sum(ops.square(value)) for value in values))
        return [value * ops.cast(norm <= limit, value.dtype) for value in values]

    return change


def shrinking(step, loss):
    layer = step.model.layers[0]
    layer.kernel.assign(0.9 * layer.kernel)


def decaying():
    return keras.optimizers.AdamW(1e-2)


def every_word(y, y_pred, mask):
    return ops.mean(sparse_values(y, y_pred), axis=-1)


def masked_words(y, y_pred, mask):
    return pg.mean(sparse_values(y, y_pred), mask)


def of_own_words(y, y_pred, mask):
    return ops.sum(sparse_values(y, y_pred) * mask) / ops.sum(mask)


def sorted_by_label(data):
    order = np.argsort(data[1].reshape(-1), kind="stable")
    return tuple(array[order] for array in data)


def in_batches(data, size=16):
    return [tuple(array[i : i + size] for array in data) for i in range(0, len(data[0]), size)]


def shuffled(batches):
    """Return what makes the same batches, each time in another order."""
    calls = itertools.count(1)

    def make():
        turn = next(calls)
        yield from batches[turn % len(batches) :] + batches[: turn % len(batches)]

    return make


def many(label):
    x = np.random.default_rng(4).normal(size=(300, FEATURES)).astype("float32")
    y = x[:, :3].argmax(axis=1).astype("int32")
    return x, label(x, y).astype("int32")


def seldom(x, y):
    return np.where((y == 2) & (np.arange(len(y)) % 20 > 0), 0, y)


def accuracy_of_logits():
    return metrics.BinaryAccuracy(threshold=0.0)


def noisy(generator):
    def loss(y, y_pred):
        return squares(y, y_pred + np.float32(generator().normal()))

    return loss


def counting(step, loss):
    step.turns = getattr(step, "turns", 0) + 1


def cooling(step):
    step.heat = 0.5 * getattr(step, "heat", 1.0)


def constant(value):
    return keras.initializers.Constant(value)


def biased(bias):
    return with_layers(kl.Dense(8, activation="relu", bias_initializer=constant(bias)))


def alike(hidden, last):
    """Return a chain of three layers whose kernels begin as given."""
    return model(
        kl.Dense(8, activation="tanh", kernel_initializer=hidden),
        kl.Dense(6, activation="tanh", kernel_initializer=hidden),
        kl.Dense(1, kernel_initializer=last),
    )


def unbent(between=None):
    """Return convolutions with nothing between them that is not linear."""
    inputs = keras.Input((5,))
    hidden = kl.Conv1D(6, 3, padding="same")(kl.Reshape((5, 1))(inputs))
    hidden = kl.BatchNormalization()(hidden)
    hidden = hidden if between is None else between(hidden)
    hidden = kl.Conv1D(4, 3)(hidden)
    return keras.Model(inputs, kl.Dense(1)(kl.GlobalAveragePooling1D()(hidden)))


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


def forgetful(step, loss):
    step.optimizer.iterations.assign(0)


def hasty(step, loss):
    step.optimizer.iterations.assign(step.optimizer.iterations + 1)


def accuracy():
    return metrics.SparseCategoricalAccuracy()


def yes(network, metric, from_logits=True):
    return supervised(network, losses.BinaryCrossentropy(from_logits=from_logits), [metric])


SICK: dict[str, dict[str, Any]] = {
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
        "one width": lambda: (supervised(with_layers(kl.Dense(3)), sparse()), classes()),
        "no slope": lambda: (
            supervised(with_layers(kl.Dense(8), kl.LeakyReLU(negative_slope=1.0)), sparse()),
            classes(),
        ),
        "normalized": lambda: (
            compiled(with_layers(kl.Dense(8), kl.BatchNormalization()), sparse()),
            classes(),
        ),
        "convolutions": lambda: (Own(pictured(bends=False), sparse_values), pictures()),
        "functional": lambda: (Own(unbent(), squares), numbers()),
        "no bend": lambda: (compiled(unbent(kl.LeakyReLU(negative_slope=1.0)), "mse"), numbers()),
    },
    "PG124": {
        "too high": lambda: (Own(small(1), squares, optimizer=adam(100.0)), numbers()),
        "too low": lambda: (Own(small(1), squares, optimizer=adam(1e-9)), numbers()),
    },
    "PG125": {
        "begins anew": lambda: (Own(small(1), squares, after=forgetful), numbers()),
        "twice": lambda: (Own(small(1), squares, after=hasty), numbers()),
    },
    "PG138": {
        "constant": lambda: (Own(alike("ones", "ones"), squares), numbers()),
        "zeros": lambda: (supervised(alike("zeros", "zeros"), "mse"), numbers()),
        "compiled": lambda: (compiled(alike(constant(-0.3), constant(0.2)), "mse"), numbers()),
        "two of zeros": lambda: (Own(model(Factors(3, "zeros")), sparse_values), classes()),
        "all alike": lambda: (compiled(deep("tanh", 2, "ones"), sparse()), classes()),
    },
    "PG204": {
        "own": lambda: (Own(small(3, "softmax"), of_rows), column_of_classes()),
        "scores": lambda: (supervised(small(3), of_scores), column_of_classes()),
    },
    "PG206": {
        "relu": lambda: (
            compiled(small(1, "relu"), losses.BinaryCrossentropy()),
            (0.1 * answers()[0], answers()[1]),
        ),
        "supervised": lambda: (
            supervised(small(1, "tanh"), losses.BinaryCrossentropy()),
            answers(),
        ),
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
        "uphill": lambda: (
            Own(small(1), squares, optimizer=keras.optimizers.SGD(0.01), change=negated),
            numbers(),
        ),
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
    "PG228": {
        "amounts": lambda: (
            supervised(small(3, "softmax"), sparse(False)),
            (numbers()[0], 1.0 + np.tanh(numbers()[1])),
        ),
        "tags": lambda: (
            compiled(small(3, "softmax"), losses.CategoricalCrossentropy()),
            (numbers()[0], (numbers()[0][:, :3] > 0).astype("float32")),
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
    "PG239": {
        "shorter": lambda: (Own(small(1), toward), beside(np.zeros((4, 1), "float32"))),
        "longer": lambda: (Own(small(1), toward), beside(np.zeros((99, 1), "float32"))),
    },
    "PG320": {
        "input": lambda: (supervised(small(1), "mse"), with_bad(numbers(), 0, 60, np.nan)),
        "target": lambda: (compiled(small(1), "mse"), with_bad(numbers(), 1, 7, np.inf)),
    },
    "PG321": {
        "wide": lambda: (supervised(small(3), sparse()), (255 * classes()[0], classes()[1])),
        "compiled": lambda: (compiled(small(1), "mse"), (99 * numbers()[0] + 50, numbers()[1])),
        "bytes": lambda: (
            supervised(small(3), sparse()),
            ((127 + 40 * classes()[0]).clip(0, 255).astype("uint8"), classes()[1]),
        ),
        "tiny": lambda: (supervised(small(3), sparse()), (1e-4 * classes()[0], classes()[1])),
        "one column": lambda: (
            Own(small(1), squares),
            with_bad(numbers(), 0, np.s_[:, 1], 290 + numbers()[0][:, 1]),
        ),
        "never adapted": lambda: (
            supervised(
                with_layers(
                    kl.Normalization(mean=0.0, variance=1.0), kl.Dense(8, activation="relu")
                ),
                sparse(),
            ),
            (255 * classes()[0], classes()[1]),
        ),
        "missing ones": lambda: (
            compiled(small(1), "mse"),
            with_bad(numbers(), 0, np.s_[40::6, 2], -999.0),
        ),
        "a row in other units": lambda: (
            Own(small(1), squares),
            with_bad(numbers(), 0, 50, 1000 * numbers()[0][50]),
        ),
    },
    "PG322": {
        "labels": lambda: (supervised(small(3), sparse()), (classes()[0], 0 * classes()[1])),
        "inputs": lambda: (supervised(small(3), sparse()), (0 * classes()[0], classes()[1])),
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
        "integers": lambda: (
            compiled(small(1), "mse"),
            (numbers()[0], (1e4 * numbers()[1][:, 0]).astype("int64")),
        ),
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

SICK |= {
    "PG101": {
        "last": lambda: (compiled(model(WithUnused(kl.Dense(3))), sparse()), classes()),
        "hidden": lambda: (
            compiled(with_layers(WithUnused(kl.Dense(8, activation="relu"))), sparse()),
            classes(),
        ),
        "own": lambda: (Own(model(WithUnused(kl.Dense(3))), sparse_values), classes()),
        "supervised": lambda: (supervised(model(WithUnused(kl.Dense(3))), sparse()), classes()),
    },
    "PG102": {
        "own": lambda: (Own(with_layers(Hiding(kl.Dense(8))), sparse_values), classes()),
        "supervised": lambda: (supervised(with_layers(Hiding(kl.Dense(8))), sparse()), classes()),
        "compiled": lambda: (compiled(with_layers(Hiding(kl.Dense(8))), sparse()), classes()),
    },
    "PG104": {
        "all": lambda: (ByHand(small(1), (0, ALL), (1, ALL)), numbers()),
        "half": lambda: (ByHand(small(1), (0, ALL), (1, SECOND_HALF)), numbers()),
    },
    "PG105": {
        "halves": lambda: (ByHand(small(1), (0, FIRST_HALF), (0, SECOND_HALF)), numbers()),
        "half": lambda: (ByHand(small(1), (0, ALL), (0, SECOND_HALF)), numbers()),
    },
    "PG110": {
        "own": lambda: (Chosen(small(3), sparse_values), classes()),
        "last": lambda: (Chosen(deep(), sparse_values, part=slice(-2, None)), classes()),
    },
    "PG112": {
        "own": lambda: (Forgetful(small(1), squares), numbers()),
        "measured": lambda: (
            Forgetful(normalized(), sparse_values, metrics=[metrics.SparseCategoricalAccuracy()]),
            classes(),
        ),
    },
    "PG121": {
        "kernels": lambda: (Own(deep(times=3), sparse_values, change=exchanged(2, 4)), classes()),
        "biases": lambda: (Own(deep(), sparse_values, change=exchanged(1, 3)), classes()),
    },
    "PG126": {
        "own": lambda: (Own(drifting(), sparse_values), classes()),
        "supervised": lambda: (supervised(drifting(), sparse()), classes()),
        "compiled": lambda: (compiled(drifting(), sparse()), classes()),
        "by hand": lambda: (Own(partly_frozen(), sparse_values, after=shrinking), classes()),
    },
    "PG127": {
        "when wild": lambda: (Own(small(1), squares, change=calm(0.0)), numbers()),
        "when very wild": lambda: (Own(small(1), squares, change=calm(9.0)), numbers()),
    },
    "PG128": {
        "own": lambda: (Own(repeated(), sparse_values), classes()),
        "supervised": lambda: (supervised(repeated(), sparse()), classes()),
        "compiled": lambda: (compiled(repeated(), sparse()), classes()),
    },
    "PG130": {
        "own": lambda: (Own(deep("sigmoid", 9), sparse_values), classes()),
        "supervised": lambda: (supervised(deep("sigmoid", 9), sparse()), classes()),
        "compiled": lambda: (compiled(deep("sigmoid", 9), sparse()), classes()),
    },
    "PG131": {
        "own": lambda: (Own(deep("relu", 6, wide(9.0)), sparse_values), classes()),
        "supervised": lambda: (supervised(deep("relu", 6, wide(9.0)), sparse()), classes()),
        "compiled": lambda: (compiled(deep("relu", 6, wide(9.0)), sparse()), classes()),
    },
    "PG132": {
        "own": lambda: (Own(begun(1e-7), sparse_values), classes()),
        "supervised": lambda: (supervised(begun(1e-7), sparse()), classes()),
        "compiled": lambda: (compiled(begun(1e-7), sparse()), classes()),
        "little by little": lambda: (supervised(deep("tanh", 6, wide(1e-3)), sparse()), classes()),
        "saturated": lambda: (supervised(begun(300.0, "tanh"), sparse()), classes()),
        "softmax between": lambda: (
            supervised(with_layers(kl.Dense(16, activation="softmax")), sparse()),
            classes(),
        ),
    },
    "PG133": {
        "own": lambda: (Own(ended(30.0), sparse_values), classes()),
        "supervised": lambda: (supervised(ended(30.0), sparse()), classes()),
        "compiled": lambda: (compiled(ended(30.0), sparse()), classes()),
        "far from numbers": lambda: (
            supervised(model(kl.Dense(1, bias_initializer=constant(1000.0))), "mse"),
            numbers(),
        ),
    },
    "PG134": {
        "own": lambda: (Own(regularized(30.0), sparse_values), classes()),
        "supervised": lambda: (supervised(regularized(30.0), sparse()), classes()),
        "compiled": lambda: (compiled(regularized(30.0), sparse()), classes()),
    },
    "PG135": {
        "own": lambda: (Own(regularized(), sparse_values, optimizer=decaying()), classes()),
        "supervised": lambda: (supervised(regularized(), sparse(), (), decaying()), classes()),
        "compiled": lambda: (compiled(regularized(), sparse(), (), decaying()), classes()),
    },
    "PG205": {
        "late": lambda: (Own(small(3), sparse()), with_bad(classes(), 1, 60, 3)),
        "supervised": lambda: (supervised(small(3), sparse()), with_bad(classes(), 1, 60, 3)),
        "compiled": lambda: (compiled(small(3), sparse()), with_bad(classes(), 1, 60, -1)),
        "answers": lambda: (yes(small(1), accuracy_of_logits()), with_bad(answers(), 1, 60, 2.0)),
    },
    "PG212": {
        "own": lambda: (Own(small(3), squares), numbers()),
        "supervised": lambda: (supervised(small(3), squares), numbers()),
        "one output": lambda: (Own(small(1), squares), three()),
    },
    "PG214": {
        "own": lambda: (Reading(reader(), every_word), words()),
        "no mask": lambda: (supervised(reader(mask_zero=False), sparse()), words()),
        "compiled": lambda: (compiled(reader(mask_zero=False), sparse()), words()),
    },
    "PG215": {
        "own": lambda: (Own(small(1), lambda y, p, w: squares(y, p)), weighted()),
        "ones": lambda: (
            Own(small(1), lambda y, p, w: pg.mean(squares(y, p), ops.ones_like(w))),
            weighted(),
        ),
        "supervised": lambda: (Forgetting(small(1), adam(), "mse"), weighted()),
    },
    "PG216": {
        "own": lambda: (Reading(reader(), of_own_words), words()),
        "no mask": lambda: (Reading(reader(mask_zero=False), of_own_words), words()),
    },
    "PG231": {
        "own": lambda: (Averaging(small(1), squares, metrics=[metrics.Mean()]), numbers()),
        "in test_step": lambda: (Testing(small(1), squares, metrics=[metrics.Mean()]), numbers()),
    },
    "PG234": {
        "own": lambda: (Own(small(3), sparse_values, metrics=[Kept()]), classes()),
        "supervised": lambda: (supervised(small(3), sparse(), [Kept()]), classes()),
        "compiled": lambda: (compiled(small(3), sparse(), [Kept()]), classes()),
    },
    "PG326": {
        "own": lambda: (Reading(reader(), masked_words), with_bad(words(), 0, (3, 0), 9)),
        "late": lambda: (Reading(reader(), masked_words), with_bad(words(), 0, (60, 0), 9)),
        "supervised": lambda: (supervised(reader(known=8), sparse()), words()),
        "compiled": lambda: (compiled(reader(known=8), sparse()), words()),
        "rows without a 1": lambda: (compiled(encoder(8), sparse()), words()),
        "in eight bits": lambda: (
            supervised(reader(known=1000), sparse()),
            (np.linspace(0, 255, 384).reshape(64, 6).astype("uint8"), words()[1]),
        ),
    },
    "PG327": {
        "arrays": lambda: (supervised(small(3), sparse()), sorted_by_label(classes())),
        "batches": lambda: (compiled(small(3), sparse()), in_batches(sorted_by_label(classes()))),
        "own": lambda: (Own(small(3), sparse()), in_batches(sorted_by_label(classes()))),
    },
    "PG328": {
        "own": lambda: (Own(small(1), squares), shuffled(in_batches(numbers()))),
        "supervised": lambda: (supervised(small(1), "mse"), shuffled(in_batches(numbers()))),
        "compiled": lambda: (compiled(small(1), "mse"), shuffled(in_batches(numbers()))),
    },
    "PG330": {
        "classes": lambda: (supervised(small(3), sparse()), many(lambda x, y: y[::-1].copy())),
        "compiled": lambda: (compiled(small(3), sparse()), many(lambda x, y: np.roll(y, 9))),
        "one row before": lambda: (compiled(small(3), sparse()), many(lambda x, y: np.roll(y, 1))),
    },
    "PG331": {
        "supervised": lambda: (supervised(small(3), sparse(), [accuracy()]), many(seldom)),
        "own": lambda: (Own(small(3), sparse_values, metrics=[accuracy()]), many(seldom)),
        "compiled": lambda: (compiled(small(3), sparse(), [accuracy()]), many(seldom)),
    },
}

ONLY_COMPILED = {
    "PG444": {
        "fresh": lambda: (Own(small(1), noisy(lambda: np.random.default_rng())), numbers()),
        "global": lambda: (Own(small(1), noisy(lambda: np.random)), numbers()),
        "supervised": lambda: (supervised(small(1), noisy(lambda: np.random)), numbers()),
        "compiled": lambda: (compiled(small(1), noisy(lambda: np.random)), numbers()),
    },
    "PG445": {
        "counter": lambda: (Own(small(1), squares, after=counting), numbers()),
        "rate": lambda: (Own(small(1), squares, before=cooling), numbers()),
    },
}
"""Faults of steps that are compiled, as they are on TensorFlow and on JAX."""


class Skipping(Own):
    """Leaves wild updates out."""

    def minimize(self, objective, optimizer, variables, **options):
        gradients = self.gradients(objective, variables)
        norm = ops.sqrt(sum(ops.sum(ops.square(value)) for value in gradients.values))
        self.apply(optimizer, gradients, when=norm < 0.1)
        return gradients.returned


class Noisy(Own):
    """Draws as Keras does."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.seed = keras.random.SeedGenerator(1)

    def train_step(self, batch):
        x, y = batch
        return super().train_step((x + 0.1 * keras.random.normal(ops.shape(x), seed=self.seed), y))


class Counting(Own):
    """Counts in a variable."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.turns = keras.Variable(0, dtype="int32", trainable=False)

    def train_step(self, batch):
        self.turns.assign(self.turns + 1)
        return super().train_step(batch)


def three():
    x, _ = numbers()
    return x, np.tanh(x[:, :3])


def mixed_anew(data):
    """Return what makes batches of examples in another order each time."""
    calls = itertools.count(1)

    def make():
        order = np.random.default_rng(next(calls)).permutation(len(data[0]))
        yield from in_batches(tuple(array[order] for array in data))

    return make


def in_three_ways(name, network, loss, values, data, metric=None, own=Own):
    """Return one program by hand, with `Supervised` and compiled."""

    def measured():
        return [] if metric is None else [metric()]

    return {
        f"{name} own": lambda: (own(network(), values, metrics=measured()), data()),
        f"{name} supervised": lambda: (supervised(network(), loss(), measured()), data()),
        f"{name} compiled": lambda: (compiled(network(), loss(), measured()), data()),
    }


HEALTHY: dict[str, Any] = {
    "beside rows": lambda: (Own(small(1), toward), beside(np.zeros((16, 1), "float32"))),
    "beside a number": lambda: (Own(small(1), toward), beside(np.float32(0.0))),
    "counted": lambda: (Counted(small(1), toward), beside(np.zeros((4, 1), "float32"))),
    **in_three_ways("numbers", lambda: small(1), lambda: "mse", squares, numbers),
    **in_three_ways("three", lambda: small(3), lambda: "mse", squares, three),
    **in_three_ways("classes", lambda: small(3), sparse, sparse_values, classes, accuracy),
    **in_three_ways("deep", deep, sparse, sparse_values, classes),
    **in_three_ways("dropped", dropped, sparse, sparse_values, classes),
    **in_three_ways("normalized", normalized, sparse, sparse_values, classes),
    **in_three_ways("frozen", partly_frozen, sparse, sparse_values, classes),
    **in_three_ways("penalty", regularized, sparse, sparse_values, classes),
    **in_three_ways("words", reader, sparse, masked_words, words, own=Reading),
    **in_three_ways(
        "weighted",
        lambda: small(1),
        lambda: "mse",
        lambda y, p, w: pg.mean(squares(y, p), w),
        weighted,
    ),
    **in_three_ways(
        "many", lambda: small(3), sparse, sparse_values, lambda: many(lambda x, y: y), accuracy
    ),
    "compiled within": lambda: (
        supervised(compiled(small(3), sparse(), [accuracy()]), sparse()),
        classes(),
    ),
    "clipped": lambda: (Own(deep(), sparse_values, change=clipped), classes()),
    "dreaming": lambda: (Dreaming(small(1)), numbers()[0]),
    "unclipped": lambda: (Own(deep(), sparse_values, change=list), classes()),
    "half of the gradients": lambda: (
        Own(deep(), sparse_values, change=lambda values: [0.5 * value for value in values]),
        classes(),
    ),
    "skipping": lambda: (Skipping(small(1), squares), numbers()),
    "begun": lambda: (supervised(begun(0.3), sparse()), classes()),
    "factors": lambda: (Own(with_layers(Factors(FEATURES)), sparse_values), classes()),
    "gates": lambda: (supervised(small(3, hidden="sigmoid"), sparse()), classes()),
    "pictured": lambda: (Own(pictured(), sparse_values), pictures()),
    "of two axes": lambda: (
        supervised(pictured(False, first=(1, 3), second=(3, 1)), sparse()),
        pictures(),
    ),
    "encoder": lambda: (compiled(encoder(9), sparse()), words()),
    "bytes scaled": lambda: (
        supervised(
            with_layers(kl.Rescaling(1 / 40, -3.2), kl.Dense(8, activation="relu")), sparse()
        ),
        ((127 + 40 * classes()[0]).clip(0, 255).astype("uint8"), classes()[1]),
    ),
    "missing ones clipped": lambda: (
        compiled(model(Clipped(), kl.Dense(8, activation="relu"), kl.Dense(1)), "mse"),
        with_bad(numbers(), 0, np.s_[40::6, 2], -999.0),
    ),
    "long tails": lambda: (Own(small(1), squares), (np.exp(numbers()[0]), numbers()[1])),
    "labels unused": lambda: (
        compiled(small(1), lambda _, y_pred: ops.square(y_pred[:, 0] - 1.0)),
        (numbers()[0], 0 * numbers()[1]),
    ),
    "ended": lambda: (supervised(ended(0.3), sparse()), classes()),
    "decaying": lambda: (supervised(small(3), sparse(), (), decaying()), classes()),
    "decaying by hand": lambda: (Own(small(3), sparse_values, optimizer=decaying()), classes()),
    "decaying compiled": lambda: (compiled(small(3), sparse(), (), decaying()), classes()),
    "unpadded": lambda: (supervised(reader(mask_zero=False), sparse()), words(padded=False)),
    "weighing": lambda: (Weighing(small(1), squares, metrics=[metrics.Mean()]), numbers()),
    "batches": lambda: (compiled(small(3), sparse()), in_batches(classes())),
    "batches by hand": lambda: (Own(small(3), sparse_values), in_batches(classes())),
    "batches supervised": lambda: (supervised(small(3), sparse()), in_batches(classes())),
    "mixed anew": lambda: (supervised(small(1), "mse"), mixed_anew(numbers())),
    "mixed anew by hand": lambda: (Own(small(1), squares), mixed_anew(numbers())),
    "mixed anew compiled": lambda: (compiled(small(1), "mse"), mixed_anew(numbers())),
    "noise": lambda: (Noisy(small(1), squares), numbers()),
    "turns": lambda: (Counting(small(1), squares), numbers()),
    "by hand": lambda: (ByHand(small(1), (0, ALL)), numbers()),
    "repeated by hand": lambda: (ByHand(small(1), (0, ALL), (0, ALL)), numbers()),
    "halves by hand": lambda: (ByHand(small(1), (0, FIRST_HALF), (1, SECOND_HALF)), numbers()),
    "answers": lambda: (yes(small(1), accuracy_of_logits()), answers()),
    "answers by hand": lambda: (
        Own(small(1), losses.BinaryCrossentropy(from_logits=True)),
        answers(),
    ),
    "answers compiled": lambda: (
        compiled(small(1, "sigmoid"), losses.BinaryCrossentropy(), [metrics.BinaryAccuracy()]),
        answers(),
    ),
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
    "recurrent": lambda: (
        Own(with_layers(kl.Reshape((FEATURES, 1)), kl.LSTM(8)), sparse_values),
        classes(),
    ),
    "loop of its own": lambda: (
        Own(with_layers(OneByOne(8, activation="tanh")), sparse_values),
        classes(),
    ),
    "of one size": lambda: (
        Own(small(1), lambda y, p: squares(y, p) * ops.ones(32)),
        numbers(),
    ),
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
    "waiting": lambda: (Waiting(small(1), squares), numbers()),
    "measuring": lambda: (measuring(), numbers()),
    "all frozen": lambda: (frozen_whole(), numbers()),
    "seldom wrong": lambda: (
        supervised(with_layers(kl.Dense(8, activation="relu"), kl.Dropout(0.8)), sparse()),
        classes(),
    ),
}


def _ways(name):
    return f"{name} own", f"{name} supervised", f"{name} compiled"


SIBLINGS = {
    "PG101": _ways("classes"),
    "PG102": _ways("deep"),
    "PG104": ("by hand", "halves by hand", "repeated by hand"),
    "PG105": ("by hand", "halves by hand", "repeated by hand"),
    "PG110": (*_ways("frozen"), "by hand"),
    "PG112": (*_ways("numbers"), "waiting", "measuring", "all frozen"),
    "PG120": _ways("numbers"),
    "PG121": ("clipped", "unclipped", "half of the gradients"),
    "PG122": _ways("classes"),
    "PG123": (*_ways("deep"), "low rank", "pictured", "of two axes"),
    "PG124": (*_ways("numbers"), "warm-up"),
    "PG125": (*_ways("numbers"), "turns"),
    "PG126": _ways("frozen"),
    "PG127": ("skipping", "clipped", "half of the gradients"),
    "PG128": _ways("deep"),
    "PG130": _ways("deep"),
    "PG131": _ways("deep"),
    "PG132": (*_ways("classes"), "begun", "factors", "gates"),
    "PG133": (*_ways("classes"), "ended"),
    "PG134": _ways("penalty"),
    "PG135": (*_ways("penalty"), "decaying", "decaying by hand", "decaying compiled"),
    "PG138": (*_ways("deep"), "low rank"),
    "PG204": (*_ways("classes"), "rows", "answers"),
    "PG205": (*_ways("classes"), "answers"),
    "PG206": ("answers compiled", "answers by hand", "probabilities"),
    "PG211": _ways("numbers"),
    "PG212": _ways("three"),
    "PG214": (*_ways("words"), "unpadded"),
    "PG215": _ways("weighted"),
    "PG216": (*_ways("words"), "unpadded"),
    "PG220": (*_ways("numbers"), "mean", "values", "average", "of one size"),
    "PG221": (*_ways("numbers"), *_ways("classes")),
    "PG222": (*_ways("numbers"), *_ways("classes"), "negative likelihood"),
    "PG223": ("probabilities", "rows", "classes own"),
    "PG224": ("answers compiled", "answers by hand", "answers"),
    "PG225": (*_ways("classes"), "answers compiled"),
    "PG226": ("sigmoid in reach", *_ways("numbers")),
    "PG227": ("rows", *_ways("numbers")),
    "PG228": ("probabilities", "rows", "answers compiled"),
    "PG229": (*_ways("penalty"), "penalties by hand"),
    "PG230": ("logits", "area", "area of logits", "answers compiled"),
    "PG231": ("weighing", "values", "classes supervised"),
    "PG232": (*_ways("classes"), "values", "compiled within"),
    "PG233": (*_ways("classes"), *_ways("normalized")),
    "PG234": _ways("classes"),
    "PG239": ("beside rows", "beside a number", "counted"),
    "PG320": _ways("numbers"),
    "PG321": (
        *(*_ways("numbers"), "scaled inside", "bytes scaled", "missing ones clipped"),
        "long tails",
    ),
    "PG322": (*_ways("numbers"), *_ways("classes"), "labels unused"),
    "PG324": _ways("numbers"),
    "PG325": _ways("numbers"),
    "PG326": (*_ways("words"), "encoder"),
    "PG327": ("batches", "batches by hand", "batches supervised"),
    "PG328": ("mixed anew", "mixed anew by hand", "mixed anew compiled", "batches"),
    "PG330": _ways("many"),
    "PG331": _ways("many"),
    "PG440": (*_ways("dropped"), *_ways("normalized")),
    "PG441": (*_ways("dropped"), *_ways("normalized")),
    "PG442": (*_ways("dropped"), "seldom wrong"),
    "PG444": ("noise", *_ways("numbers")),
    "PG445": ("turns", *_ways("numbers")),
}
"""Healthy programs, by the code of a rule that finds their like with one line changed."""
