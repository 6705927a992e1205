"""Problems about how variables are updated: several optimizers, averages, conditions, phases."""

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
    dense_model,
    points,
)
from tests.backends.problems.predicting import regression


class BackboneAndHead(pg.Step):
    """One objective, its gradients divided between a slow and a fast optimizer."""

    def __init__(self):
        self.backbone = dense_model(3, 8, 8, name="backbone")
        self.head = dense_model(8, 1, name="head")
        self.slow = keras.optimizers.SGD(0.02, momentum=0.9, nesterov=True)
        self.fast = keras.optimizers.Adam(0.01)

    def train_step(self, batch):
        x, y = batch

        def objective():
            features = self.backbone(x, training=True)
            return ops.square(y - self.head(features, training=True))[:, 0]

        gradients = self.gradients(objective, [self.backbone, self.head])
        pairs = list(zip(gradients.values, gradients.variables, strict=True))
        count = len(self.backbone.trainable_variables)
        self.apply(self.slow, pairs[:count])
        self.apply(self.fast, pairs[count:])
        return {"loss": gradients.returned}


class Adversaries(pg.Step):
    """A generator and a discriminator, one after the other, each with an Adam of its own.

    Noise comes with the batch, so that frameworks can be compared.
    """

    def __init__(self):
        self.generator = dense_model(2, 8, 2, name="generator")
        self.discriminator = dense_model(2, 8, 1, name="discriminator")
        self.generator_optimizer = keras.optimizers.Adam(0.01, beta_1=0.5)
        self.discriminator_optimizer = keras.optimizers.Adam(0.01, beta_1=0.5)
        self.loss = keras.losses.BinaryCrossentropy(from_logits=True)

    def train_step(self, batch):
        real, noise, other_noise = batch["real"], batch["noise"], batch["other_noise"]
        made = self.generator(noise, training=True)

        def discriminator_objective():
            on_real = self.discriminator(real, training=True)
            on_made = self.discriminator(made, training=True)
            truth = self.loss(ops.ones_like(on_real), on_real)
            return truth + self.loss(ops.zeros_like(on_made), on_made)

        discriminator_loss = self.minimize(
            discriminator_objective, self.discriminator_optimizer, self.discriminator
        )

        def generator_objective():
            verdict = self.discriminator(self.generator(other_noise, training=True), training=True)
            return self.loss(ops.ones_like(verdict), verdict)

        generator_loss = self.minimize(
            generator_objective, self.generator_optimizer, self.generator
        )
        return {"discriminator_loss": discriminator_loss, "generator_loss": generator_loss}


class Critic(pg.Step):
    """A Wasserstein generator and its critic, whose slope is held near 1 (Gulrajani et al., 2017).

    Args:
        penalty: Weight of the gradient penalty; 0 plants the bug of leaving it out.
    """

    def __init__(self, penalty=10.0):
        self.generator = dense_model(2, 8, 2, name="generator")
        self.critic = dense_model(2, 8, 1, name="critic")
        self.generator_optimizer = keras.optimizers.Adam(0.005, beta_1=0.0)
        self.critic_optimizer = keras.optimizers.Adam(0.005, beta_1=0.0)
        self.penalty = penalty

    def train_step(self, batch):
        real, noise, mix = batch["real"], batch["noise"], batch["mix"]
        made = self.generator(noise, training=True)
        between = mix * real + (1.0 - mix) * made

        def critic_objective():
            slopes = self.gradients(lambda x: ops.sum(self.critic(x, training=True)), between)
            norms = ops.sqrt(ops.sum(ops.square(slopes), axis=-1) + 1e-12)
            penalty = ops.mean(ops.square(norms - 1.0))
            gain = ops.mean(self.critic(real, training=True) - self.critic(made, training=True))
            return self.penalty * penalty - gain, penalty

        critic_loss, penalty = self.minimize(critic_objective, self.critic_optimizer, self.critic)

        def generator_objective():
            return -self.critic(self.generator(noise, training=True), training=True)[:, 0]

        generator_loss = self.minimize(
            generator_objective, self.generator_optimizer, self.generator
        )
        return {"critic_loss": critic_loss, "penalty": penalty, "generator_loss": generator_loss}


def ring():
    """Return points on a ring with two lots of noise and mixing factors, `ROWS` of each."""
    random = np.random.default_rng(4)
    angles = random.uniform(0, 2 * np.pi, size=ROWS)
    arrays = {
        "real": np.stack([np.cos(angles), np.sin(angles)], axis=1),
        "noise": random.normal(size=(ROWS, 2)),
        "other_noise": random.normal(size=(ROWS, 2)),
        "mix": random.uniform(size=(ROWS, 1)),
    }
    return {name: array.astype("float32") for name, array in arrays.items()}


