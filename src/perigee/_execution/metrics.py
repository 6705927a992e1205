"""The values that a step logs, taken to the host: rows of single steps, and metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import ops

from perigee import _backends
from perigee._rehearsal.discovery import Rehearsal
from perigee._typing import Tensor


def rows_on_host(rows: Sequence[Tensor]) -> np.ndarray:
    """Return rows of single steps as one array, shape `(steps, columns, 2)`. It waits."""
    return np.stack(_backends.current().to_host(list(rows)))


def logged_metrics(rehearsal: Rehearsal) -> dict[str, float]:
    """Read every metric that the step updates. It waits for the device."""
    values: dict[str, float] = {}
    for name, metric in rehearsal.metrics.items():
        values |= _flat(name, metric.result())
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
