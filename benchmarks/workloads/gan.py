"""A generative adversarial network (Goodfellow et al., 2014) of the digits: two optimizers."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

import perigee as pg
from benchmarks.workloads._workload import Workload

_NOISE = 16


def generator() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((_NOISE,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(64, activation="sigmoid"),
        ],
        name="generator",
    )


def discriminator() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="leaky_relu"),
            keras.layers.Dense(64, activation="leaky_relu"),
            keras.layers.Dense(1),
        ],
        name="discriminator",
    )


def optimizer() -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(2e-4, beta_1=0.5)


def discriminator_loss(real: Any, fake: Any) -> Any:
    return ops.mean(ops.softplus(-real)) + ops.mean(ops.softplus(fake))


def generator_loss(fake: Any) -> Any:
    return ops.mean(ops.softplus(-fake))


def noise_for(images: Any, seed: Any) -> Any:
    return keras.random.normal((ops.shape(images)[0], _NOISE), seed=seed)


class Adversaries(pg.Step):
    """The step that a user of Perigee writes."""

    def __init__(self) -> None:
        self.generator, self.discriminator = generator(), discriminator()
        self.generator_optimizer, self.discriminator_optimizer = optimizer(), optimizer()
        self.seed = keras.random.SeedGenerator(7)

    def train_step(self, images: Any) -> dict[str, Any]:
        drawn = self.generator(noise_for(images, self.seed), training=True)

        def discriminator_objective() -> Any:
            real = self.discriminator(images, training=True)
            return discriminator_loss(real, self.discriminator(drawn, training=True))

        told = self.minimize(
            discriminator_objective, self.discriminator_optimizer, self.discriminator
        )
        noise = noise_for(images, self.seed)

        def generator_objective() -> Any:
            drawn = self.generator(noise, training=True)
            return generator_loss(self.discriminator(drawn, training=True))

        fooled = self.minimize(generator_objective, self.generator_optimizer, self.generator)
        return {"discriminator_loss": told, "generator_loss": fooled}


class _Networks:
    """Two networks, two optimizers, two metrics: what a loop by hand holds."""

    def __init__(self) -> None:
        self.generator, self.discriminator = generator(), discriminator()
        self.generator_optimizer, self.discriminator_optimizer = optimizer(), optimizer()
        self.generator_optimizer.build(self.generator.trainable_variables)
        self.discriminator_optimizer.build(self.discriminator.trainable_variables)
        self.seed = keras.random.SeedGenerator(7)
        self.metrics = [
            keras.metrics.Mean(name="discriminator_loss"),
            keras.metrics.Mean(name="generator_loss"),
        ]


class _Imperative(_Networks):
    """A step that changes variables."""

    def update(self, images: Any) -> tuple[Any, Any]:
        drawn = self.generator(noise_for(images, self.seed), training=True)

        def to_tell() -> Any:
            real = self.discriminator(images, training=True)
            return discriminator_loss(real, self.discriminator(drawn, training=True))

        told = self.minimize(to_tell, self.discriminator_optimizer, self.discriminator)
        noise = noise_for(images, self.seed)

        def to_fool() -> Any:
            drawn = self.generator(noise, training=True)
            return generator_loss(self.discriminator(drawn, training=True))

        return told, self.minimize(to_fool, self.generator_optimizer, self.generator)

    def minimize(self, objective: Any, optimizer: Any, network: Any) -> Any:
        """Take one step, and return the loss."""
        raise NotImplementedError

    def record(self, values: tuple[Any, Any]) -> None:
        for metric, value in zip(self.metrics, values, strict=True):
            metric.update_state(value)


class TensorFlowByHand(_Imperative):
    """The tutorials' step: two tapes."""

    def minimize(self, objective: Any, optimizer: Any, network: Any) -> Any:
        import tensorflow as tf

        with tf.GradientTape() as tape:
            loss = objective()
        variables = network.trainable_variables
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return loss


class TorchByHand(_Imperative):
    """The guides' step: two backward passes."""

    def minimize(self, objective: Any, optimizer: Any, network: Any) -> Any:
        import torch

        loss = objective()
        variables = network.trainable_variables
        # Not `backward`, which would also go into the network that is not trained here.
        gradients = torch.autograd.grad(loss, [v.value for v in variables])
        with torch.no_grad():
            optimizer.apply(list(gradients), variables)
        return loss.detach()


class JaxByHand(_Networks):
    """The guides' step: two pure gradients."""

    def state(self) -> dict[str, Any]:
        return {
            "generator": [v.value for v in self.generator.trainable_variables],
            "discriminator": [v.value for v in self.discriminator.trainable_variables],
            "generator_slots": [v.value for v in self.generator_optimizer.variables],
            "discriminator_slots": [v.value for v in self.discriminator_optimizer.variables],
            "seed": self.seed.state.value,
            "metrics": [[v.value for v in metric.variables] for metric in self.metrics],
        }

    def update(self, state: dict[str, Any], images: Any, records: bool = True) -> dict[str, Any]:
        new = dict(state)
        with keras.StatelessScope(state_mapping=[(self.seed.state, state["seed"])]) as scope:
            noise, other_noise = noise_for(images, self.seed), noise_for(images, self.seed)
        new["seed"] = scope.get_current_value(self.seed.state)
        told, new["discriminator"], new["discriminator_slots"] = update_discriminator(
            self, state["discriminator"], state["discriminator_slots"], state["generator"],
            images, noise,
        )  # fmt: skip
        fooled, new["generator"], new["generator_slots"] = update_generator(
            self, state["generator"], state["generator_slots"], new["discriminator"], other_noise
        )
        if records:
            new["metrics"] = [
                metric.stateless_update_state(variables, value)
                for metric, variables, value in zip(
                    self.metrics, state["metrics"], (told, fooled), strict=True
                )
            ]
        return new