class Cautious(pg.Step):
    """Leaves out updates that would spoil it: NaN in the data, or a loss that is small already."""

    def __init__(self, looks=True):
        self.model = dense_model(3, 8, 1, name="line")
        self.optimizer = keras.optimizers.Adam(0.02, use_ema=True, ema_momentum=0.8)
        self.looks = looks

    def train_step(self, batch):
        x, y = batch
        gradients = self.gradients(
            lambda: ops.square(y - self.model(x, training=True))[:, 0], self.model
        )
        loss = gradients.loss
        is_worth_it = ops.logical_and(ops.isfinite(loss), loss > (0.5 if self.looks else 0.0))
        self.apply(self.optimizer, gradients, when=is_worth_it)
        return {
            "loss": ops.where(ops.isfinite(loss), loss, 0.0),
            "applied": ops.cast(is_worth_it, "float32"),
        }


def broken_points():
    """Return batches of points, every third with a NaN."""
    x, y = points()
    batches = [(x[i : i + BATCH].copy(), y[i : i + BATCH]) for i in range(0, ROWS, BATCH)]
    for broken, _ in batches[1::3]:
        broken[2, 1] = np.nan
    return batches


class MetaLearner(pg.Step):
    """Learns where to begin, so that one step of descent serves (Finn et al., 2017).

    Args:
        is_first_order: The bug of taking the inner gradients for constants.
    """

    def __init__(self, is_first_order=False):
        random = np.random.default_rng(5)
        self.kernels = [
            keras.Variable(random.normal(scale=0.7, size=shape).astype("float32"), name=f"k{index}")
            for index, shape in enumerate([(3, 8), (8, 1)])
        ]
        self.optimizer = keras.optimizers.Adam(0.01)
        self.is_first_order = is_first_order

    def train_step(self, batch):
        x, y = batch["support"]
        other_x, other_y = batch["query"]

        def objective():
            gradients = self.gradients(lambda: error(self.kernels, x, y), self.kernels)
            if self.is_first_order:
                gradients = gradients.replaced(ops.stop_gradient(g) for g in gradients)
            adapted = [k - 0.2 * g for k, g in zip(self.kernels, gradients, strict=True)]
            return error(adapted, other_x, other_y)

        return {"loss": self.minimize(objective, self.optimizer, self.kernels)}


def error(kernels, x, y):
    """Return the squared error of a small network with the given kernels, shape `()`."""
    first, second = kernels
    return ops.mean(ops.square(y - ops.tanh(x @ first) @ second))


def tasks():
    x, y = points(2 * ROWS)
    return {"support": (x[:ROWS], y[:ROWS]), "query": (x[ROWS:], y[ROWS:])}


def averaged(momentum=0.9):
    return regression(keras.optimizers.Adam(0.01, use_ema=True, ema_momentum=momentum))


def scheduled(norm=0.5, decay=0.01):
    rate = keras.optimizers.schedules.CosineDecay(0.03, decay_steps=40, warmup_steps=5)
    optimizer = keras.optimizers.AdamW(rate, weight_decay=decay, global_clipnorm=norm)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return regression(optimizer)


PROBLEMS = (
    Problem("two optimizers", BackboneAndHead, points(), {"epochs": 6}),
    Problem("alternating phases", Adversaries, ring(), {"epochs": 6}),
    Problem(
        "gradient penalty",
        Critic,
        ring(),
        {"epochs": 6},
        Tolerance(later=1e-4, weights=1e-4),
        planted={"no penalty": partial(Critic, penalty=0.0)},
    ),
    Problem(
        "accumulated",
        regression,
        points(),
        {"epochs": 6, "accumulate": 3},
        planted={"sum over a full batch": partial(regression, assumes_full_batches=True)},
    ),
    Problem(
        "averaged weights",
        averaged,
        points(),
        {"epochs": 6},
        planted={"momentum of the average": partial(averaged, momentum=0.901)},
    ),
    Problem(
        "schedule, clipping and decay",
        scheduled,
        points(),
        {"epochs": 6},
        planted={
            "clipping norm": partial(scheduled, norm=0.5005),
            "weight decay": partial(scheduled, decay=0.02),
        },
    ),
    Problem(
        "conditional updates",
        Cautious,
        broken_points(),
        {"epochs": 6},
        planted={"condition": partial(Cautious, looks=False)},
    ),
    Problem(
        "inner step",
        MetaLearner,
        tasks(),
        {"epochs": 6},
        planted={"first order": partial(MetaLearner, is_first_order=True)},
    ),
)
