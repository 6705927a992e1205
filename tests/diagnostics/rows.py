"""Programs in which the rows of a batch meet each other, and programs in which they do not.

Each is written as the guides of Keras or the repositories of papers write it, with small models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

ROWS = 16


@dataclass(frozen=True)
class Program:
    """A Step and one batch of its data."""

    step: pg.Step
    batch: Any


Made = Callable[[], Program]
MEETING: dict[str, Made] = {}
APART: dict[str, Made] = {}


def meeting(made: Made) -> Made:
    """Register a program in which an example's loss, or what is logged, depends on other rows."""
    MEETING[made.__name__] = made
    return made


def apart(made: Made) -> Made:
    """Register a program in which no row depends on another."""
    APART[made.__name__] = made
    return made


# What the programs are made of.


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def classes(count: int = 4, rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(1).integers(0, count, rows).astype("int32")


def images(rows: int = ROWS) -> np.ndarray:
    return np.random.default_rng(2).uniform(size=(rows, 8, 8, 3)).astype("float32")


def tokens(length: int = 6, rows: int = ROWS) -> np.ndarray:
    ids = np.random.default_rng(3).integers(1, 20, (rows, length)).astype("int32")
    for row, used in enumerate(np.random.default_rng(4).integers(2, length + 1, rows)):
        ids[row, used:] = 0
    return ids


def mlp(*sizes: int, width: int = 8, last: Any = None) -> keras.Sequential:
    hidden = [kl.Dense(n, activation="relu") for n in sizes[:-1]]
    return keras.Sequential([kl.Input((width,)), *hidden, kl.Dense(sizes[-1], activation=last)])


def l2(x: Any) -> Any:
    return x / ops.sqrt(ops.maximum(ops.sum(x * x, axis=-1, keepdims=True), 1e-12))


class Trained(pg.Step):
    """A model and an objective of the Step and its batch; what it needs besides is `parts`."""

    def __init__(self, model: Any, objective: Callable[..., Any], **parts: Any) -> None:
        self.model = model
        self.optimizer = keras.optimizers.Adam(1e-3)
        self.objective = objective
        self.parts = parts

    def train_step(self, batch: Any) -> dict[str, Any]:
        rows = batch if isinstance(batch, tuple) else (batch,)
        loss = self.minimize(lambda: self.objective(self, *rows), self.optimizer)
        return {"loss": loss}


# Rows that meet in the loss.


@meeting
def sim_clr() -> Program:
    """NT-Xent over two augmented views, as in the guide of Keras."""
    encoder = mlp(12, 6)
    noise = kl.GaussianNoise(0.3, seed=5)

    def objective(step, x):
        one = l2(step.model(step.parts["noise"](x, training=True)))
        two = l2(step.model(step.parts["noise"](x, training=True)))
        similar = ops.matmul(one, ops.transpose(two)) / 0.1
        labels = ops.arange(ops.shape(x)[0])
        loss = keras.losses.sparse_categorical_crossentropy
        return (
            loss(labels, similar, from_logits=True)
            + loss(labels, ops.transpose(similar), from_logits=True)
        ) / 2

    return Program(Trained(encoder, objective, noise=noise), draw(ROWS, 8))


@meeting
def supervised_contrastive() -> Program:
    def objective(step, x, y):
        z = l2(step.model(x))
        logits = ops.matmul(z, ops.transpose(z)) / 0.5
        n = ops.shape(x)[0]
        same = ops.cast(ops.equal(y[:, None], y[None, :]), "float32")
        others = 1.0 - ops.eye(n)
        logits = logits - ops.stop_gradient(ops.max(logits, axis=1, keepdims=True))
        log_prob = logits - ops.log(ops.sum(ops.exp(logits) * others, axis=1, keepdims=True))
        positives = same * others
        each = ops.sum(positives * log_prob, axis=1) / ops.maximum(ops.sum(positives, axis=1), 1.0)
        return -ops.mean(each)

    return Program(Trained(mlp(12, 6), objective), (draw(ROWS, 8), classes()))


class TwoTowers(pg.Step):
    def __init__(self) -> None:
        self.image, self.text = mlp(6), mlp(6, width=5)
        self.scale = keras.Variable(1.0, name="scale")
        self.optimizer = keras.optimizers.Adam(1e-3)

    def train_step(self, batch):
        image, text = batch

        def objective():
            a, b = l2(self.image(image)), l2(self.text(text))
            logits = ops.matmul(a, ops.transpose(b)) * ops.exp(ops.convert_to_tensor(self.scale))
            target = ops.arange(ops.shape(a)[0])
            rows = keras.losses.sparse_categorical_crossentropy(target, logits, from_logits=True)
            columns = keras.losses.sparse_categorical_crossentropy(
                target, ops.transpose(logits), from_logits=True
            )
            return (ops.mean(rows) + ops.mean(columns)) / 2

        return {
            "loss": self.minimize(objective, self.optimizer, [self.image, self.text, self.scale])
        }


@meeting
def clip() -> Program:
    return Program(TwoTowers(), (draw(ROWS, 8), draw(ROWS, 5, seed=9)))


@meeting
def barlow_twins() -> Program:
    def objective(step, one, two):
        a, b = step.model(one), step.model(two)
        a = (a - ops.mean(a, axis=0)) / (ops.std(a, axis=0) + 1e-5)
        b = (b - ops.mean(b, axis=0)) / (ops.std(b, axis=0) + 1e-5)
        c = ops.matmul(ops.transpose(a), b) / ops.cast(ops.shape(a)[0], "float32")
        on = ops.sum(ops.square(ops.diagonal(c) - 1.0))
        off = ops.sum(ops.square(c)) - ops.sum(ops.square(ops.diagonal(c)))
        return on + 5e-3 * off

    x = draw(ROWS, 8)
    return Program(Trained(mlp(12, 6), objective), (x, x + 0.1 * draw(ROWS, 8, seed=8)))


@meeting
def vic_reg() -> Program:
    def objective(step, one, two):
        a, b = step.model(one), step.model(two)
        invariance = ops.mean(ops.square(a - b))
        std = ops.sqrt(ops.var(a, axis=0) + 1e-4)
        centered = a - ops.mean(a, axis=0)
        n = ops.cast(ops.shape(a)[0], "float32")
        cov = ops.matmul(ops.transpose(centered), centered) / (n - 1)
        off = ops.sum(ops.square(cov)) - ops.sum(ops.square(ops.diagonal(cov)))
        return 25 * invariance + 25 * ops.mean(ops.relu(1 - std)) + off / 6

    x = draw(ROWS, 8)
    return Program(Trained(mlp(12, 6), objective), (x, x + 0.1 * draw(ROWS, 8, seed=8)))


def distances(z):
    square = ops.sum(z * z, axis=1)
    inner = ops.matmul(z, ops.transpose(z))
    return ops.maximum(square[:, None] - 2 * inner + square[None, :], 0.0)


@meeting
def batch_hard_triplets() -> Program:
    def objective(step, x, y):
        d = distances(l2(step.model(x)))
        same = ops.cast(ops.equal(y[:, None], y[None, :]), "float32")
        furthest = ops.max(d * same, axis=1)
        nearest = ops.min(d + 10.0 * same, axis=1)
        return ops.mean(ops.relu(furthest - nearest + 0.2))

    return Program(Trained(mlp(12, 6), objective), (draw(ROWS, 8), classes()))


@meeting
def semi_hard_triplets() -> Program:
    def objective(step, x, y):
        d = distances(l2(step.model(x)))
        same = ops.equal(y[:, None], y[None, :])
        gap = d[:, None, :] - d[:, :, None]  # anchor, positive, negative
        n = ops.shape(x)[0]
        pairs = ops.logical_and(same, ops.logical_not(ops.cast(ops.eye(n), "bool")))
        valid = ops.logical_and(pairs[:, :, None], ops.logical_not(same)[:, None, :])
        valid = ops.cast(ops.logical_and(valid, gap > 0), "float32")
        return ops.sum(ops.relu(0.5 - gap) * valid) / ops.maximum(ops.sum(valid), 1.0)

    return Program(Trained(mlp(12, 6), objective), (draw(ROWS, 8), classes()))


@meeting
def pairwise_ranking() -> Program:
    """RankNet within a batch."""

    def objective(step, x, y):
        s = step.model(x)[:, 0]
        better = ops.cast(y[:, None] > y[None, :], "float32")
        return ops.sum(better * ops.softplus(s[None, :] - s[:, None])) / ops.maximum(
            ops.sum(better), 1.0
        )

    return Program(Trained(mlp(12, 1), objective), (draw(ROWS, 8), draw(ROWS, seed=3)))


@meeting
def softmax_over_the_batch() -> Program:
    """Attention pooling of instances, or a softmax over the wrong axis."""

    def objective(step, x, y):
        p = ops.softmax(step.model(x), axis=0)
        # Not by Keras's loss, which on TensorFlow goes back to what the softmax was given.
        return -ops.mean(ops.sum(ops.one_hot(y, 4) * ops.log(p), axis=1))

    return Program(Trained(mlp(12, 4), objective), (draw(ROWS, 8), classes()))


class Centered(kl.Layer):
    def call(self, x):
        x = x - ops.mean(x, axis=0, keepdims=True)
        return x / (ops.std(x, axis=0, keepdims=True) + 1e-3)


@meeting
def own_normalization_over_axis_0() -> Program:
    model = keras.Sequential([kl.Input((8,)), kl.Dense(6), Centered(), kl.Dense(1)])

    def objective(step, x, y):
        return ops.mean(ops.square(step.model(x)[:, 0] - y))

    return Program(Trained(model, objective), (draw(ROWS, 8), draw(ROWS, seed=3)))


class MinibatchDiscrimination(kl.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 6), name="kernel")

    def call(self, x):
        m = ops.matmul(x, self.kernel)
        d = ops.sum(ops.abs(m[:, None, :] - m[None, :, :]), axis=2)
        return ops.concatenate([x, ops.sum(ops.exp(-d), axis=1, keepdims=True)], axis=1)


