"""PG325, LargeTargets: regression targets that are far from unit scale.

The initial outputs of a model are near unit scale. Targets in the thousands take long to reach, and
the gradients are as large. Scale the targets, and scale the predictions back.

How sure: a warning, shown by the deviation of the targets: above 1,000.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._tasks import OF_NUMBERS, tasks_of

_WIDEST = 1e3
_APART = 10.0
"""How many times as wide as predictions targets are that need not have the shape of an output."""


def check(evidence: Evidence) -> list[Finding]:
    """Examine the scale of what predictions are to reach."""
    for what, targets in [*_like_outputs(evidence), *_in_losses(evidence)]:
        if np.isfinite(targets).all() and np.std(targets, dtype="float64") >= _WIDEST:
            return [
                Finding(
                    code="PG325",
                    name="LargeTargets",
                    severity="warning",
                    happened=f"The targets {what} have a standard deviation of "
                    f"{np.std(targets, dtype='float64'):.3g}.",
                    expected="targets near unit scale.",
                    fix="scale the targets, and scale the predictions back.",
                )
            ]
    return []


def _like_outputs(evidence: Evidence) -> Iterator[tuple[str, np.ndarray]]:
    """Yield floating labels that have the shape of an output."""
    shapes = {output.shape[1:] for call in evidence.trained for output in call.outputs}
    for index, column in evidence.labels:
        if column.dtype.kind == "f" and column.shape[1:] in shapes:
            yield f"batch[{index}]", column


def _in_losses(evidence: Evidence) -> Iterator[tuple[str, np.ndarray]]:
    """Yield labels of any shape and dtype that a loss takes the distance to, from far away."""
    for task in tasks_of(evidence):
        is_of_numbers = task.loss.kind in OF_NUMBERS and task.is_by_value and not task.is_of_inputs
        if is_of_numbers and _APART * np.std(task.pred) < np.std(task.true, dtype="float64"):
            yield f"of {task.head.layer!r}", task.true
