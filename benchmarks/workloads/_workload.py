"""What a workload gives to each way of training it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import keras

import perigee as pg
from benchmarks.data import digits


class ImperativeStep(Protocol):
    """A training step written by hand on TensorFlow (for a `tf.function`) or on torch."""

    metrics: list[keras.Metric]

    def update(self, batch: Any) -> Any:
        """Update the weights on one batch, and return what `record` takes."""
        ...

    def record(self, values: Any) -> None:
        """Update the metrics."""
        ...


class JaxStep(Protocol):
    """A training step written by hand on JAX: a pure function of a state."""

    metrics: list[keras.Metric]

    def state(self) -> Any:
        """Return the first state, a dictionary whose `"metrics"` are the metrics' variables."""
        ...

    def update(self, state: Any, batch: Any, records: bool = True) -> Any:
        """Return the state after one batch; without `records`, metrics stay as they are."""
        ...


class Workload(ABC):
    """One thing to train.

    Attributes:
        name: Its name on the command line and in file names.
        title: Its name in tables.
        rows: Rows of an epoch.
        micro_batches: Batches an update.
        headline: The logged value that shows whether it learns.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    rows: int
    micro_batches: int = 1
    headline: ClassVar[str] = "loss"

    def data(self, rows: int | None = None) -> Any:
        """Return the arrays of an epoch: `(images, labels)`, or `images` alone."""
        return digits(rows or self.rows)

    @abstractmethod
    def step(self) -> pg.Step:
        """Return the step as a user of Perigee writes it."""

    @abstractmethod
    def fitted(self, **compiled: Any) -> keras.Model:
        """Return the model as a user of `fit` compiles it.

        Args:
            **compiled: `steps_per_execution` and `jit_compile`, or nothing for Keras's defaults.
        """

    @abstractmethod
    def tensorflow_step(self) -> ImperativeStep:
        """Return the step as the tutorials write it on TensorFlow."""

    @abstractmethod
    def jax_step(self) -> JaxStep:
        """Return the step as the guides write it on JAX."""

    @abstractmethod
    def torch_step(self) -> ImperativeStep:
        """Return the step as the guides write it on torch."""