@meeting
def minibatch_discrimination() -> Program:
    model = keras.Sequential([kl.Input((8,)), kl.Dense(6), MinibatchDiscrimination(), kl.Dense(1)])

    def objective(step, x, y):
        y = ops.cast(y, "float32")[:, None]
        return keras.losses.binary_crossentropy(y, step.model(x), from_logits=True)

    return Program(Trained(model, objective), (draw(ROWS, 8), classes(2)))


class StandardDeviation(kl.Layer):
    """Of StyleGAN's critic: one more channel."""

    def call(self, x):
        deviation = ops.mean(ops.sqrt(ops.var(x, axis=0) + 1e-8))
        return ops.concatenate([x, ops.zeros_like(x[..., :1]) + deviation], axis=-1)


@meeting
def minibatch_standard_deviation() -> Program:
    model = keras.Sequential(
        [kl.Input((8, 8, 3)), kl.Conv2D(4, 3), StandardDeviation(), kl.Flatten(), kl.Dense(1)]
    )

    def objective(step, x, y):
        return ops.mean(ops.softplus(step.model(x)[:, 0] * ops.cast(1 - 2 * y, "float32")))

    return Program(Trained(model, objective), (images(), classes(2)))


@meeting
def correlation_loss() -> Program:
    """Pearson's correlation of predictions and labels as the loss."""

    def objective(step, x, y):
        p = step.model(x)[:, 0]
        p, t = p - ops.mean(p), y - ops.mean(y)
        return 1 - ops.sum(p * t) / (ops.sqrt(ops.sum(p * p) * ops.sum(t * t)) + 1e-8)

    return Program(Trained(mlp(12, 1), objective), (draw(ROWS, 8), draw(ROWS, seed=3)))


