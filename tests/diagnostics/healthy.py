"""Healthy training programs: what the doctor must leave alone.

A program is made of parts (layers, data, loss, optimizer, step), so that an operator of
`mutants.py` can put a fault into one of them. Steps written by hand derive from `Own`, whose
methods are the places where such a step goes wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import losses, metrics, ops
from sklearn import datasets

import perigee as pg

SEED = 7
BATCH = 32


def sequential(parts: Parts) -> keras.Model:
    """Chain the layers behind an input like the data."""
    x = keras.tree.flatten(parts.data())[0]
    dtype = "int32" if x.dtype.kind == "i" else "float32"
    return keras.Sequential([keras.Input(x.shape[1:], dtype=dtype), *parts.layers()])


@dataclass(frozen=True, slots=True)
class Parts:
    """What a training program is made of; each call of a part makes a new one.

    Attributes:
        step: Puts the parts together to a Step.
        data: Arrays: what a batch holds, for all examples.
        layers: Of a chain of layers, without the input.
        model: Makes the model.
        loss: Makes a function of labels and predictions; a Keras loss, or one value an example.
        optimizer: Makes the optimizer.
        metrics: Makes the metrics.
        options: Further arguments of `Supervised`.
        fit: Further arguments of `fit`.
        validation: Data like `data`, or `None`.
    """

    step: Callable[[Parts], pg.Step]
    data: Callable[[], Any]
    layers: Callable[[], list[Any]] | None = None
    model: Callable[[Parts], Any] = sequential
    loss: Callable[[], Any] | None = None
    optimizer: Callable[[], Any] = lambda: keras.optimizers.Adam(1e-2)
    metrics: Callable[[], list[Any]] = list
    options: Mapping[str, Any] = field(default_factory=dict)
    fit: Mapping[str, Any] = field(default_factory=dict)
    validation: Callable[[], Any] | None = None

    def build(self) -> tuple[pg.Step, Any]:
        """Return the Step, its weights always the same, and the data."""
        keras.utils.set_random_seed(SEED)
        return self.step(self), self.data()

    def fit_arguments(self) -> dict[str, Any]:
        """Return how the program calls `fit`."""
        arguments = {"batch_size": BATCH, "epochs": 5, **self.fit}
        if self.validation is not None:
            arguments["validation"] = self.validation()
        return arguments


@dataclass(frozen=True, slots=True)
class Program:
    """A healthy program.

    Attributes:
        name: Of its own.
        parts: What it is made of.
        traits: What operators ask for: the task (`sparse`, `one-hot`, `binary`, `multi-label`,
            `regression`, ...), the form of the output (`logits`, `probabilities`), the way
            (`own`, `supervised`, `keras`), and what is in it (`dropout`, `relu`, ...).
        falls: The logged measure that training makes smaller.
    """

    name: str
    parts: Parts
    traits: frozenset[str]
    falls: str = "loss"


class Own(pg.Step):
    """A step written by hand: four places that each of them shares."""

    def call(self, model: Any, x: Any, training: bool = True) -> Any:
        return model(x, training=training)

    def reduce(self, values: Any) -> Any:
        """Make of one value an example what the objective returns."""
        return values

    def chosen(self, *models: Any) -> list[Any]:
        """Return what an update is for."""
        return [v for model in models for v in model.trainable_variables]

    def update(self, objective: Any, optimizer: Any, *models: Any) -> Any:
        return self.minimize(objective, optimizer, self.chosen(*models))


class ByHand(Own):
    """One model, one loss, one optimizer."""

    def __init__(self, parts: Parts) -> None:
        self.model = parts.model(parts)
        self.optimizer = parts.optimizer()
        self.metrics = parts.metrics()
        self.loss = parts.loss and parts.loss()

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, *rest = batch

        def objective() -> Any:
            y_pred = self.call(self.model, x)
            return self.objective_value(y_pred, *rest), y_pred

        loss, y_pred = self.update(objective, self.optimizer, self.model)
        self.measure(rest[0], y_pred)
        return {"loss": loss}

    def test_step(self, batch: Any) -> dict[str, Any]:
        x, *rest = batch
        y_pred = self.call(self.model, x, training=False)
        self.measure(rest[0], y_pred)
        return {"loss": self.objective_value(y_pred, *rest)}

    def objective_value(self, y_pred: Any, y: Any, weights: Any = None) -> Any:
        values = self.loss(y, y_pred)
        if weights is None:
            return self.reduce(values)
        return pg.mean(values, self.weigh(weights))

    def weigh(self, weights: Any) -> Any:
        return weights

    def measure(self, y: Any, y_pred: Any) -> None:
        for metric in self.metrics:
            metric.update_state(y, y_pred)


class Halves(ByHand):
    """Gradients, clipped by their joint norm, then the update."""

    def update(self, objective: Any, optimizer: Any, *models: Any) -> Any:
        gradients = self.gradients(objective, self.chosen(*models))
        clipped, _ = gradients.clip_by_global_norm(1.0)
        self.apply(optimizer, self.paired(clipped.values, clipped.variables))
        return gradients.returned

    def paired(self, values: Any, variables: Any) -> list[Any]:
        return list(zip(values, variables, strict=True))


class Skipping(Halves):
    """Leaves out updates with wild gradients."""

    def update(self, objective: Any, optimizer: Any, *models: Any) -> Any:
        gradients = self.gradients(objective, self.chosen(*models))
        norm = ops.sqrt(sum(ops.sum(ops.square(value)) for value in gradients.values))
        self.apply_where(norm < 0.8, optimizer, gradients)
        return gradients.returned

    def apply_where(self, is_calm: Any, optimizer: Any, gradients: Any) -> None:
        self.apply(optimizer, gradients, when=is_calm)


class Averaged(ByHand):
    """Follows the model with a moving average of its weights."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.average = pg.copy_of(self.model)
        self.average.trainable = False

    def train_step(self, batch: Any) -> dict[str, Any]:
        logs = super().train_step(batch)
        for average, variable in zip(self.average.weights, self.model.weights, strict=True):
            average.assign(0.9 * average + 0.1 * variable)
        return logs

    def test_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        return {"loss": self.loss(y, self.call(self.average, x, training=False))}


