"""Small programs for tests of rules: a healthy one, and the same with one line changed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import layers as kl
from keras import losses, ops

import perigee as pg

ROWS, FEATURES, CLASSES = 64, 5, 3


def inputs() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(ROWS, FEATURES)).astype("float32")


def numbers() -> tuple[np.ndarray, np.ndarray]:
    """Return data for a regression: `(64, 5)` and `(64, 1)`."""
    x = inputs()
    return x, (x[:, :1] - 0.5 * x[:, 1:2]).astype("float32")


def classes() -> tuple[np.ndarray, np.ndarray]:
    """Return data for three classes, as ids."""
    x = inputs()
    return x, x[:, :CLASSES].argmax(axis=1).astype("int32")


def rows() -> tuple[np.ndarray, np.ndarray]:
    """Return data for three classes, as rows with a single 1."""
    x, y = classes()
    return x, np.eye(CLASSES, dtype="float32")[y]


def answers() -> tuple[np.ndarray, np.ndarray]:
    """Return data for yes or no, `(64, 1)`."""
    x = inputs()
    return x, (x[:, :1] > 0).astype("float32")


def model(*layers: Any) -> keras.Model:
    return keras.Sequential([keras.Input((FEATURES,)), *layers])


def small(units: int, head: str | None = None, hidden: str = "relu") -> keras.Model:
    return model(kl.Dense(8, activation=hidden), kl.Dense(units, activation=head))


def adam(rate: float = 1e-2) -> keras.optimizers.Optimizer:
    return keras.optimizers.Adam(rate)


def sparse(from_logits: bool = True) -> losses.Loss:
    return losses.SparseCategoricalCrossentropy(from_logits=from_logits)


def squares(y: Any, y_pred: Any) -> Any:
    return ops.mean(ops.square(y - y_pred), axis=-1)


def compiled(network: keras.Model, loss: Any, metrics: Any = ()) -> keras.Model:
    network.compile(adam(), loss, metrics=list(metrics))
    return network


def supervised(network: keras.Model, loss: Any, metrics: Any = ()) -> pg.Step:
    return pg.Supervised(network, adam(), loss, list(metrics))


class Own(pg.Step):
    """A step by hand.

    Args:
        network: What is trained.
        loss: A function of labels and predictions.
        training: What the model is told in `train_step`.
        testing: What it is told in `test_step`.
        metrics: What is held.
        measures: Whether the metrics are updated.
        options: Further arguments of `minimize`.
        after: Called with the Step after each update.
    """

    def __init__(
        self,
        network: keras.Model,
        loss: Callable[[Any, Any], Any],
        *,
        training: Any = True,
        testing: Any = False,
        metrics: Any = (),
        measures: bool = True,
        optimizer: Any = None,
        after: Any = None,
        **options: Any,
    ) -> None:
        self.model, self.loss, self.options = network, loss, options
        self.training, self.testing, self.measures = training, testing, measures
        self.metrics, self.after = list(metrics), after
        self.optimizer = optimizer or adam()

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch

        def objective() -> Any:
            y_pred = self.model(x, training=self.training)
            return self.loss(y, y_pred), y_pred

        loss, y_pred = self.minimize(objective, self.optimizer, self.model, **self.options)
        if self.after is not None:
            self.after(self)
        self.measure(y, y_pred)
        return {"loss": loss}

    def test_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        y_pred = self.model(x, training=self.testing)
        self.measure(y, y_pred)
        return {"loss": self.loss(y, y_pred)}

    def measure(self, y: Any, y_pred: Any) -> None:
        for metric in self.metrics if self.measures else ():
            metric.update_state(y, y_pred)


def codes(target: Any, data: Any, **arguments: Any) -> list[str]:
    """Return the codes of what `check` finds."""
    return [finding.code for finding in pg.check(target, data, **arguments)]