@meeting
def dice_over_the_batch() -> Program:
    def objective(step, x, y):
        p = step.model(x)
        both = ops.sum(p * y)
        return 1 - (2 * both + 1) / (ops.sum(p) + ops.sum(y) + 1)

    y = (draw(ROWS, 4, seed=3) > 0).astype("float32")
    return Program(Trained(mlp(12, 4, last="sigmoid"), objective), (draw(ROWS, 8), y))


@meeting
def masked_mean_as_a_scalar() -> Program:
    """The divisor is the number of known labels of the batch."""

    def objective(step, x, y, known):
        return ops.sum(ops.square(step.model(x) - y) * known) / ops.sum(known)

    known = (draw(ROWS, 4, seed=6) > 0).astype("float32")
    data = draw(ROWS, 8), draw(ROWS, 4, seed=3), known
    return Program(Trained(mlp(12, 4), objective), data)


@meeting
def batch_normalization() -> Program:
    model = keras.Sequential(
        [kl.Input((8, 8, 3)), kl.Conv2D(4, 3), kl.BatchNormalization(), kl.Flatten(), kl.Dense(4)]
    )

    def objective(step, x, y):
        loss = keras.losses.sparse_categorical_crossentropy
        return loss(y, step.model(x, training=True), from_logits=True)

    return Program(Trained(model, objective), (images(), classes()))


@meeting
def batch_normalization_by_supervised() -> Program:
    model = keras.Sequential([kl.Input((8,)), kl.Dense(6), kl.BatchNormalization(), kl.Dense(1)])
    step = pg.Supervised(model, keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError())
    return Program(step, (draw(ROWS, 8), draw(ROWS, 1, seed=3)))


@meeting
def mixup() -> Program:
    class Mixed(pg.Step):
        def __init__(self):
            self.model = mlp(12, 4)
            self.optimizer = keras.optimizers.Adam(1e-3)
            self.seed = keras.random.SeedGenerator(3)

        def train_step(self, batch):
            x, y = batch
            n = ops.shape(x)[0]
            share = keras.random.beta((n, 1), 0.4, 0.4, seed=self.seed)
            order = keras.random.shuffle(ops.arange(n), seed=self.seed)
            x = share * x + (1 - share) * ops.take(x, order, axis=0)
            y = share * y + (1 - share) * ops.take(y, order, axis=0)

            def objective():
                p = self.model(x, training=True)
                return keras.losses.categorical_crossentropy(y, p, from_logits=True)

            return {"loss": self.minimize(objective, self.optimizer)}

    return Program(Mixed(), (draw(ROWS, 8), np.eye(4, dtype="float32")[classes()]))