class Masked(ByHand):
    """One label a word; padding (0) counts nothing."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        words, y = batch

        def objective() -> Any:
            values = self.loss(y, self.call(self.model, words))
            return self.average(values, ops.cast(ops.not_equal(words, 0), "float32"))

        return {"loss": self.update(objective, self.optimizer, self.model)}

    def average(self, values: Any, mask: Any) -> Any:
        return pg.mean(values, mask)

    def test_step(self, batch: Any) -> dict[str, Any]:
        words, y = batch
        values = self.loss(y, self.call(self.model, words, training=False))
        return {"loss": self.average(values, ops.cast(ops.not_equal(words, 0), "float32"))}


class TwoLosses(ByHand):
    """A class and a number for each example."""

    def objective_value(self, y_pred: Any, y: Any, weights: Any = None) -> Any:
        label, number = self.of_heads(y)
        labels = ops.sparse_categorical_crossentropy(label, y_pred["label"], from_logits=True)
        numbers = ops.square(number - y_pred["number"])[:, 0]
        return self.reduce(labels + 0.5 * numbers)

    def of_heads(self, y: Any) -> tuple[Any, Any]:
        return y["label"], y["number"]


class Twins(ByHand):
    """The answer must not change much under noise; layers add losses at each call."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.seed = keras.random.SeedGenerator(SEED)

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        noise = 0.1 * keras.random.normal(ops.shape(x), seed=self.seed)

        def objective() -> Any:
            here, there = self.call(self.model, x), self.call(self.model, x + noise)
            return self.reduce(self.loss(y, here) + ops.square(here - there)[:, 0])

        return {"loss": self.update(objective, self.optimizer, self.model)}


class Smooth(ByHand):
    """Predictions whose slope with respect to the inputs is held small."""

    def objective_value(self, y_pred: Any, y: Any, weights: Any = None) -> Any:
        return self.reduce(self.loss(y, y_pred))

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch

        def objective() -> Any:
            y_pred = self.call(self.model, x)
            slopes = self.gradients(lambda z: ops.sum(self.call(self.model, z)), x)
            penalty = 0.01 * ops.sum(ops.square(slopes), axis=-1)
            return self.reduce(self.loss(y, y_pred) + penalty)

        return {"loss": self.update(objective, self.optimizer, self.model)}


class Autoencoder(Own):
    """An encoder and a decoder of noisy inputs; noise 0 leaves them plain."""

    noise = 0.1

    def __init__(self, parts: Parts) -> None:
        width = parts.data().shape[1]
        self.encoder = keras.Sequential([keras.Input((width,)), *parts.layers(), kl.Dense(8)])
        self.decoder = keras.Sequential(
            [keras.Input((8,)), *parts.layers(), kl.Dense(width, activation="sigmoid")]
        )
        self.optimizer = parts.optimizer()
        self.seed = keras.random.SeedGenerator(SEED)

    def train_step(self, x: Any) -> dict[str, Any]:
        seen = x + self.noise * keras.random.normal(ops.shape(x), seed=self.seed)

        def objective() -> Any:
            drawn = self.call(self.decoder, self.encode(seen))
            return self.reduce(ops.mean(ops.square(x - drawn), axis=-1))

        return {"loss": self.update(objective, self.optimizer, self.encoder, self.decoder)}

    def encode(self, x: Any) -> Any:
        return self.call(self.encoder, x)


