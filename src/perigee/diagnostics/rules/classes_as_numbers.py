"""PG227, ClassesAsNumbers: classes given to a loss for numbers, or for independent labels.

Class ids are names, not amounts: a squared error treats class 2 as lying between 1 and 3, and one
output cannot name three classes. One-hot rows are exclusive classes, for which softmax and a
categorical crossentropy fit better than a sigmoid for each. It is a warning where several signs
agree: labels that look like classes, and an accuracy among the metrics, or a last activation that
is for classes. Integers alone may be counts or grades, and a squared error of probabilities is the
Brier score, so then it is a hint, or nothing. `ignore=["PG227"]` turns it off.

How sure: a warning where labels, head, loss and accuracy agree, else a hint: that labels are
classes is inferred from their values.
"""

from __future__ import annotations

from typing import Literal

from perigee._step.losses import BINARY
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._tasks import OF_NUMBERS, Labels, Task, tasks_of

_OF_CLASSES = ("sigmoid", "softmax", "hard_sigmoid")


def check(evidence: Evidence) -> list[Finding]:
    """Examine labels, heads, losses and accuracies together."""
    for task in tasks_of(evidence):
        labels = task.labels
        if labels is None or task.is_of_inputs or "brier" in task.given_name.lower():
            continue
        severity = _of_numbers(task, labels) or _of_independent(task, labels)
        if severity is not None:
            return [_finding(severity, task, labels)]
    return []


_Severity = Literal["warning", "hint"] | None


def _of_numbers(task: Task, labels: Labels) -> _Severity:
    """Return how sure it is that classes are given to a loss for numbers."""
    if task.loss.kind not in OF_NUMBERS or not task.is_by_value:
        return None
    if labels.kind == "ids":
        is_bounded = task.head.activation in _OF_CLASSES
        return "warning" if task.accuracies or is_bounded else "hint"
    if labels.kind in ("binary", "one-hot") and task.accuracies:
        return "warning"
    is_linear = task.head.activation == "linear"
    return "hint" if labels.kind == "one-hot" and is_linear else None


def _of_independent(task: Task, labels: Labels) -> _Severity:
    """Return how sure it is that exclusive classes are given to a loss for independent labels."""
    if task.loss.kind not in BINARY or labels.kind != "one-hot":
        return None
    activation = task.head.activation
    if activation == "softmax" and labels.classes == 2:
        return None  # both losses are the same then
    return "hint" if activation == "unknown" else "warning"


def _finding(severity: Literal["warning", "hint"], task: Task, labels: Labels) -> Finding:
    signs = f", measured by {' and '.join(map(repr, task.accuracies))}" if task.accuracies else ""
    ids = labels.kind == "ids"
    is_binary = labels.kind == "binary"
    return Finding(
        code="PG227",
        name="ClassesAsNumbers",
        severity=severity,
        happened=f"The labels are {labels}; the head is {task.head}, the loss {task.loss.name}"
        f"{signs}.",
        expected="labels 0 and 1 with one sigmoid unit and a binary crossentropy."
        if is_binary
        else "a unit for each of the exclusive classes, and a categorical crossentropy.",
        fix='use `activation="sigmoid"` and BinaryCrossentropy, unless the squared error of a '
        "probability (the Brier score) is meant."
        if is_binary
        else f"end the model with `Dense({labels.classes + int(labels.low if ids else 0)}, "
        'activation="softmax")`, and use '
        + ("SparseCategoricalCrossentropy" if ids else "CategoricalCrossentropy")
        + (", unless the order of the integers means something." if ids else "."),
    )
