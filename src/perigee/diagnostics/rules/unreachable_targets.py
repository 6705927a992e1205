"""PG226, UnreachableTargets: targets outside the range of the last activation.

A sigmoid returns 0..1, tanh -1..1, a ReLU nothing below 0, and the values of a softmax sum to 1.
For regression use a last layer without activation, or scale the targets. Where the layers do not
tell the range, the outputs do, with weights of any size.

How sure: a warning, shown by the targets of all known rows and the range of the last activation.
"""

from __future__ import annotations

import numpy as np

from perigee._step.losses import BINARY, CATEGORICAL, SPARSE
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._heads import RANGES, reach
from perigee.diagnostics._tasks import OF_NUMBERS, Task, tasks_of

_MARGIN, _SHARE, _MOST_ROWS = 0.05, 0.02, 0.5
_OTHERS = SPARSE | CATEGORICAL | BINARY | {"hinge", "squared_hinge", "categorical_hinge"}
"""Losses whose labels are not what predictions are to become, or have rules of their own."""


def check(evidence: Evidence) -> list[Finding]:
    """Compare targets with the range of the last activation."""
    for task in tasks_of(evidence):
        low, high = _range(evidence, task)
        outside = _outside(task, low, high)
        if outside is None:
            continue
        activation = task.head.activation
        after = f" after {activation}" if activation in RANGES else ", whatever its weights"
        return [
            Finding(
                code="PG226",
                name="UnreachableTargets",
                severity="warning",
                happened=f"{outside} what {task.head.layer!r} can return{after} "
                f"({low:.4g}..{high:.4g}"
                f"{', in rows that sum to 1' if activation == 'softmax' else ''}).",
                expected="targets within the range of the last activation.",
                fix="remove the last activation, or scale the targets into its range.",
            )
        ]
    return []


def _range(evidence: Evidence, task: Task) -> tuple[float, float]:
    """Return what a head can return."""
    is_known = task.head.activation != "unknown" or task.labels is None
    if is_known or task.source is None or task.loss.kind not in OF_NUMBERS:
        return task.head.range
    call, index = task.source
    if call.inputs is None or task.pred.shape != call.outputs[index].shape:
        return task.head.range
    return reach(evidence, call, index)


def _outside(task: Task, low: float, high: float) -> str | None:
    """Return which targets a head cannot return; `None` if it can, or they are no targets."""
    if task.labels is None or not task.is_by_value or task.loss.kind in _OTHERS:
        return None
    if task.loss.is_own and (task.true.dtype.kind != "f" or task.true.ndim != task.pred.ndim):
        return None
    y = task.true.astype("float64")
    margin = _MARGIN
    if (
        task.head.activation not in RANGES
    ):  # what a probe has shown holds for the inputs that it had
        y = y[: len(task.pred)]
        margin *= max(1.0, high - low) if np.isfinite(high - low) else 1.0
    share = float(np.mean((y < low - margin) | (y > high + margin)))
    if share >= _SHARE:
        return f"{share:.0%} of the targets ({y.min():.3g}..{y.max():.3g}) are outside"
    if task.head.activation != "softmax" or not task.has_rows or task.loss.kind not in OF_NUMBERS:
        return None
    sums = y.sum(axis=-1)
    if np.mean(np.abs(sums - 1) > _MARGIN) < _MOST_ROWS:
        return None
    return f"The rows of targets sum to {sums.min():.3g}..{sums.max():.3g}, which is not"