class VAE(Autoencoder):
    """The first half of the encoder's values are means, the others log-variances."""

    def train_step(self, x: Any) -> dict[str, Any]:
        def objective() -> Any:
            mean, log_variance = ops.split(self.encode(x), 2, axis=-1)
            draw = keras.random.normal(ops.shape(mean), seed=self.seed)
            code = mean + draw * ops.exp(log_variance / 2)
            drawn = self.call(self.decoder, ops.concatenate([code, code], axis=-1))
            errors = 8.0 * ops.mean(ops.square(x - drawn), axis=-1)
            spread = ops.square(mean) + ops.exp(log_variance) - log_variance - 1.0
            return self.reduce(errors + 0.005 * ops.sum(spread, axis=-1)), errors

        loss, errors = self.update(objective, self.optimizer, self.encoder, self.decoder)
        return {"loss": loss, "errors": errors}


class GAN(Own):
    """A generator against a discriminator of points."""

    def __init__(self, parts: Parts) -> None:
        width = parts.data().shape[1]
        self.generator = keras.Sequential([keras.Input((4,)), *parts.layers(), kl.Dense(width)])
        self.discriminator = keras.Sequential([keras.Input((width,)), *parts.layers(), kl.Dense(1)])
        self.generator_optimizer, self.discriminator_optimizer = (
            keras.optimizers.Adam(5e-3, beta_1=0.5) for _ in range(2)
        )
        self.seed = keras.random.SeedGenerator(SEED)

    def draw(self, x: Any) -> Any:
        noise = keras.random.normal((ops.shape(x)[0], 4), seed=self.seed)
        return self.call(self.generator, noise)

    def gap(self, x: Any, drawn: Any) -> Any:
        return ops.mean(ops.square(ops.mean(drawn, axis=0) - ops.mean(x, axis=0)))

    def for_discriminator(self) -> Any:
        return (self.discriminator,)

    def for_generator(self) -> Any:
        return (self.generator,)

    def train_step(self, x: Any) -> dict[str, Any]:
        drawn = self.draw(x)

        def judge() -> Any:
            real = self.call(self.discriminator, x)[:, 0]
            fake = self.call(self.discriminator, ops.stop_gradient(drawn))[:, 0]
            return self.reduce(ops.softplus(-real) + ops.softplus(fake))

        def deceive() -> Any:
            return self.reduce(ops.softplus(-self.call(self.discriminator, self.draw(x))[:, 0]))

        judged = self.update(judge, self.discriminator_optimizer, *self.for_discriminator())
        deceived = self.update(deceive, self.generator_optimizer, *self.for_generator())
        return {"judged": judged, "deceived": deceived, "gap": self.gap(x, drawn)}


class WGAN(GAN):
    """A critic with a penalty on its slope, three steps for each of the generator."""

    train_step = pg.alternate(critic_step=3, generator_step=1)

    def critic_step(self, x: Any) -> dict[str, Any]:
        drawn = ops.stop_gradient(self.draw(x))

        def objective() -> Any:
            gain = self.call(self.discriminator, x) - self.call(self.discriminator, drawn)
            slope = self.gradients(
                lambda z: ops.sum(self.call(self.discriminator, z)), (x + drawn) / 2
            )
            norm = ops.sqrt(ops.sum(ops.square(slope), axis=-1) + 1e-9)
            return self.reduce(10.0 * ops.square(norm - 1.0) - gain[:, 0])

        loss = self.update(objective, self.discriminator_optimizer, *self.for_discriminator())
        return {"critic_loss": loss}

    def generator_step(self, x: Any) -> dict[str, Any]:
        def objective() -> Any:
            drawn = self.draw(x)
            return self.reduce(-self.call(self.discriminator, drawn)[:, 0]), drawn

        loss, drawn = self.update(objective, self.generator_optimizer, *self.for_generator())
        return {"generator_loss": loss, "gap": self.gap(x, drawn)}


