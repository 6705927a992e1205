"""PG228, TaskMismatch: labels of another task than the head and the loss are for.

A categorical crossentropy and a softmax are for exclusive classes. Amounts are none: a sparse
crossentropy drops their fractions. Rows in which several labels are 1 are none either: a softmax
gives all labels together a probability of 1. Use a loss for numbers, such as
`keras.losses.MeanSquaredError()`, or a sigmoid for each label with `BinaryCrossentropy`. If it is
meant, pass `ignore=["PG228"]`.

How sure: a warning: the values of all known labels, the last layer and the loss do not fit. It may
be meant.
"""

from __future__ import annotations

from perigee._step.losses import BINARY, CATEGORICAL, SPARSE
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._tasks import Task, tasks_of

_FRACTIONS, _SEVERAL = 0.01, 0.05


def check(evidence: Evidence) -> list[Finding]:
    """Compare labels with the head and the loss."""
    for task in tasks_of(evidence):
        fix = _mismatch(task)
        if fix is not None and not task.is_of_inputs:
            return [
                Finding(
                    code="PG228",
                    name="TaskMismatch",
                    severity="warning",
                    happened=f"The labels are {task.labels}; the head is {task.head}, the loss "
                    f"{task.loss.name}.",
                    expected="a head and a loss for such labels.",
                    fix=fix,
                )
            ]
    return []


def _mismatch(task: Task) -> str | None:
    labels, kind = task.labels, task.loss.kind
    if labels is None:
        return None
    if kind in SPARSE and labels.fractions > _FRACTIONS:
        return "use one unit without activation and MeanSquaredError, or labels that are ids."
    is_exclusive = kind in CATEGORICAL or (kind in BINARY and task.head.activation == "softmax")
    if is_exclusive and labels.kind == "multi-label" and labels.several > _SEVERAL:
        return 'use `activation="sigmoid"` and BinaryCrossentropy.'
    return None
