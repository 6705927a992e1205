"""A problem of the conformance suite: a Step, data and how closely frameworks must agree."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

ROWS, BATCH = 70, 16
"""Most problems draw five batches an epoch, the last of 6 rows."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two frameworks may part.

    Attributes:
        first: Of logged values in the first five steps, relative.
        later: Of logged values after them and of each epoch, relative.
        weights: Of weights, optimizer slots and other variables at the end, absolute.
    """

    first: float = 1e-5
    later: float = 1e-5
    weights: float = 1e-5


@dataclass(frozen=True, slots=True)
class Problem:
    """One row of the table.

    Attributes:
        name: What it is called.
        make_step: Builds the Step with weights that do not depend on the framework.
        data: For `fit`.
        fit: Further arguments of `fit`.
        tolerance: How far two frameworks may part.
        is_random: Whether the step draws random numbers, which differ between frameworks: such a
            row is compared with its own repetition, bit by bit.
        planted: The Step with a bug in it, by the name of the bug; the comparison must see each.
        rate_factor: How far off a learning rate must be seen, except where a schedule gives it.
    """

    name: str
    make_step: Callable[[], Any]
    data: Any
    fit: Mapping[str, Any] = field(default_factory=dict)
    tolerance: Tolerance = field(default_factory=Tolerance)
    is_random: bool = False
    planted: Mapping[str, Callable[[], Any]] = field(default_factory=dict)
    rate_factor: float = 1.001


def fix_weights(*layers: keras.Layer, seed: int = 0) -> None:
    """Give kernels and embeddings values from NumPy's generator; other weights begin alike."""
    random = np.random.default_rng(seed)
    for layer in layers:
        for weight in layer.trainable_weights:
            if len(weight.shape) > 1:
                scale = 1.0 / np.sqrt(weight.shape[0])
                weight.assign(random.normal(scale=scale, size=weight.shape).astype("float32"))


def dense_model(
    inputs: int, *units: int, activation: str = "tanh", name: str, **last: Any
) -> keras.Sequential:
    """Return a fully connected model, its weights fixed; `last` goes to its last layer."""
    hidden = [keras.layers.Dense(n, activation=activation) for n in units[:-1]]
    out = keras.layers.Dense(units[-1], **last)
    model = keras.Sequential([keras.Input((inputs,)), *hidden, out], name=name)
    fix_weights(model)
    return model


def points(rows: int = ROWS, inputs: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return points `(rows, inputs)`, and a smooth function of them with noise, `(rows, 1)`."""
    random = np.random.default_rng(1)
    x = random.normal(size=(rows, inputs))
    y = np.sin(x[:, :1]) + 0.5 * x[:, 1:2] + 0.1 * random.normal(size=(rows, 1))
    return x.astype("float32"), y.astype("float32")


def clusters(rows: int = ROWS, inputs: int = 4, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Return points around a center for each class, `(rows, inputs)`, and the classes `(rows,)`."""
    random = np.random.default_rng(2)
    labels = random.integers(classes, size=rows)
    x = random.normal(size=(classes, inputs))[labels] + 0.7 * random.normal(size=(rows, inputs))
    return x.astype("float32"), labels.astype("int32")