def update_discriminator(
    networks: Any, weights: Any, slots: Any, generator_weights: Any, images: Any, noise: Any
) -> tuple[Any, Any, Any]:
    """Return loss, weights and slots after one update, as pure functions of JAX."""
    import jax

    drawn = networks.generator.stateless_call(generator_weights, [], noise, training=True)[0]

    def objective(weights: Any) -> Any:
        real = networks.discriminator.stateless_call(weights, [], images, training=True)[0]
        fake = networks.discriminator.stateless_call(weights, [], drawn, training=True)[0]
        return discriminator_loss(real, fake)

    loss, gradients = jax.value_and_grad(objective)(weights)
    return loss, *networks.discriminator_optimizer.stateless_apply(slots, gradients, weights)


def update_generator(
    networks: Any, weights: Any, slots: Any, discriminator_weights: Any, noise: Any
) -> tuple[Any, Any, Any]:
    """Return loss, weights and slots after one update, as pure functions of JAX."""
    import jax

    def objective(weights: Any) -> Any:
        drawn = networks.generator.stateless_call(weights, [], noise, training=True)[0]
        scores = networks.discriminator.stateless_call(
            discriminator_weights, [], drawn, training=True
        )
        return generator_loss(scores[0])

    loss, gradients = jax.value_and_grad(objective)(weights)
    return loss, *networks.generator_optimizer.stateless_apply(slots, gradients, weights)


class _Pair(keras.optimizers.Optimizer):
    """Two optimizers under one name: on JAX, `fit` carries the variables of `self.optimizer` only.

    Args:
        first: Built.
        second: Built.
    """

    def __init__(
        self, first: keras.optimizers.Optimizer, second: keras.optimizers.Optimizer
    ) -> None:
        super().__init__(learning_rate=0.0, name="pair")
        self.pair = (first, second)
        self.built = True

    @property
    def variables(self) -> list[keras.Variable]:
        return [*self.pair[0].variables, *self.pair[1].variables]

    def build(self, variables: Any) -> None:
        """Do nothing: both are built."""


class FittedAdversaries(keras.Model):
    """The same for `fit`: a `train_step` of one's own, on each framework another one."""

    def __init__(self) -> None:
        super().__init__()
        ways = {"tensorflow": TensorFlowByHand, "jax": JaxByHand, "torch": TorchByHand}
        self.networks = ways[keras.backend.backend()]()
        # Keras finds layers, metrics and seeds that are attributes of the model itself.
        self.generator, self.discriminator = self.networks.generator, self.networks.discriminator
        self.told, self.fooled = self.networks.metrics
        self.seed = self.networks.seed
        self.built = True

    def call(self, images: Any) -> Any:
        return self.discriminator(images)

    @property
    def metrics(self) -> list[keras.Metric]:
        return [self.told, self.fooled]

    def train_step(self, *arguments: Any) -> Any:
        """Train on one batch: `(state, data)` on JAX, `(data)` elsewhere."""
        if len(arguments) == 2:
            return self._stateless(*arguments)
        images, _, _ = keras.utils.unpack_x_y_sample_weight(arguments[0])
        told, fooled = self.networks.update(images)
        self.networks.record((told, fooled))
        return {metric.name: metric.result() for metric in self.metrics}

    def _stateless(self, state: Any, data: Any) -> Any:
        images, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        weights, rest, slots, metrics = state
        cut = len(self.generator.trainable_variables)
        slots_cut = len(self.networks.discriminator_optimizer.variables)
        counts = len(self.told.variables)
        new = self.networks.update(
            {
                "generator": weights[:cut],
                "discriminator": weights[cut:],
                "discriminator_slots": slots[:slots_cut],
                "generator_slots": slots[slots_cut:],
                "seed": rest[0],
                "metrics": [metrics[:counts], metrics[counts:]],
            },
            images,
        )
        metrics = [variable for variables in new["metrics"] for variable in variables]
        logs = {
            metric.name: metric.stateless_result(variables)
            for metric, variables in zip(self.metrics, new["metrics"], strict=True)
        }
        return logs, (
            [*new["generator"], *new["discriminator"]],
            [new["seed"]],
            [*new["discriminator_slots"], *new["generator_slots"]],
            metrics,
        )


class GAN(Workload):
    """Two networks, two losses, two optimizers and two draws of random numbers a step."""

    name = "gan"
    title = "GAN, two optimizers"
    headline = "discriminator_loss"
    rows = 8 * 1797

    def data(self, rows: int | None = None) -> Any:
        return super().data(rows)[0]

    def step(self) -> pg.Step:
        return Adversaries()

    def fitted(self, **compiled: Any) -> keras.Model:
        model = FittedAdversaries()
        networks = model.networks
        model.compile(
            _Pair(networks.discriminator_optimizer, networks.generator_optimizer), **compiled
        )
        return model

    def tensorflow_step(self) -> TensorFlowByHand:
        return TensorFlowByHand()

    def jax_step(self) -> JaxByHand:
        return JaxByHand()

    def torch_step(self) -> TorchByHand:
        return TorchByHand()