class Distill(ByHand):
    """A small model learns what a fixed one says."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        self.teacher = parts.model(parts)
        self.teacher.trainable = False

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        soft = ops.softmax(self.call(self.teacher, x, training=False))

        def objective() -> Any:
            y_pred = self.call(self.model, x)
            told = ops.categorical_crossentropy(soft, y_pred, from_logits=True)
            return self.reduce(0.3 * self.loss(y, y_pred) + 0.7 * told), y_pred

        loss, y_pred = self.update(objective, self.optimizer, *self.students())
        self.measure(y, y_pred)
        return {"loss": loss}

    def students(self) -> Any:
        return (self.model,)


class Contrastive(Own):
    """Two noisy views of an example are to be alike, and unlike all others of the batch."""

    def __init__(self, parts: Parts) -> None:
        self.model = parts.model(parts)
        self.optimizer = parts.optimizer()
        self.seed = keras.random.SeedGenerator(SEED)

    def view(self, x: Any) -> Any:
        noisy = x + 0.1 * keras.random.normal(ops.shape(x), seed=self.seed)
        return ops.normalize(self.call(self.model, noisy), axis=-1)

    def train_step(self, x: Any) -> dict[str, Any]:
        def objective() -> Any:
            likeness = self.view(x) @ ops.transpose(self.view(x)) / 0.2
            partners = ops.arange(ops.shape(x)[0])
            return self.reduce(
                ops.sparse_categorical_crossentropy(partners, likeness, from_logits=True)
            )

        return {"loss": self.update(objective, self.optimizer, self.model)}


class SimSiam(Contrastive):
    """Each view predicts the other, which is held fixed."""

    def __init__(self, parts: Parts) -> None:
        super().__init__(parts)
        width = self.model.output_shape[-1]
        self.head = keras.Sequential([keras.Input((width,)), kl.Dense(width)])

    def train_step(self, x: Any) -> dict[str, Any]:
        def objective() -> Any:
            one, two = self.view(x), self.view(x)
            guess = ops.normalize(self.call(self.head, one), axis=-1)
            return self.reduce(1.0 - ops.sum(guess * ops.stop_gradient(two), axis=-1))

        return {"loss": self.update(objective, self.optimizer, self.model, self.head)}


class Triplets(Contrastive):
    """Closer to an example of the same class than to one of another: (anchor, same, other)."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        def objective() -> Any:
            anchor, same, other = (self.call(self.model, x) for x in batch)
            near = ops.sum(ops.square(anchor - same), axis=-1)
            far = ops.sum(ops.square(anchor - other), axis=-1)
            return self.reduce(ops.relu(near - far + 1.0))

        return {"loss": self.update(objective, self.optimizer, self.model)}


def supervised(parts: Parts) -> pg.Step:
    """Train the parts with the ready-made Step."""
    model = parts.model(parts)
    optimizer = parts.optimizer()
    if callable(optimizer):  # several, for parts of the model
        optimizer = optimizer(model)
    return pg.Supervised(model, optimizer, parts.loss(), parts.metrics(), **parts.options)


def compiled(parts: Parts) -> pg.Step:
    """Train the parts as a compiled Keras model."""
    model = parts.model(parts)
    model.compile(parts.optimizer(), parts.loss(), metrics=parts.metrics())
    return pg.KerasStep(model)


def scaled(x: Any) -> np.ndarray:
    return ((x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)).astype("float32")


def rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


def mixed_up(*arrays: Any) -> tuple[Any, ...]:
    order = rng().permutation(len(arrays[0]))
    return tuple(array[order] for array in arrays)


@cache
def _digits() -> tuple[np.ndarray, np.ndarray]:
    x, y = datasets.load_digits(return_X_y=True)
    return (x / 16).astype("float32"), y.astype("int32")


def digits() -> Any:
    return tuple(array[:320].copy() for array in _digits())


def other_digits() -> Any:
    return tuple(array[400:500].copy() for array in _digits())


def images() -> Any:
    x, y = digits()
    return x.reshape(-1, 8, 8, 1), y


def pixels() -> Any:
    return digits()[0]


def flowers() -> Any:
    x, y = datasets.load_iris(return_X_y=True)
    return mixed_up(scaled(x), y.astype("int32"))


def one_hot_flowers() -> Any:
    x, y = flowers()
    return x, np.eye(3, dtype="float32")[y]


def wines() -> Any:
    x, y = datasets.load_wine(return_X_y=True)
    return mixed_up(scaled(x), y.astype("int32"))


def one_hot_wines() -> Any:
    x, y = wines()
    return x, np.eye(3, dtype="float32")[y]


def tumors() -> Any:
    x, y = datasets.load_breast_cancer(return_X_y=True)
    return scaled(x)[:320], y[:320, None].astype("float32")


def patients() -> Any:
    x, y = datasets.load_diabetes(return_X_y=True)
    return scaled(x)[:320], scaled(y[:, None])[:320]


def weighted_patients() -> Any:
    x, y = patients()
    return x, y, rng().uniform(0.5, 2.0, size=len(x)).astype("float32")


def three_numbers() -> Any:
    x = rng().normal(size=(256, 6)).astype("float32")
    return x, (np.tanh(x[:, :3]) + 0.3 * x[:, 3:]).astype("float32")


def tags() -> Any:
    x = rng().normal(size=(256, 8)).astype("float32")
    return x, (x @ rng().normal(size=(8, 4)) > 0).astype("float32")


def counts() -> Any:
    x = rng().normal(size=(256, 4)).astype("float32")
    return x, rng().poisson(np.exp(0.5 * x[:, :1] + 0.5)).astype("float32")


def label_and_number() -> Any:
    x, y = wines()
    return x, {"label": y, "number": x[:, :1] - x[:, 1:2]}


def two_numbers() -> Any:
    x = rng().normal(size=(256, 5)).astype("float32")
    return x, {"low": x[:, :1] - 1.0, "high": 2.0 * x[:, 1:2] + 1.0}


