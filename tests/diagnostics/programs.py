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


def weighted() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return data for a regression, and a weight for each example."""
    x, y = numbers()
    return x, y, np.random.default_rng(2).uniform(0.5, 2.0, size=ROWS).astype("float32")


def words(padded: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return sentences of up to 6 words of 9, `(64, 6)`, 0 at their ends, and a class a word."""
    random = np.random.default_rng(3)
    ids = random.integers(1, 9, size=(ROWS, 6))
    if padded:
        ids[np.arange(6) >= random.integers(2, 7, size=(ROWS, 1))] = 0
    return ids.astype("int32"), (ids % CLASSES).astype("int32")


def reader(mask_zero: bool = True, known: int = 9) -> keras.Model:
    """Return a model that names a class for each word."""
    embedding = kl.Embedding(known, 4, mask_zero=mask_zero)
    return keras.Sequential([keras.Input((6,), dtype="int32"), embedding, kl.Dense(CLASSES)])


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


def compiled(
    network: keras.Model, loss: Any, metrics: Any = (), optimizer: Any = None
) -> keras.Model:
    network.compile(optimizer or adam(), loss, metrics=list(metrics))
    return network


def supervised(
    network: keras.Model, loss: Any, metrics: Any = (), optimizer: Any = None
) -> pg.Step:
    return pg.Supervised(network, optimizer or adam(), loss, list(metrics))


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
        after: Called with the Step and the loss after each update.
        before: Called with the Step before each update.
        change: Makes of a list of gradients another one, before they are applied.
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
        before: Any = None,
        change: Any = None,
        **options: Any,
    ) -> None:
        self.model, self.loss, self.options = network, loss, options
        self.training, self.testing, self.measures = training, testing, measures
        self.metrics, self.after = list(metrics), after
        self.before, self.change = before, change
        self.optimizer = optimizer or adam()

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y, *weights = batch
        if self.before is not None:
            self.before(self)

        def objective() -> Any:
            y_pred = self.model(x, training=self.training)
            return self.loss(y, y_pred, *weights), y_pred

        if self.change is None:
            loss, y_pred = self.minimize(objective, self.optimizer, self.model, **self.options)
        else:
            gradients = self.gradients(objective, self.model)
            changed = self.change(list(gradients.values))
            self.apply(self.optimizer, list(zip(changed, gradients.variables, strict=True)))
            loss, y_pred = gradients.returned
        if self.after is not None:
            self.after(self, loss)
        self.measure(y, y_pred)
        return {"loss": loss}

    def test_step(self, batch: Any) -> dict[str, Any]:
        x, y, *weights = batch
        y_pred = self.model(x, training=self.testing)
        self.measure(y, y_pred)
        return {"loss": self.loss(y, y_pred, *weights)}

    def measure(self, y: Any, y_pred: Any) -> None:
        for metric in self.metrics if self.measures else ():
            metric.update_state(y, y_pred)


def codes(target: Any, data: Any, **arguments: Any) -> list[str]:
    """Return the codes of what `check` finds."""
    return [finding.code for finding in pg.check(target, data, **arguments)]
