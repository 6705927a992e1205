"""PG205 over all known rows: labels for which the loss is not defined."""

from __future__ import annotations

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._tasks import Task, tasks_of
from perigee.diagnostics.rules import labels


def check(evidence: Evidence) -> list[Finding]:
    """Check all rows of the labels that each loss was given.

    Raises:
        LabelRangeError: If one is out of range.
    """
    found: list[Finding] = []
    for task in tasks_of(evidence):
        if not task.is_inferred:
            labels.check_range(task.loss, task.true, task.pred.shape)
        elif _is_blind_to_zeros(task):
            found.append(_finding(task))
    return found


def _is_blind_to_zeros(task: Task) -> bool:
    """Return whether the user's loss learns nothing from a label of 0, one of two."""
    known = task.labels
    if known is None or known.kind != "binary" or task.own is None:
        return False
    return task.own.ignores_zeros()


def _finding(task: Task) -> Finding:
    is_hinge = "hinge" in task.loss.kind
    return Finding(
        code="PG205",
        name="LabelRangeError",
        severity="warning",
        happened="The labels are 0 and 1, and the loss is the same for all predictions of examples "
        f"labeled 0{', since it is a ' + task.loss.kind.replace('_', ' ') if is_hinge else ''}.",
        expected="a loss that falls as predictions of either label get better.",
        fix="turn the labels into -1 and 1, or use a loss of Keras: `keras.losses.Hinge()` does so "
        "itself."
        if is_hinge
        else "add a term for the label 0, as in `-(y * log(p) + (1 - y) * log(1 - p))`, or use "
        "`keras.losses.BinaryCrossentropy()`.",
    )