def sentences() -> Any:
    random = rng()
    words = random.integers(1, 12, size=(256, 7))
    words[np.arange(7) >= random.integers(3, 8, size=(256, 1))] = 0
    return words.astype("int32"), (words % 3).astype("int32")


def bags() -> Any:
    words, _ = sentences()
    return words, (words == 5).any(axis=1, keepdims=True).astype("float32")


def waves() -> Any:
    random = rng()
    y = random.integers(3, size=256)
    phase = random.uniform(0, 6, size=(256, 1))
    x = np.sin(np.arange(16) * (0.4 + 0.5 * y[:, None]) + phase)
    return x[..., None].astype("float32"), y.astype("int32")


def ratings() -> Any:
    random = rng()
    pairs = random.integers(12, size=(400, 2))
    tastes = random.normal(size=(12, 2))
    return pairs.astype("int32"), (tastes[pairs[:, 0]] * tastes[pairs[:, 1]]).sum(
        axis=1, keepdims=True
    ).astype("float32")


def ring() -> Any:
    angle = rng().uniform(0, 2 * np.pi, size=256)
    points = np.stack([np.cos(angle) + 2.0, np.sin(angle) - 1.0], axis=1)
    return points.astype("float32")


def triplets() -> Any:
    x, y = flowers()
    random = rng()
    same = np.array([random.choice(np.flatnonzero(y == label)) for label in y])
    other = np.array([random.choice(np.flatnonzero(y != label)) for label in y])
    return x, x[same], x[other]


def dense(*units: int, hidden: str = "relu", head: str | None = None) -> Callable[[], list[Any]]:
    """Return what makes hidden layers and a last one."""
    return lambda: [
        *(kl.Dense(n, activation=hidden) for n in units[:-1]),
        kl.Dense(units[-1], activation=head),
    ]


def regularized(*units: int) -> Callable[[], list[Any]]:
    def make() -> list[Any]:
        hidden = [
            kl.Dense(n, activation="relu", kernel_regularizer=keras.regularizers.L2(1e-3))
            for n in units[:-1]
        ]
        return [*hidden, kl.Dense(units[-1])]

    return make


def normalized(*units: int, rate: float = 0.2) -> Callable[[], list[Any]]:
    def make() -> list[Any]:
        made: list[Any] = []
        for n in units[:-1]:
            made += [kl.Dense(n, use_bias=False), kl.BatchNormalization(momentum=0.9), kl.ReLU()]
        return [*made, kl.Dropout(rate), kl.Dense(units[-1])]

    return make


def half(precision: str) -> Callable[[], list[Any]]:
    return lambda: [
        kl.Dense(32, activation="relu", dtype=precision),
        kl.Dense(10, dtype=precision),
        kl.Activation("linear", dtype="float32"),
    ]


def convolutional() -> list[Any]:
    return [
        kl.Conv2D(8, 3, padding="same", activation="relu"),
        kl.MaxPooling2D(),
        kl.Flatten(),
        kl.Dropout(0.2),
        kl.Dense(10, kernel_regularizer=keras.regularizers.L2(1e-4)),
    ]


def frozen(parts: Parts) -> keras.Model:
    """Make the layers; the first one stays as it is."""
    model = sequential(parts)
    model.layers[0].trainable = False
    return model


def heads(*names_and_units: tuple[str, int]) -> Callable[[Parts], keras.Model]:
    """Return what makes a model with several outputs behind the layers."""

    def make(parts: Parts) -> keras.Model:
        inputs = hidden = keras.Input(parts.data()[0].shape[1:])
        for layer in parts.layers():
            hidden = layer(hidden)
        return keras.Model(inputs, {n: kl.Dense(k, name=n)(hidden) for n, k in names_and_units})

    return make


def attentive(parts: Parts) -> keras.Model:
    inputs = keras.Input((16, 1))
    hidden = kl.Dense(16)(inputs)
    hidden = kl.LayerNormalization()(hidden + kl.MultiHeadAttention(2, 8)(hidden, hidden))
    return keras.Model(inputs, kl.Dense(3)(kl.Flatten()(hidden)))


def residual(parts: Parts) -> keras.Model:
    inputs = keras.Input(parts.data()[0].shape[1:])
    hidden = kl.Dense(16)(inputs)
    for _ in range(2):
        inner = kl.Dense(16, activation="relu")(kl.LayerNormalization()(hidden))
        hidden = hidden + kl.Dense(16)(inner)
    return keras.Model(inputs, kl.Dense(1)(hidden))


def factors(parts: Parts) -> keras.Model:
    inputs = keras.Input((2,), dtype="int32")
    one = kl.Embedding(12, 4, embeddings_initializer="random_normal")(inputs[:, 0])
    two = kl.Embedding(12, 4, embeddings_initializer="random_normal")(inputs[:, 1])
    return keras.Model(inputs, kl.Dot(axes=1)([one, two]))


