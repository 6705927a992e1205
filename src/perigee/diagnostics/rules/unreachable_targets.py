"""PG226, UnreachableTargets: targets outside the range of the last activation.

A sigmoid returns 0..1, tanh -1..1, a ReLU nothing below 0, and the values of a softmax sum to 1.
For regression use a last layer without activation, or scale the targets.

How sure: a warning, shown by the targets of all known rows and the range of the last activation.
"""

from __future__ import annotations

import numpy as np

from perigee._step.losses import BINARY, CATEGORICAL, SPARSE
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._tasks import OF_NUMBERS, Task, tasks_of

_MARGIN, _SHARE, _MOST_ROWS = 0.05, 0.02, 0.5
_OTHERS = SPARSE | CATEGORICAL | BINARY | {"hinge", "squared_hinge", "categorical_hinge"}
"""Losses whose labels are not what predictions are to become, or have rules of their own."""


def check(evidence: Evidence) -> list[Finding]:
    """Compare targets with the range of the last activation."""
    for task in tasks_of(evidence):
        outside = _outside(task)
        if outside is None:
            continue
        low, high = task.head.range
        return [
            Finding(
                code="PG226",
                name="UnreachableTargets",
                severity="warning",
                happened=f"{outside} what {task.head.layer!r} can return after "
                f"{task.head.activation} ({low:g}..{high:g}"
                f"{', in rows that sum to 1' if task.head.activation == 'softmax' else ''}).",
                expected="targets within the range of the last activation.",
                fix="remove the last activation, or scale the targets into its range.",
            )
        ]
    return []


def _outside(task: Task) -> str | None:
    """Return which targets a head cannot return; `None` if it can, or they are no targets."""
    if task.labels is None or not task.is_by_value or task.loss.kind in _OTHERS:
        return None
    if task.loss.is_own and (task.true.dtype.kind != "f" or task.true.ndim != task.pred.ndim):
        return None
    low, high = task.head.range
    y = task.true.astype("float64")
    share = float(np.mean((y < low - _MARGIN) | (y > high + _MARGIN)))
    if share >= _SHARE:
        return f"{share:.0%} of the targets ({y.min():.3g}..{y.max():.3g}) are outside"
    if task.head.activation != "softmax" or not task.has_rows or task.loss.kind not in OF_NUMBERS:
        return None
    sums = y.sum(axis=-1)
    if np.mean(np.abs(sums - 1) > _MARGIN) < _MOST_ROWS:
        return None
    return f"The rows of targets sum to {sums.min():.3g}..{sums.max():.3g}, which is not"
