"""Digits told apart: by a dense, a convolutional and a transformer model, and by accumulation."""

from __future__ import annotations

from typing import Any

import keras

import perigee as pg
from benchmarks.data import NUM_CLASSES
from benchmarks.workloads.one_objective import OneObjective


class Classifier(pg.Step):
    """The step that a user of Perigee writes.

    Args:
        model: From images to logits.
        optimizer: Trains it.
        metrics: Take labels and logits.
        logs_loss: Whether the loss is logged.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        metrics: list[keras.Metric],
        logs_loss: bool,
    ) -> None:
        self.model, self.optimizer, self.metrics = model, optimizer, metrics
        self.logs_loss = logs_loss
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def train_step(self, batch: Any) -> dict[str, Any]:
        images, labels = batch

        def objective() -> Any:
            logits = self.model(images, training=True)
            return self.loss(labels, logits), logits

        loss, logits = self.minimize(objective, self.optimizer, self.model)
        for metric in self.metrics:
            metric.update_state(labels, logits)
        return {"loss": loss} if self.logs_loss else {}


class Classification(OneObjective):
    """Images to ten classes.

    Args:
        num_metrics: How many values are logged: none, the loss, its accuracy as well, then top-2
            accuracy, top-3 accuracy and so on.
    """

    def __init__(self, num_metrics: int = 2) -> None:
        self.num_metrics = num_metrics
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def step(self) -> pg.Step:
        return Classifier(
            self.model(), self.optimizer(), self.prediction_metrics(), self.num_metrics > 0
        )

    def fitted(self, **compiled: Any) -> keras.Model:
        settings = {}
        if self.micro_batches > 1:
            settings["gradient_accumulation_steps"] = self.micro_batches
        model = self.model()
        model.compile(
            self.optimizer(**settings), self.loss, metrics=self.prediction_metrics(), **compiled
        )
        return model

    def inputs(self, batch: Any) -> Any:
        return batch[0]

    def objective(self, batch: Any, outputs: Any) -> tuple[Any, Any]:
        return self.loss(batch[1], outputs), outputs

    def metrics(self) -> list[keras.Metric]:
        mean = [keras.metrics.Mean(name="loss")] if self.num_metrics else []
        return [*mean, *self.prediction_metrics()]

    def prediction_metrics(self) -> list[keras.Metric]:
        """Return the metrics that take labels and logits."""
        if self.num_metrics < 2:
            return []
        return [
            keras.metrics.SparseCategoricalAccuracy(name="accuracy"),
            *(
                keras.metrics.SparseTopKCategoricalAccuracy(k, name=f"top_{k}")
                for k in range(2, self.num_metrics)
            ),
        ]

    def updates(self, batch: Any, loss: Any, aux: Any) -> list[tuple[Any, ...]]:
        return [(loss,), *[(batch[1], aux)] * (self.num_metrics - 1)][: self.num_metrics]


class Dense(Classification):
    """Two hidden layers: a step so small that the loop around it is most of its cost."""

    name = "dense"
    title = "dense"
    rows = 8 * 1797

    def model(self) -> keras.Model:
        return keras.Sequential(
            [
                keras.Input((64,)),
                keras.layers.Dense(128, activation="relu"),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(NUM_CLASSES),
            ]
        )


class Accumulation(Dense):
    """The dense model, updated once every four batches; the rows make whole updates."""

    name = "accumulation"
    title = "dense, 4 micro-batches an update"
    rows = 14 * 4 * 256
    micro_batches = 4


class Convolutional(Classification):
    """Two convolutions over the digits as 8 by 8 images, and a dense head."""

    name = "convolutional"
    title = "small convolutional net"
    rows = 2 * 1797

    def model(self) -> keras.Model:
        return keras.Sequential(
            [
                keras.Input((64,)),
                keras.layers.Reshape((8, 8, 1)),
                keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
                keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
                keras.layers.MaxPooling2D(),
                keras.layers.Flatten(),
                keras.layers.Dense(64, activation="relu"),
                keras.layers.Dense(NUM_CLASSES),
            ]
        )


class Positions(keras.layers.Layer):
    """Adds a learned vector to each token."""

    def build(self, shape: tuple[int | None, ...]) -> None:
        self.table = self.add_weight(shape=shape[1:], initializer="random_normal", name="table")

    def call(self, tokens: Any) -> Any:
        return tokens + self.table


class Transformer(Classification):
    """A transformer encoder of two blocks over the eight rows of pixels, without dropout."""

    name = "transformer"
    title = "small transformer encoder"
    rows = 2 * 1797

    def model(self) -> keras.Model:
        width, heads, blocks = 32, 4, 2
        inputs = keras.Input((64,))
        tokens = keras.layers.Reshape((8, 8))(inputs)
        x = keras.layers.Dense(width)(tokens)
        x = Positions()(x)
        for _ in range(blocks):
            normed = keras.layers.LayerNormalization()(x)
            x = x + keras.layers.MultiHeadAttention(heads, width // heads)(normed, normed)
            normed = keras.layers.LayerNormalization()(x)
            hidden = keras.layers.Dense(2 * width, activation="gelu")(normed)
            x = x + keras.layers.Dense(width)(hidden)
        x = keras.layers.GlobalAveragePooling1D()(keras.layers.LayerNormalization()(x))
        return keras.Model(inputs, keras.layers.Dense(NUM_CLASSES)(x))