def sparse_values() -> Any:
    return lambda y, y_pred: ops.sparse_categorical_crossentropy(y, y_pred, from_logits=True)


def squares() -> Any:
    return lambda y, y_pred: ops.mean(ops.square(y - y_pred), axis=-1)


def quantile() -> Any:
    def pinball(y: Any, y_pred: Any) -> Any:
        error = y - y_pred
        return ops.mean(ops.maximum(0.8 * error, -0.2 * error), axis=-1)

    return pinball


def likelihood() -> Any:
    """Of a normal distribution: a mean and a log-deviation; may be negative."""

    def negative_log_likelihood(y: Any, y_pred: Any) -> Any:
        error = (y[:, 0] - y_pred[:, 0]) * ops.exp(-y_pred[:, 1])
        return ops.square(error) / 2 + y_pred[:, 1]

    return negative_log_likelihood


def sparse_logits() -> Any:
    return losses.SparseCategoricalCrossentropy(from_logits=True)


def sparse_accuracy() -> Any:
    return [metrics.SparseCategoricalAccuracy(name="accuracy")]


def logit_accuracy() -> Any:
    return [metrics.BinaryAccuracy(threshold=0.0, name="accuracy")]


def schedule() -> Any:
    rate = keras.optimizers.schedules.CosineDecay(0.1, 200)
    return keras.optimizers.SGD(rate, momentum=0.9)


def two_rates() -> Any:
    return lambda model: [
        (keras.optimizers.SGD(1e-2, momentum=0.9), model.layers[0]),
        (keras.optimizers.Adam(1e-2), model.layers[1:]),
    ]


PROGRAMS: dict[str, Program] = {}

_WAYS = {supervised: "supervised", compiled: "keras"}


def _add(
    name: str, traits: str, step: Any, data: Any, layers: Any = None, *, falls="loss", **others: Any
) -> None:
    assert name not in PROGRAMS
    way = _WAYS.get(step, "own")
    parts = Parts(step, data, layers, **others)
    PROGRAMS[name] = Program(name, parts, frozenset([way, *traits.split()]), falls)


def adam(rate: float = 1e-2, **arguments: Any) -> Any:
    return lambda: keras.optimizers.Adam(rate, **arguments)


_sparse = {"loss": sparse_logits, "metrics": sparse_accuracy}
_by_hand = {"loss": sparse_values, "metrics": sparse_accuracy}

# One class of several, as an id.
_t = "sparse logits vector chain relu "
_add("digits", _t + "deep", supervised, digits, dense(32, 32, 10), **_sparse)
_add(
    "digits with validation",
    _t,
    supervised,
    digits,
    dense(32, 10),
    **_sparse,
    validation=other_digits,
)
_add("digits by hand", _t, ByHand, digits, dense(32, 10), **_by_hand)
_add("digits compiled", _t, compiled, digits, dense(32, 10), **_sparse)
_add("digits clipped", _t + "deep halves", Halves, digits, dense(32, 32, 10), **_by_hand)
_add("digits skipping", _t + "skipping", Skipping, digits, dense(32, 10), **_by_hand)
_add("digits averaged", _t + "ema", Averaged, digits, dense(32, 10), **_by_hand)
_add("digits distilled", _t + "teacher", Distill, digits, dense(16, 10), **_by_hand)
_add("digits normalized", _t + "dropout norm", supervised, digits, normalized(32, 10), **_sparse)
_add(
    "digits normalized by hand", _t + "dropout norm", ByHand, digits, normalized(32, 10), **_by_hand
)
_add(
    "digits normalized compiled",
    _t + "dropout norm",
    compiled,
    digits,
    normalized(32, 10),
    **_sparse,
)
_add("digits regularized", _t + "penalty", supervised, digits, regularized(32, 10), **_sparse)
_add("digits regularized by hand", _t + "penalty", ByHand, digits, regularized(32, 10), **_by_hand)
_add("digits frozen", _t + "frozen", supervised, digits, dense(64, 32, 10), model=frozen, **_sparse)
_add(
    "digits frozen compiled",
    _t + "frozen",
    compiled,
    digits,
    dense(64, 32, 10),
    model=frozen,
    **_sparse,
)
_add(
    "digits two optimizers",
    _t + "groups",
    supervised,
    digits,
    dense(32, 10),
    optimizer=two_rates,
    **_sparse,
)
_add("digits scheduled", _t, compiled, digits, dense(32, 10), optimizer=schedule, **_sparse)
_add("digits float16", _t + "half", supervised, digits, half("mixed_float16"), **_sparse)
_add("digits float16 by hand", _t + "half", ByHand, digits, half("mixed_float16"), **_by_hand)
_add("digits bfloat16 compiled", _t + "half", compiled, digits, half("mixed_bfloat16"), **_sparse)

