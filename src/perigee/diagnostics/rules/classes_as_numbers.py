"""PG227, ClassesAsNumbers: classes given to a loss for numbers, or for independent labels.

Class ids are names, not amounts: a squared error treats class 2 as lying between 1 and 3, and one
output cannot name three classes. One-hot rows are exclusive classes, for which softmax and a
categorical crossentropy fit better than a sigmoid for each. It is a warning where several signs
agree: labels that look like classes, and an accuracy among the metrics, or a last activation that
is for classes, or inputs that lie in heaps, one for each label, where the labels of heaps beside
each other are far apart, or labels that are the next of the ids that an `Embedding` looks up.
Integers alone may be counts or grades, and a squared error of probabilities is the Brier score, so
then it is a hint, or nothing. `ignore=["PG227"]` turns it off.

How sure: a warning where labels, head, loss and accuracy agree, else a hint: that labels are
classes is inferred from their values.
"""

from __future__ import annotations

from typing import Literal

import keras
import numpy as np

from perigee._step.losses import BINARY
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._tasks import OF_NUMBERS, Labels, Task, tasks_of

_OF_CLASSES = ("sigmoid", "softmax", "hard_sigmoid")
_FEW = 20
"""More integers are usually amounts, such as ages: only data can show that they are classes."""

_MOST_ROWS, _MOST_VALUES, _ROWS_EACH = 600, 4_000_000, 6
_ALIKE, _BESIDE = 0.8, 0.5
"""The least part of nearest rows that have the same label; and how often, at most, the nearest with
another label has the next one, from by chance (0) to always (1), as with amounts."""
_FOLLOW = 0.9
"""The least part of labels that are the next ids of a sequence."""


def check(evidence: Evidence) -> list[Finding]:
    """Examine labels, heads, losses and accuracies together."""
    for task in tasks_of(evidence):
        labels = task.labels
        if labels is None or task.is_of_inputs or "brier" in task.given_name.lower():
            continue
        severity = _of_numbers(evidence, task, labels) or _of_independent(task, labels)
        if severity is not None:
            return [_finding(severity, task, labels)]
    return []


_Severity = Literal["warning", "hint"] | None


def _of_numbers(evidence: Evidence, task: Task, labels: Labels) -> _Severity:
    """Return how sure it is that classes are given to a loss for numbers."""
    if task.loss.kind not in OF_NUMBERS or not task.is_by_value:
        return None
    if labels.kind == "ids":
        is_few = labels.classes <= _FEW
        is_for_classes = bool(task.accuracies) or task.head.activation in _OF_CLASSES
        if (is_few and is_for_classes) or _are_next(evidence, task) or _are_heaps(evidence, task):
            return "warning"
        return "hint" if is_few else None
    if labels.kind in ("binary", "one-hot") and task.accuracies:
        return "warning"
    is_linear = task.head.activation == "linear"
    return "hint" if labels.kind == "one-hot" and is_linear else None


def _are_next(evidence: Evidence, task: Task) -> bool:
    """Return whether labels are the next ids of the sequence that an `Embedding` looks up."""
    if not evidence.training.lookups or not evidence.columns:
        return False
    ids, y = evidence.columns[0], task.true
    y = y[..., 0] if y.ndim > 1 and y.shape[-1] == 1 else y
    if ids.dtype.kind not in "iu" or ids.ndim != 2 or ids.shape[1] < 2 or len(ids) != len(y):
        return False
    if y.shape == ids.shape:
        return float(np.mean(y[:, :-1] == ids[:, 1:])) >= _FOLLOW
    if y.ndim != 1:
        return False
    windows = {row.tobytes() for row in ids.astype("int64")}
    moved = np.concatenate([ids[:, 1:], y[:, None]], axis=1).astype("int64")
    return sum(row.tobytes() in windows for row in moved) >= _FOLLOW / 2 * len(ids)


def _are_heaps(evidence: Evidence, task: Task) -> bool:
    """Return whether inputs lie in heaps, one or more for each label, in no order of the labels.

    Then the nearest other row has the same label nearly always, and the nearest with another label
    has any of them. An amount that inputs tell, however crookedly, is next to the next amount.
    """
    y = task.true.reshape(-1)
    inputs = keras.tree.flatten(evidence.batches[0])[:1]
    x = evidence.columns[0] if inputs and evidence.columns else np.empty(0)
    if evidence.training.lookups or len(x) != len(y) or x.ndim < 2 or x.dtype.kind not in "fiu":
        return False
    rows = np.linspace(0, len(y) - 1, min(len(y), _MOST_ROWS)).astype(int)
    x = x[rows].reshape(len(rows), -1).astype("float64")
    y = y[rows].astype("float64")
    labels, counts = np.unique(y, return_counts=True)
    if x.size > _MOST_VALUES or not np.isfinite(x).all() or counts.min() < _ROWS_EACH:
        return False
    spread = x.std(axis=0)
    x = (x[:, spread > 0] - x[:, spread > 0].mean(axis=0)) / spread[spread > 0]
    squares = np.square(x).sum(axis=1)
    apart = squares[:, None] + squares[None] - 2.0 * x @ x.T
    apart[apart < 1e-9 * max(float(squares.max(initial=0.0)), 1e-9)] = np.inf  # the row, its copies
    if not np.isfinite(apart).any(axis=1).all():
        return False
    is_other = y[:, None] != y[None]
    alike = np.array([np.mean(y[apart.argmin(axis=1)] == y, where=y == one) for one in labels])
    nearest = np.where(is_other, apart, np.inf).argmin(axis=1)
    is_beside = np.abs(y[:, None] - y[None]) == 1.0
    beside = float(np.mean(np.abs(y[nearest] - y) == 1.0))
    chance = float(is_beside.sum() / is_other.sum())
    return bool(alike.min() >= _ALIKE and beside <= chance + _BESIDE * (1.0 - chance))


def _of_independent(task: Task, labels: Labels) -> _Severity:
    """Return how sure it is that exclusive classes are given to a loss for independent labels."""
    if task.loss.kind not in BINARY or labels.kind != "one-hot":
        return None
    activation = task.head.activation
    if activation == "softmax" and labels.classes == 2:
        return None  # both losses are the same then
    # Each of two classes is the other's opposite: independent labels say the same twice.
    return "hint" if activation == "unknown" or labels.classes == 2 else "warning"


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