@meeting
def cut_mix() -> Program:
    class Cut(pg.Step):
        def __init__(self):
            self.model = keras.Sequential([kl.Input((8, 8, 3)), kl.Flatten(), kl.Dense(4)])
            self.optimizer = keras.optimizers.Adam(1e-3)

        def train_step(self, batch):
            x, y = batch
            other_x, other_y = ops.flip(x, axis=0), ops.flip(y, axis=0)
            x = ops.concatenate([x[:, :, :5], other_x[:, :, 5:]], axis=2)
            y = 0.625 * y + 0.375 * other_y

            def objective():
                p = self.model(x, training=True)
                return keras.losses.categorical_crossentropy(y, p, from_logits=True)

            return {"loss": self.minimize(objective, self.optimizer)}

    return Program(Cut(), (images(), np.eye(4, dtype="float32")[classes()]))


@meeting
def mixup_layer_of_keras() -> Program:
    model = keras.Sequential([kl.Input((8, 8, 3)), kl.Flatten(), kl.Dense(4)])

    def objective(step, x, y):
        mixed = step.parts["mix"]({"images": x, "labels": y}, training=True)
        p = step.model(mixed["images"], training=True)
        return keras.losses.categorical_crossentropy(mixed["labels"], p, from_logits=True)

    step = Trained(model, objective, mix=kl.MixUp(0.5, seed=4))
    return Program(step, (images(), np.eye(4, dtype="float32")[classes()]))


@meeting
def negatives_by_a_roll() -> Program:
    """The negative of a triplet is the positive of the next row."""

    def objective(step, anchor, positive):
        a, p = l2(step.model(anchor)), l2(step.model(positive))
        near = ops.sum(a * p, axis=1)
        far = ops.sum(a * ops.roll(p, 1, axis=0), axis=1)
        return ops.mean(ops.softplus(far - near))

    x = draw(ROWS, 8)
    return Program(Trained(mlp(12, 6), objective), (x, x + 0.1 * draw(ROWS, 8, seed=8)))


@meeting
def pairs_of_neighboring_rows() -> Program:
    """A siamese network: rows 0 and 1 are compared, 2 and 3, and so on."""

    def objective(step, x, y):
        z = step.model(x)
        d = ops.sum(ops.square(z[0::2] - z[1::2]), axis=1)
        same = ops.cast(ops.equal(y[0::2], y[1::2]), "float32")
        return ops.mean(same * d + (1 - same) * ops.relu(1 - d))

    return Program(Trained(mlp(12, 6), objective), (draw(ROWS, 8), classes(2)))


class Queue(pg.Step):
    """Momentum contrast: negatives are keys of earlier batches."""

    def __init__(self) -> None:
        self.model = mlp(12, 6)
        self.optimizer = keras.optimizers.Adam(1e-3)
        self.keys = keras.Variable(l2_of(draw(64, 6, seed=7)), trainable=False, name="keys")

    def train_step(self, batch):
        one, two = batch
        keys = ops.stop_gradient(l2(self.model(two)))
        queue = ops.convert_to_tensor(self.keys)

        def objective():
            q = l2(self.model(one))
            positive = ops.sum(q * keys, axis=1, keepdims=True)
            logits = ops.concatenate([positive, ops.matmul(q, ops.transpose(queue))], axis=1) / 0.2
            target = ops.zeros_like(logits[:, 0], dtype="int32")
            return keras.losses.sparse_categorical_crossentropy(target, logits, from_logits=True)

        loss = self.minimize(objective, self.optimizer)
        self.keys.assign(ops.concatenate([keys, queue], axis=0)[:64])
        return {"loss": loss}


def l2_of(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=1, keepdims=True)


@meeting
def momentum_contrast() -> Program:
    x = draw(ROWS, 8)
    return Program(Queue(), (x, x + 0.1 * draw(ROWS, 8, seed=8)))


class Centers(pg.Step):
    """Centre loss with centres that follow the features."""

    def __init__(self) -> None:
        self.model = mlp(12, 6)
        self.optimizer = keras.optimizers.Adam(1e-3)
        self.centers = keras.Variable(draw(4, 6, seed=7), trainable=False, name="centers")

    def train_step(self, batch):
        x, y = batch
        center = ops.take(ops.convert_to_tensor(self.centers), y, axis=0)

        def objective():
            z = self.model(x)
            return ops.sum(ops.square(z - center), axis=1), z

        loss, z = self.minimize(objective, self.optimizer)
        moved = ops.matmul(ops.transpose(ops.one_hot(y, 4)), ops.stop_gradient(z) - center)
        self.centers.assign_add(0.1 * moved)
        return {"loss": loss}