_t = "sparse probabilities vector chain relu "
_soft = {"loss": losses.SparseCategoricalCrossentropy, "metrics": sparse_accuracy}
_add("digits softmax", _t, compiled, digits, dense(32, 10, head="softmax"), **_soft)
_add("flowers softmax", _t, compiled, flowers, dense(16, 3, head="softmax"), **_soft)
_add("wines softmax", _t, supervised, wines, dense(16, 3, head="softmax"), **_soft)

_t = "sparse logits image chain relu dropout penalty "
_add("images", _t, supervised, images, convolutional, **_sparse)
_add("images by hand", _t, ByHand, images, convolutional, **_by_hand)
_add("images compiled", _t, compiled, images, convolutional, **_sparse)

_add(
    "digits own loss compiled",
    "sparse logits vector chain relu",
    compiled,
    digits,
    dense(32, 10),
    **_by_hand,
)
# One class of several, as a row with a single one.
_hot = {
    "loss": lambda: losses.CategoricalCrossentropy(from_logits=True),
    "metrics": lambda: [metrics.CategoricalAccuracy(name="accuracy")],
}
_smoothed = {
    **_hot,
    "loss": lambda: losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
}
_hot_soft = {**_hot, "loss": losses.CategoricalCrossentropy}
_t = "one-hot vector chain "
_add("wines one-hot", _t + "logits relu", supervised, one_hot_wines, dense(16, 3), **_hot)
_add("wines smoothed", _t + "logits relu", ByHand, one_hot_wines, dense(16, 3), **_smoothed)
_add(
    "flowers one-hot softmax",
    _t + "probabilities tanh",
    compiled,
    one_hot_flowers,
    dense(16, 3, hidden="tanh", head="softmax"),
    **_hot_soft,
)

# Two classes, or any number of tags.
_logit = {
    "loss": lambda: losses.BinaryCrossentropy(from_logits=True),
    "metrics": logit_accuracy,
}
_sigmoid = {
    "loss": losses.BinaryCrossentropy,
    "metrics": lambda: [metrics.BinaryAccuracy(name="accuracy"), metrics.AUC(name="auc")],
}
_focal = {**_logit, "loss": lambda: losses.BinaryFocalCrossentropy(from_logits=True)}
_t = "binary vector chain relu "
_add("tumors", _t + "logits", supervised, tumors, dense(16, 1), **_logit)
_add("tumors by hand", _t + "logits dropout norm", ByHand, tumors, normalized(16, 1), **_logit)
_add("tumors focal", _t + "logits", ByHand, tumors, dense(16, 1), **_focal)
_add(
    "tumors sigmoid",
    _t + "probabilities",
    compiled,
    tumors,
    dense(16, 1, head="sigmoid"),
    **_sigmoid,
)
_add(
    "tumors class weights",
    _t + "probabilities",
    supervised,
    tumors,
    dense(16, 1, head="sigmoid"),
    **_sigmoid,
    options={"class_weight": {0: 2.0, 1: 1.0}},
)
_t = "multi-label vector chain relu "
_add("tags", _t + "logits", supervised, tags, dense(32, 4), **_logit)
_add("tags sigmoid", _t + "probabilities", compiled, tags, dense(32, 4, head="sigmoid"), **_sigmoid)

# Numbers.
_squares = {"loss": squares, "metrics": lambda: [metrics.MeanAbsoluteError(name="mae")]}
_mse = {**_squares, "loss": losses.MeanSquaredError}
_t = "regression vector chain relu "
_add("patients", _t + "mse", supervised, patients, dense(16, 1), **_mse)
_add("patients by hand", _t + "mse", ByHand, patients, dense(16, 1), **_squares)
_add("patients clipped", _t + "mse deep halves", Halves, patients, dense(16, 16, 16, 1), **_squares)
_add("patients regularized", _t + "mse penalty", ByHand, patients, regularized(16, 1), **_squares)
_add(
    "patients compiled",
    _t + "penalty",
    compiled,
    patients,
    regularized(16, 1),
    loss=losses.Huber,
    metrics=_squares["metrics"],
    optimizer=lambda: keras.optimizers.AdamW(1e-2),
)
_add(
    "patients smooth",
    "regression vector chain tanh mse",
    Smooth,
    patients,
    dense(16, 1, hidden="tanh"),
    loss=squares,
)
_add(
    "patients twice",
    _t + "mse penalty calls-twice",
    Twins,
    patients,
    regularized(16, 1),
    loss=squares,
)
_add(
    "patients weighted",
    _t + "mse weighted",
    supervised,
    weighted_patients,
    dense(16, 1),
    loss=losses.MeanSquaredError,
)
_add(
    "patients weighted by hand",
    _t + "mse weighted",
    ByHand,
    weighted_patients,
    dense(16, 1),
    **_squares,
)
_add("patients quantile", _t, supervised, patients, dense(16, 1), loss=quantile)
_add(
    "patients deviations",
    "own-form vector chain tanh",
    ByHand,
    patients,
    dense(16, 2, hidden="tanh"),
    loss=likelihood,
    optimizer=adam(3e-3),
)
_add("patients residual", "regression mse", compiled, patients, model=residual, **_mse)
_add("three numbers", _t + "mse several", supervised, three_numbers, dense(32, 3), **_mse)
_add("three numbers by hand", _t + "mse several", ByHand, three_numbers, dense(32, 3), **_squares)
_add("three numbers compiled", _t + "mse several", compiled, three_numbers, dense(32, 3), **_mse)
_add(
    "counts",
    "counts vector chain tanh",
    compiled,
    counts,
    dense(16, 1, hidden="tanh", head="exponential"),
    loss=losses.Poisson,
)

