"""PG204 by the values of the user's own loss: ids that it takes for rows of classes."""

from __future__ import annotations

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._tasks import Task, tasks_of


def check(evidence: Evidence) -> list[Finding]:
    """Exchange the classes of predictions, and compare the loss."""
    return [_finding(task) for task in tasks_of(evidence) if _is_taken_for_rows(task)]


def _is_taken_for_rows(task: Task) -> bool:
    """Return whether ids only weigh the examples: they broadcast against the classes."""
    known, own = task.labels, task.own
    if known is None or own is None or known.kind not in ("ids", "binary"):
        return False
    units = task.pred.shape[-1] if task.pred.ndim > 1 else 1
    if units < 2 or task.is_by_value or units <= known.high:
        return False
    is_of_classes = task.head.activation == "softmax" or own.takes_logits()
    return is_of_classes and own.ignores_classes()


def _finding(task: Task) -> Finding:
    return Finding(
        code="PG204",
        name="LabelEncodingError",
        severity="warning",
        happened=f"The labels are {task.labels}, one for each example, and the loss is the same "
        f"where the {task.pred.shape[-1]} classes of the predictions are exchanged.",
        expected="a loss that depends on the prediction for the class that the label names.",
        fix="encode the labels as rows: `keras.ops.one_hot(y, num_classes)`, or use "
        "`keras.losses.SparseCategoricalCrossentropy()`.",
    )
