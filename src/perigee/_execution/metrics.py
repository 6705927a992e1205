"""The values that a step logs, taken to the host: rows of single steps, and metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._execution.program import Program
from perigee._rehearsal.discovery import Rehearsal
from perigee._typing import Tensor, Tree


def rows_on_host(rows: Sequence[Tensor]) -> np.ndarray:
    """Return rows of single steps as one array, shape `(steps, columns, 2)`. It waits."""
    return np.stack(_backends.current().to_host(list(rows)))


def logged_metrics(rehearsal: Rehearsal) -> dict[str, float]:
    """Read every metric that the step updates. It waits for the device."""
    return _read(rehearsal.metrics, {})


def updated_metrics(program: Program, means: Mapping[str, float]) -> dict[str, float]:
    """Read the metrics that were updated since the epoch began. It waits for the device.

    Args:
        program: What ran.
        means: What its steps returned in the epoch so far: a phase of `alternate` that did not run
            yet, or steps that were all skipped, have none.
    """
    returned = {column.name for column in program.columns if column.kind == "mean"}
    if program.skips and returned and not returned & means.keys():
        return {}
    beside = program.rehearsal.beside
    return _read(
        {
            name: metric
            for name, metric in program.rehearsal.metrics.items()
            if name not in beside or beside[name] & means.keys()
        },
        program.results,
    )


def _read(metrics: Mapping[str, keras.Metric], known: Mapping[str, Tree]) -> dict[str, float]:
    values: dict[str, float] = {}
    for name, metric in metrics.items():
        values |= _flat(name, known[name] if name in known else metric.result())
    return values


def _flat(name: str, result: Any) -> dict[str, float]:
    if isinstance(result, dict):
        flat: dict[str, float] = {}
        for key, value in result.items():
            flat |= _flat(key if name == key else f"{name}/{key}", value)
        return flat
    array = np.asarray(ops.convert_to_numpy(result), dtype=np.float64)
    if array.ndim == 0:
        return {name: float(array)}
    return {f"{name}/{index}": float(value) for index, value in enumerate(array.ravel())}