# Several outputs.
_label_number = {"model": heads(("label", 3), ("number", 1))}
_add(
    "two outputs",
    "outputs relu",
    supervised,
    label_and_number,
    lambda: [kl.Dense(16, activation="relu")],
    **_label_number,
    loss=lambda: {"label": sparse_logits(), "number": losses.MeanSquaredError()},
    metrics=lambda: {"label": sparse_accuracy()},
    options={"loss_weights": {"label": 1.0, "number": 0.5}},
)
_add(
    "two outputs by hand",
    "outputs relu",
    TwoLosses,
    label_and_number,
    lambda: [kl.Dense(16, activation="relu")],
    **_label_number,
)
for _name, _step in (("two numbers", supervised), ("two numbers compiled", compiled)):
    _add(
        _name,
        "outputs like-outputs tanh",
        _step,
        two_numbers,
        lambda: [kl.Dense(16, activation="tanh")],
        model=heads(("low", 1), ("high", 1)),
        loss=lambda: {"low": losses.MeanSquaredError(), "high": losses.MeanSquaredError()},
        metrics=dict,
    )

# Sequences.
_t = "sparse logits sequence chain "
_add("waves recurrent", _t, supervised, waves, lambda: [kl.GRU(12), kl.Dense(3)], **_sparse)
_add("waves compiled", _t, compiled, waves, lambda: [kl.LSTM(12), kl.Dense(3)], **_sparse)
_add(
    "waves convolutional",
    _t + "relu",
    ByHand,
    waves,
    lambda: [kl.Conv1D(12, 5, activation="relu"), kl.GlobalAveragePooling1D(), kl.Dense(3)],
    **_by_hand,
)
_add("waves attentive", "sparse logits sequence", supervised, waves, model=attentive, **_sparse)
_add(
    "words masked",
    "words masked chain",
    Masked,
    sentences,
    lambda: [kl.Embedding(12, 8, mask_zero=True), kl.GRU(12, return_sequences=True), kl.Dense(3)],
    loss=sparse_values,
)
_add(
    "words masked gated",
    "words masked chain",
    Masked,
    sentences,
    lambda: [kl.Embedding(12, 8), kl.LSTM(8, return_sequences=True), kl.Dense(3)],
    loss=sparse_values,
)
_add(
    "words masked convolutional",
    "words masked chain",
    Masked,
    sentences,
    lambda: [kl.Embedding(12, 8), kl.Conv1D(8, 5, padding="same"), kl.Dense(3)],
    loss=sparse_values,
)
_add(
    "words softmax",
    "words probabilities time-classes chain",
    compiled,
    sentences,
    lambda: [
        kl.Embedding(12, 8),
        kl.Conv1D(12, 3, padding="same"),
        kl.Dense(3, activation="softmax"),
    ],
    **_soft,
)
_add(
    "bags of words",
    "words binary logits chain",
    supervised,
    bags,
    lambda: [kl.Embedding(12, 8), kl.GlobalMaxPooling1D(), kl.Dense(1)],
    **_logit,
)
_add("ratings", "words regression mse factors", ByHand, ratings, model=factors, **_squares)

# Without labels.
_t = "unlabeled vector relu "
_narrow = lambda: [kl.Dense(32, activation="relu")]  # noqa: E731
_add("autoencoder", _t + "encoder", Autoencoder, pixels, _narrow)
_add("variational autoencoder", _t + "encoder", VAE, pixels, _narrow)
_add(
    "autoencoder compiled",
    "reconstruction vector chain relu",
    compiled,
    lambda: (pixels(), pixels()),
    dense(32, 8, 32, 64, head="sigmoid"),
    loss=losses.MeanSquaredError,
)
_add("gan", _t + "gan", GAN, ring, _narrow, falls="gap", fit={"epochs": 20})
_add("wasserstein gan", _t + "gan", WGAN, ring, _narrow, falls="gap", fit={"epochs": 20})
_add("contrastive", _t + "chain in-batch", Contrastive, pixels, dense(32, 8))
_add("simsiam", _t + "chain", SimSiam, pixels, normalized(32, 16, rate=0.0))
_add("triplets", _t + "chain", Triplets, triplets, dense(16, 4))