@meeting
def center_loss() -> Program:
    return Program(Centers(), (draw(ROWS, 8), classes()))


class Baseline(pg.Step):
    """A policy gradient with the advantages of a batch normalized."""

    def __init__(self) -> None:
        self.model = mlp(12, 4)
        self.optimizer = keras.optimizers.Adam(1e-3)

    def train_step(self, batch):
        state, action, reward = batch
        advantage = (reward - ops.mean(reward)) / (ops.std(reward) + 1e-8)

        def objective():
            log_p = ops.log_softmax(self.model(state), axis=-1)
            chosen = ops.sum(log_p * ops.one_hot(action, 4), axis=-1)
            return -ops.mean(chosen * advantage)

        return {"loss": self.minimize(objective, self.optimizer)}


@meeting
def normalized_advantages() -> Program:
    return Program(Baseline(), (draw(ROWS, 8), classes(), draw(ROWS, seed=3)))


class Logging(pg.Step):
    """The loss is one of rows apart; a logged value is not."""

    def __init__(self, value) -> None:
        self.model = mlp(12, 1)
        self.optimizer = keras.optimizers.Adam(1e-3)
        self.value = value

    def train_step(self, batch):
        x, y = batch

        def objective():
            p = self.model(x)[:, 0]
            return ops.square(p - y), p

        loss, p = self.minimize(objective, self.optimizer)
        return {"loss": loss, "value": self.value(y, p)}


@meeting
def explained_variance_is_logged() -> Program:
    def value(y, p):
        return 1 - ops.var(y - p) / ops.var(y)

    return Program(Logging(value), (draw(ROWS, 8), draw(ROWS, seed=3)))


@meeting
def root_mean_square_is_logged() -> Program:
    def value(y, p):
        return ops.sqrt(ops.mean(ops.square(y - p)))

    return Program(Logging(value), (draw(ROWS, 8), draw(ROWS, seed=3)))


# Rows that do not meet.


def squares(step, x, y):
    return ops.mean(ops.square(step.model(x, training=True)[:, 0] - y))


def regression() -> tuple[np.ndarray, np.ndarray]:
    return draw(ROWS, 8), draw(ROWS, seed=3)


@apart
def least_squares() -> Program:
    return Program(Trained(mlp(12, 1), squares), regression())


@apart
def large_targets() -> Program:
    x, y = regression()
    return Program(Trained(mlp(12, 1), squares), (x, 1e4 * y + 1e6))


@apart
def tiny_loss_beside_a_large_penalty() -> Program:
    model = keras.Sequential(
        [kl.Input((8,)), kl.Dense(6, kernel_regularizer=keras.regularizers.L2(1e3)), kl.Dense(1)]
    )
    x, y = regression()
    return Program(Trained(model, squares), (x, 1e-3 * y))


@apart
def masked_mean() -> Program:
    def objective(step, x, y, known):
        return pg.mean(ops.square(step.model(x) - y), known)

    known = (draw(ROWS, 4, seed=6) > 0).astype("float32")
    data = draw(ROWS, 8), draw(ROWS, 4, seed=3), known
    return Program(Trained(mlp(12, 4), objective), data)


def with_layers(*hidden: Any, last: int = 1) -> keras.Sequential:
    return keras.Sequential([kl.Input((8,)), kl.Dense(12), *hidden, kl.Dense(last)])


@apart
def dropout() -> Program:
    return Program(Trained(with_layers(kl.Dropout(0.5)), squares), regression())


@apart
def layer_normalization() -> Program:
    return Program(Trained(with_layers(kl.LayerNormalization()), squares), regression())


@apart
def several_kinds_of_noise() -> Program:
    hidden = kl.GaussianNoise(0.2), kl.AlphaDropout(0.2), kl.ActivityRegularization(l2=0.01)
    return Program(Trained(with_layers(*hidden), squares), regression())


@apart
def spectral_normalization() -> Program:
    model = keras.Sequential(
        [kl.Input((8,)), kl.SpectralNormalization(kl.Dense(12, activation="relu")), kl.Dense(1)]
    )
    return Program(Trained(model, squares), regression())


@apart
def frozen_batch_normalization() -> Program:
    model = with_layers(kl.BatchNormalization(trainable=False))
    return Program(Trained(model, squares), regression())


@apart
def batch_normalization_in_inference() -> Program:
    def objective(step, x, y):
        return ops.square(step.model(x, training=False)[:, 0] - y)

    return Program(Trained(with_layers(kl.BatchNormalization()), objective), regression())


@apart
def group_normalization_of_images() -> Program:
    model = keras.Sequential(
        [
            kl.Input((8, 8, 3)),
            kl.Conv2D(4, 3),
            kl.GroupNormalization(2),
            kl.GlobalAveragePooling2D(),
            kl.Dense(4),
        ]
    )

    def objective(step, x, y):
        return keras.losses.sparse_categorical_crossentropy(y, step.model(x), from_logits=True)

    return Program(Trained(model, objective), (images(), classes()))


