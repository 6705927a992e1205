"""A variational autoencoder (Kingma and Welling, 2014) of the digits."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

import perigee as pg
from benchmarks.workloads.one_objective import OneObjective

_LATENT = 8


class Autoencoder(keras.Model):
    """Returns logits of the pixels, and mean and logarithm of the variance of the code."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = keras.Sequential(
            [
                keras.Input((64,)),
                keras.layers.Dense(128, activation="relu"),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(2 * _LATENT),
            ]
        )
        self.decoder = keras.Sequential(
            [
                keras.Input((_LATENT,)),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(128, activation="relu"),
                keras.layers.Dense(64),
            ]
        )
        self.seed = keras.random.SeedGenerator(7)

    def call(self, images: Any, training: bool = False) -> tuple[Any, Any, Any]:
        mean, log_variance = ops.split(self.encoder(images, training=training), 2, axis=-1)
        noise = keras.random.normal(ops.shape(mean), seed=self.seed)
        code = mean + noise * ops.exp(log_variance / 2)
        return self.decoder(code, training=training), mean, log_variance


class FittedAutoencoder(Autoencoder):
    """The same for `fit`: Keras's place for a loss of one's own is `compute_loss`."""

    def __init__(self) -> None:
        super().__init__()
        self.reconstruction = keras.metrics.Mean(name="reconstruction")
        self.divergence = keras.metrics.Mean(name="divergence")

    def compute_loss(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        reconstruction, divergence = losses(x, y_pred)
        self.reconstruction.update_state(reconstruction)
        self.divergence.update_state(divergence)
        return reconstruction + divergence


class AutoencoderStep(pg.Step):
    """The step that a user of Perigee writes."""

    def __init__(self, model: keras.Model, optimizer: keras.optimizers.Optimizer) -> None:
        self.model, self.optimizer = model, optimizer

    def train_step(self, images: Any) -> dict[str, Any]:
        def objective() -> Any:
            parts = losses(images, self.model(images, training=True))
            return sum(parts), parts

        loss, (reconstruction, divergence) = self.minimize(objective, self.optimizer, self.model)
        return {"loss": loss, "reconstruction": reconstruction, "divergence": divergence}


def losses(images: Any, outputs: Any) -> tuple[Any, Any]:
    """Return the two terms of the bound, means over the batch of sums over an example."""
    logits, mean, log_variance = outputs
    pixels = ops.softplus(logits) - images * logits
    divergence = ops.square(mean) + ops.exp(log_variance) - log_variance - 1
    return ops.mean(ops.sum(pixels, axis=-1)), ops.mean(ops.sum(divergence, axis=-1)) / 2


class VAE(OneObjective):
    """Two losses and one draw of random numbers a step."""

    name = "vae"
    title = "variational autoencoder"
    rows = 8 * 1797

    def data(self, rows: int | None = None) -> Any:
        return super().data(rows)[0]

    def model(self) -> keras.Model:
        return _built(Autoencoder())

    def step(self) -> pg.Step:
        return AutoencoderStep(self.model(), self.optimizer())

    def fitted(self, **compiled: Any) -> keras.Model:
        model = _built(FittedAutoencoder())
        model.compile(self.optimizer(), **compiled)
        return model

    def inputs(self, batch: Any) -> Any:
        return batch

    def objective(self, batch: Any, outputs: Any) -> tuple[Any, Any]:
        parts = losses(batch, outputs)
        return sum(parts), parts

    def metrics(self) -> list[keras.Metric]:
        return [keras.metrics.Mean(name=name) for name in ("loss", "reconstruction", "divergence")]

    def updates(self, batch: Any, loss: Any, aux: Any) -> list[tuple[Any, ...]]:
        return [(loss,), (aux[0],), (aux[1],)]


def _built(model: keras.Model) -> keras.Model:
    model.build((None, 64))
    return model
