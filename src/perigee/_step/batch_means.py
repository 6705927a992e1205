"""Means of batch means, and what they are if each example counts the same."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras

from perigee._listening import Talk, listening

_APART = 1e-5
"""Relative difference above which two means are not equal: sums in float32 differ by less."""


def is_batch_mean(metric: keras.Metric, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether an update gives a `Mean` one number for the batch, without its size."""
    weight = kwargs.get("sample_weight", args[1] if len(args) > 1 else None)
    given = args[0] if args else kwargs.get("values")
    is_number = isinstance(given, int | float) or getattr(given, "shape", None) == ()
    return type(metric) is keras.metrics.Mean and weight is None and is_number


@dataclass(frozen=True, slots=True)
class BatchMean:
    """A mean of batch means that is not the mean over the examples.

    Attributes:
        path: The path of the metric.
        value: Its value.
        exact: The mean in which each example counts the same.
    """

    path: str
    value: float
    exact: float


class BatchMeans:
    """Keeps the mean over the examples beside each `Mean` that is given one number per batch."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[keras.Metric, keras.metrics.Mean]] = {}
        self._told: set[str] = set()
        self._found: list[BatchMean] = []

    def keep(self, path: str, metric: keras.Metric) -> None:
        """Keep the mean over the examples of what a metric is given from now on."""
        if path not in self._kept or self._kept[path][0] is not metric:
            self._kept[path] = metric, keras.metrics.Mean(name="exact")

    @property
    def variables(self) -> dict[str, Any]:
        """Its variables, by name."""
        return {
            f"{path}/{variable.name}": variable
            for path, (_, exact) in self._kept.items()
            for variable in exact.variables
        }

    def reset(self) -> None:
        """Begin a pass."""
        for _, exact in self._kept.values():
            exact.reset_state()

    @contextmanager
    def listening(self, examples: Any) -> Generator[None]:
        """Take in what the metrics are given within.

        Args:
            examples: The number of examples of the batch, shape `()`, or `None` if unknown.
        """

        def updates(
            metric: keras.Metric,
            exact: keras.metrics.Mean,
            original: Any,
            *args: Any,
            **kwargs: Any,
        ) -> Talk:
            if is_batch_mean(metric, args, kwargs):
                exact.update_state(args[0] if args else kwargs["values"], examples)
            yield

        with ExitStack() as stack:
            for metric, exact in self._kept.values():
                hears = partial(updates, metric, exact)
                stack.enter_context(listening(metric, "update_state", hears))
            yield

    def compare(self, metrics: Iterable[keras.Metric]) -> None:
        """Look for means that differ, each once. It waits for the device.

        Args:
            metrics: Those that a pass has updated, at its end.
        """
        updated = {id(metric) for metric in metrics}
        for path, (metric, exact) in self._kept.items():
            if path not in self._told and id(metric) in updated:
                value, meant = float(metric.result()), float(exact.result())
                if abs(value - meant) > _APART * abs(meant):
                    self._told.add(path)
                    self._found.append(BatchMean(path, value, meant))

    def taken(self) -> list[BatchMean]:
        """Return what `compare` has found since the last call."""
        found, self._found = self._found, []
        return found

    def names(self, metrics: Mapping[str, keras.Metric]) -> list[str]:
        """Return under which names batch means are logged, of metrics by these names."""
        kept = {id(metric) for metric, _ in self._kept.values()}
        return [name for name, metric in metrics.items() if id(metric) in kept]