@apart
def augmented_images() -> Program:
    model = keras.Sequential(
        [
            kl.Input((8, 8, 3)),
            kl.RandomFlip(seed=1),
            kl.RandomTranslation(0.2, 0.2, seed=2),
            kl.RandomContrast(0.3, seed=3),
            kl.Flatten(),
            kl.Dense(4),
        ]
    )

    def objective(step, x, y):
        loss = keras.losses.sparse_categorical_crossentropy
        return loss(y, step.model(x, training=True), from_logits=True)

    return Program(Trained(model, objective), (images(), classes()))


@apart
def attention_over_time() -> Program:
    ids = keras.Input((6,), dtype="int32")
    x = kl.Embedding(20, 8, mask_zero=True)(ids)
    x = kl.MultiHeadAttention(2, 4, dropout=0.1, seed=2)(x, x)
    model = keras.Model(ids, kl.Dense(4)(kl.GlobalAveragePooling1D()(x)))

    def objective(step, x, y):
        loss = keras.losses.sparse_categorical_crossentropy
        return loss(y, step.model(x, training=True), from_logits=True)

    return Program(Trained(model, objective), (tokens(), classes()))


@apart
def language_model_over_padding() -> Program:
    model = keras.Sequential(
        [kl.Input((5,), dtype="int32"), kl.Embedding(20, 8), kl.GRU(8, return_sequences=True)]
    )
    model.add(kl.Dense(20))

    def objective(step, ids):
        given, wanted = ids[:, :-1], ids[:, 1:]
        loss = keras.losses.sparse_categorical_crossentropy
        each = loss(wanted, step.model(given, training=True), from_logits=True)
        return pg.mean(each, ops.cast(wanted > 0, "float32"))

    return Program(Trained(model, objective), tokens())


@apart
def recurrent_with_dropout() -> Program:
    model = keras.Sequential(
        [
            kl.Input((6,), dtype="int32"),
            kl.Embedding(20, 8, mask_zero=True),
            kl.Bidirectional(kl.LSTM(6, dropout=0.2, seed=1)),
            kl.Dense(1),
        ]
    )
    return Program(Trained(model, squares), (tokens(), draw(ROWS, seed=3)))


@apart
def label_smoothing() -> Program:
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)

    def objective(step, x, y):
        return step.parts["loss"](y, step.model(x))

    data = draw(ROWS, 8), np.eye(4, dtype="float32")[classes()]
    return Program(Trained(mlp(12, 4), objective, loss=loss), data)


@apart
def triplets_of_one_row() -> Program:
    def objective(step, anchor, positive, negative):
        a, p, n = (l2(step.model(v)) for v in (anchor, positive, negative))
        return ops.mean(ops.relu(ops.sum(a * n, axis=1) - ops.sum(a * p, axis=1) + 0.3))

    data = tuple(draw(ROWS, 8, seed=s) for s in (1, 2, 3))
    return Program(Trained(mlp(12, 6), objective), data)


@apart
def decoupled_and_added_weight_decay() -> Program:
    step = Trained(with_layers(kl.Dense(4, kernel_regularizer="l2")), squares)
    step.optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.01)
    return Program(step, regression())


@apart
def sample_weights() -> Program:
    def objective(step, x, y, weight):
        return step.parts["loss"](y[:, None], step.model(x), sample_weight=weight)

    weight = np.abs(draw(ROWS, seed=5))
    step = Trained(mlp(12, 1), objective, loss=keras.losses.MeanSquaredError())
    return Program(step, (*regression(), weight))


@apart
def supervised_with_weights_and_metrics() -> Program:
    step = pg.Supervised(
        mlp(12, 4),
        keras.optimizers.SGD(0.1),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[keras.metrics.SparseCategoricalAccuracy()],
    )
    return Program(step, (draw(ROWS, 8), classes(), np.abs(draw(ROWS, seed=5))))


class Sampling(kl.Layer):
    def __init__(self, **given):
        super().__init__(**given)
        self.seed = keras.random.SeedGenerator(11)

    def call(self, inputs):
        mean, log_var = inputs
        noise = keras.random.normal(ops.shape(mean), seed=self.seed)
        return mean + ops.exp(0.5 * log_var) * noise


class Variational(pg.Step):
    """The guide's VAE, with its three metrics."""

    def __init__(self) -> None:
        self.encoder, self.decoder, self.sampling = mlp(12, 4), mlp(12, 8, width=2), Sampling()
        self.optimizer = keras.optimizers.Adam(1e-3)
        self.kl_metric = keras.metrics.Mean(name="kl_loss")

    def train_step(self, batch):
        def objective():
            mean, log_var = ops.split(self.encoder(batch), 2, axis=-1)
            rebuilt = self.decoder(self.sampling([mean, log_var]))
            kl_ = -0.5 * ops.sum(1 + log_var - ops.square(mean) - ops.exp(log_var), axis=1)
            return ops.sum(ops.square(rebuilt - batch), axis=1) + kl_, kl_

        loss, kl_ = self.minimize(objective, self.optimizer, [self.encoder, self.decoder])
        self.kl_metric.update_state(kl_)
        return {"loss": loss}


@apart
def variational_autoencoder() -> Program:
    return Program(Variational(), draw(ROWS, 8))


@apart
def reparameterized_draws_of_the_whole_batch() -> Program:
    """One draw that all rows share."""

    def objective(step, x, y):
        noise = keras.random.normal((1, 8), seed=step.parts["seed"])
        return ops.square(step.model(x + 0.1 * noise)[:, 0] - y)

    step = Trained(mlp(12, 1), objective, seed=keras.random.SeedGenerator(3))
    return Program(step, regression())


class Penalized(pg.Step):
    """A critic with a penalty on each example's gradient."""

    def __init__(self) -> None:
        self.critic = mlp(12, 1)
        self.optimizer = keras.optimizers.Adam(1e-3)
        self.seed = keras.random.SeedGenerator(3)

    def train_step(self, batch):
        real, fake = batch
        share = keras.random.uniform((ops.shape(real)[0], 1), seed=self.seed)
        between = share * real + (1 - share) * fake

        def objective():
            slopes = self.gradients(lambda x: ops.sum(self.critic(x)), between)
            norm = ops.sqrt(ops.sum(ops.square(slopes), axis=1) + 1e-12)
            wasserstein = ops.mean(self.critic(fake)) - ops.mean(self.critic(real))
            return wasserstein + 10.0 * ops.mean(ops.square(norm - 1.0))

        return {"loss": self.minimize(objective, self.optimizer)}


@apart
def gradient_penalty() -> Program:
    return Program(Penalized(), (draw(ROWS, 8), draw(ROWS, 8, seed=3)))


@apart
def policy_gradient() -> Program:
    """Values of both signs, whose mean is near zero."""

    def objective(step, state, action, advantage):
        log_p = ops.log_softmax(step.model(state), axis=-1)
        return -ops.mean(ops.sum(log_p * ops.one_hot(action, 4), axis=-1) * advantage)

    advantage = draw(ROWS, seed=3)
    data = draw(ROWS, 8), classes(), advantage - advantage.mean()
    return Program(Trained(mlp(12, 4), objective), data)


@apart
def mean_of_normalized_values_is_logged() -> Program:
    """It is zero but for rounding."""

    class Normed(pg.Step):
        def __init__(self):
            self.model = mlp(12, 6)
            self.norm = kl.LayerNormalization(center=False, scale=False)
            self.optimizer = keras.optimizers.Adam(1e-3)

        def train_step(self, batch):
            x, y = batch

            def objective():
                z = self.norm(self.model(x))
                return ops.square(z[:, 0] - y), z

            loss, z = self.minimize(objective, self.optimizer, self.model)
            return {"loss": loss, "mean": ops.mean(z), "per row": ops.mean(z, axis=1)}

    return Program(Normed(), regression())


@apart
def constants_are_logged() -> Program:
    class Constants(pg.Step):
        def __init__(self):
            self.model = mlp(12, 1)
            self.optimizer = keras.optimizers.Adam(1e-3)
            self.calls = keras.Variable(0, dtype="int32", trainable=False, name="calls")

        def train_step(self, batch):
            x, y = batch
            self.calls.assign_add(1)
            loss = self.minimize(lambda: ops.square(self.model(x)[:, 0] - y), self.optimizer)
            rate = ops.convert_to_tensor(self.optimizer.learning_rate)
            return {"loss": loss, "rate": rate, "calls": ops.cast(self.calls, "float32"), "one": 1}

    return Program(Constants(), regression())


@apart
def teacher_and_student() -> Program:
    teacher = mlp(12, 4)
    teacher.trainable = False

    def objective(step, x, y):
        logits = step.model(x)
        soft = ops.softmax(step.parts["teacher"](x) / 3.0, axis=-1)
        loss = keras.losses.sparse_categorical_crossentropy(y, logits, from_logits=True)
        return 0.3 * loss + 0.7 * keras.losses.kl_divergence(soft, ops.softmax(logits / 3.0))

    class Distilled(Trained):
        def train_step(self, batch):
            loss = self.minimize(lambda: self.objective(self, *batch), self.optimizer, self.model)
            return {"loss": loss}

    return Program(Distilled(mlp(12, 4), objective, teacher=teacher), (draw(ROWS, 8), classes()))


@apart
def multi_instance_bags() -> Program:
    """Attention over the instances of each row."""

    class Bags(kl.Layer):
        def __init__(self):
            super().__init__()
            self.score, self.head = kl.Dense(1), kl.Dense(1)

        def call(self, x):
            share = ops.softmax(self.score(x), axis=1)
            return self.head(ops.sum(share * x, axis=1))

    def objective(step, x, y):
        y = ops.cast(y, "float32")[:, None]
        return keras.losses.binary_crossentropy(y, step.model(x), from_logits=True)

    return Program(Trained(Bags(), objective), (draw(ROWS, 5, 8), classes(2)))


@apart
def dice_of_each_row() -> Program:
    def objective(step, x, y):
        p = step.model(x)
        both = ops.sum(p * y, axis=1)
        return 1 - (2 * both + 1) / (ops.sum(p, axis=1) + ops.sum(y, axis=1) + 1)

    y = (draw(ROWS, 4, seed=3) > 0).astype("float32")
    return Program(Trained(mlp(12, 4, last="sigmoid"), objective), (draw(ROWS, 8), y))


@apart
def embeddings_of_users_and_items() -> Program:
    class Factors(kl.Layer):
        def __init__(self):
            super().__init__()
            self.users, self.items = kl.Embedding(20, 4), kl.Embedding(20, 4)

        def call(self, ids):
            return ops.sum(self.users(ids[:, 0]) * self.items(ids[:, 1]), axis=1)

    def objective(step, ids, y):
        return ops.mean(ops.square(step.model(ids) - y))

    return Program(Trained(Factors(), objective), (tokens(2), draw(ROWS, seed=3)))


@apart
def sampled_negatives() -> Program:
    """Negatives are drawn from the vocabulary, not from the batch."""

    class SkipGram(kl.Layer):
        def __init__(self):
            super().__init__()
            self.words, self.contexts = kl.Embedding(20, 4), kl.Embedding(20, 4)
            self.seed = keras.random.SeedGenerator(2)

        def call(self, ids):
            word, context = self.words(ids[:, 0]), self.contexts(ids[:, 1])
            drawn = keras.random.randint((ops.shape(ids)[0], 3), 1, 20, seed=self.seed)
            near = ops.sum(word * context, axis=1)
            far = ops.sum(word[:, None, :] * self.contexts(drawn), axis=2)
            return ops.softplus(-near) + ops.sum(ops.softplus(far), axis=1)

    def objective(step, ids):
        return ops.mean(step.model(ids))

    return Program(Trained(SkipGram(), objective), tokens(2))


@apart
def denoising_diffusion() -> Program:
    def objective(step, x):
        n = ops.shape(x)[0]
        time = keras.random.uniform((n, 1), seed=step.parts["seed"])
        noise = keras.random.normal(ops.shape(x), seed=step.parts["seed"])
        noisy = ops.sqrt(1 - time) * x + ops.sqrt(time) * noise
        return ops.mean(ops.abs(noise - step.model(ops.concatenate([noisy, time], axis=1))))

    step = Trained(mlp(12, 8, width=9), objective, seed=keras.random.SeedGenerator(3))
    return Program(step, draw(ROWS, 8))


@apart
def vector_quantization_by_gradients() -> Program:
    """A codebook that the loss itself trains."""

    class Quantized(kl.Layer):
        def build(self, shape):
            self.codes = self.add_weight(shape=(5, shape[-1]), name="codes")

        def call(self, x):
            d = ops.sum(ops.square(x[:, None, :] - self.codes[None]), axis=2)
            code = ops.take(self.codes, ops.argmin(d, axis=1), axis=0)
            self.add_loss(ops.mean(ops.square(ops.stop_gradient(x) - code)))
            return x + ops.stop_gradient(code - x)

    model = keras.Sequential([kl.Input((8,)), kl.Dense(6), Quantized(), kl.Dense(8)])

    def objective(step, x):
        return ops.mean(ops.square(step.model(x) - x), axis=1)

    return Program(Trained(model, objective), draw(ROWS, 8))


@apart
def mixed_precision() -> Program:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = with_layers(kl.LayerNormalization(), kl.Dropout(0.2))
    finally:
        keras.config.set_dtype_policy("float32")

    def objective(step, x, y):
        return ops.mean(ops.square(step.model(x, training=True)[:, 0] - ops.cast(y, "bfloat16")))

    return Program(Trained(model, objective), regression())


@apart
def quantile_and_huber_losses() -> Program:
    def objective(step, x, y):
        error = y[:, None] - step.model(x)
        levels = ops.convert_to_tensor([0.1, 0.5, 0.9], "float32")
        pinball = ops.maximum(levels * error, (levels - 1) * error)
        return ops.mean(pinball) + keras.losses.Huber()(y, step.model(x)[:, 1])

    return Program(Trained(mlp(12, 3), objective), regression())
