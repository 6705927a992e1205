"""Which task a program has, told by its labels, head, loss and metrics together.

| task | labels | head | loss | accuracy |
|---|---|---|---|---|
| yes or no | 0 and 1, one each | one sigmoid unit, or a logit | binary | binary |
| any of several | rows of 0 and 1 | a sigmoid or a logit each | binary | binary |
| one of several, by id | 0 to K-1 | softmax of K, or K logits | sparse categorical | sparse |
| one of several, by row | rows with one 1 | softmax of K, or K logits | categorical | categorical |
| a distribution | rows that sum to 1 | softmax of K, or K logits | categorical, divergence | |
| numbers, counts | all others | what can reach them | of numbers | none |
| reconstruction | the inputs | what can reach them | any of single values | |

Each may also be of sequences and images: then the axes before the last one count as rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import keras
import numpy as np

from perigee._step.losses import Computation, computation_of, kind_of_labels
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._heads import Head, applied, head_of
from perigee.diagnostics._recognized import DISTANCE, Loss, loss_of, loss_of_step
from perigee.diagnostics._recording import Compared, ModelCall

Kind = Literal[
    "binary", "signs", "ids", "one-hot", "multi-label", "distribution", "shares", "numbers"
]

OF_NUMBERS = frozenset({"mean_squared_error", "mean_absolute_error", "huber", "log_cosh", DISTANCE})
"""Losses of distances between numbers."""

_MOST_CLASSES, _FEWEST_ROWS, _MOST_LOOKED_AT = 20, 16, 200_000
_MOST_IDS, _TIMES_EACH = 1000, 5
"""More classes are ids where they are integers by type, and there are so many labels of each."""
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Labels:
    """What labels are.

    Attributes:
        kind: The encoding; `"ids"` are integers from 0 or 1 without a gap, which counts may be too,
            `"shares"` lie between 0 and 1, `"numbers"` are all others.
        low: The smallest one.
        high: The largest one.
        classes: How many there are, by ids or in a row; 0 for numbers.
        fractions: The share of values that are not integers.
        several: The share of rows with more than one 1.
        rows: How many there are.
    """

    kind: Kind
    low: float
    high: float
    classes: int
    fractions: float
    several: float
    rows: int

    def __str__(self) -> str:
        scope = f"{self.low:.4g}..{self.high:.4g}"
        return {
            "binary": "labels 0 and 1",
            "signs": "labels -1 and 1",
            "ids": f"the integers {self.low:g} to {self.high:g}",
            "one-hot": f"rows with a single 1, of {self.classes} classes",
            "multi-label": f"rows of {self.classes} labels 0 and 1, of which several may be 1",
            "distribution": f"shares of {self.classes} classes, which sum to 1",
            "shares": f"numbers between 0 and 1 ({scope})",
            "numbers": f"numbers ({scope})",
        }[self.kind]


def labels_of(y: np.ndarray, has_rows: bool) -> Labels | None:
    """Return what labels are; `None` if they show too little.

    Args:
        y: All known labels.
        has_rows: Whether the last axis holds a value for each class.
    """
    if y.dtype.kind not in "biufV" or y.size == 0:
        return None
    is_integer = y.dtype.kind in "iu"
    y = y.astype("float64")
    y = y.reshape(-1, y.shape[-1]) if has_rows else y.reshape(-1)
    y = y[:: max(1, y.size // _MOST_LOOKED_AT)]
    if not np.isfinite(y).all() or len(y) < 2:
        return None
    low, high = float(y.min()), float(y.max())
    fractions = float(np.mean(y != np.round(y)))
    if low == high:
        return None
    values = np.unique(y) if fractions == 0 else np.empty(0)
    kind: Kind = "shares" if low >= 0 and high <= 1 else "numbers"
    classes, several = 0, 0.0
    if has_rows:
        classes, sums = y.shape[-1], y.sum(axis=-1)
        if len(values) == 2 and low == 0 and high == 1:
            several = float(np.mean(sums > 1))
            is_one = bool((sums == 1).all()) and len(y) >= _FEWEST_ROWS
            kind = "one-hot" if is_one else "multi-label"
        elif kind == "shares" and bool(np.all(np.abs(sums - 1) < _SUM_TOLERANCE)):
            kind = "distribution"
    elif len(values) == 2 and high == 1 and low in (0, -1):
        kind = "binary" if low == 0 else "signs"
    elif (
        2 < len(values) <= (_MOST_IDS if is_integer else _MOST_CLASSES)
        and (len(values) <= _MOST_CLASSES or len(y) >= _TIMES_EACH * len(values))
        and low in (0, 1)
        and high - low + 1 == len(values)
        and len(y) >= _FEWEST_ROWS
    ):
        kind, classes = "ids", len(values)
    return Labels(kind, low, high, classes, fractions, several, len(y))


@dataclass
class Task:
    """Labels, the output that is compared with them, and what compares the two.

    Attributes:
        true: All known labels.
        pred: What the loss was given for the first batch.
        head: What makes it.
        loss: What the loss computes.
        by: The loss.
        is_inferred: Whether the loss was recognized by its values, not by its name.
        accuracies: Kinds of accuracies that are measured of the same output, by metric.
        is_of_inputs: Whether the labels are the inputs of the model, which it reconstructs.
        own: The loss, where the user wrote it and its values can be had.
        source: The call of the model that made the output, and its place among the outputs.
    """

    true: np.ndarray
    pred: np.ndarray
    head: Head
    loss: Computation
    by: Any
    is_inferred: bool
    accuracies: dict[str, str]
    is_of_inputs: bool
    own: Loss | None = None
    source: tuple[ModelCall, int] | None = None

    @cached_property
    def labels(self) -> Labels | None:
        """What the labels are."""
        return labels_of(self.true, self.has_rows)

    @property
    def given_name(self) -> str:
        """The name that the user gave to a loss; empty if none is known."""
        return "" if self.by is None else computation_of(self.by).name

    @property
    def is_by_value(self) -> bool:
        """Whether there is a label for each value of the output."""
        return self.true.size * len(self.pred) == self.pred.size * len(self.true)

    @property
    def has_rows(self) -> bool:
        """Whether the labels have a value for each of several values along the last axis."""
        return self.pred.ndim > 1 and self.pred.shape[-1] > 1 and self.is_by_value


def tasks_of(evidence: Evidence) -> list[Task]:
    """Return the tasks of a step, one for each loss; none where labels or outputs are not found."""
    return evidence.once(_read)


def _read(evidence: Evidence) -> list[Task]:
    found: list[Task] = []
    for seen in evidence.training.losses:
        place = _output_of(evidence, seen.y_pred) if seen.y_pred.ndim else None
        if place is None or not seen.y_true.ndim:
            continue
        head, pred, source = place
        loss, is_inferred = computation_of(seen.by), False
        true, is_of_inputs = _column_of(evidence, seen.y_true)
        task = Task(true, pred, head, loss, seen.by, is_inferred, {}, is_of_inputs, None, source)
        if loss.is_own and _says_something(task):
            task.own, task.is_inferred = loss_of(seen, true), True
            task.loss = task.own.recognized()
        task.accuracies = _accuracies(evidence, task.pred)
        found.append(task)
    return found or _by_hand(evidence)


def _by_hand(evidence: Evidence) -> list[Task]:
    """Return the task of a step that computes its loss itself, for labels after the inputs."""
    batch = evidence.batches[0]
    if not isinstance(batch, tuple) or len(batch) not in (2, 3):
        return []
    if not isinstance(batch[1], np.ndarray) or not batch[1].ndim:
        return []
    calls = [c for c in evidence.trained if len(c.outputs) == 1 and c.inputs is not None]
    true = evidence.answers
    if len(calls) != 1 or len(evidence.trained) != 1 or true is None:
        return []
    pred = calls[0].outputs[0]
    if not true.ndim or not pred.ndim or len(pred) != len(batch[1]):
        return []
    head = head_of(evidence, calls[0], 0)
    is_of_inputs = _are_equal(batch[1], keras.tree.flatten(batch[0])[0])
    own, source = Computation("own", "own"), (calls[0], 0)
    task = Task(true, pred, head, own, None, True, {}, is_of_inputs, None, source)
    if _says_something(task):
        task.own = loss_of_step(evidence, true, calls[0])
        task.loss = task.loss if task.own is None else task.own.recognized()
    task.accuracies = _accuracies(evidence, pred)
    return [task]


def _says_something(task: Task) -> bool:
    """Return whether it matters what a user's own loss computes."""
    labels = task.labels
    return labels is not None and labels.kind not in ("numbers", "shares")


def _output_of(
    evidence: Evidence, given: np.ndarray
) -> tuple[Head, np.ndarray, tuple[ModelCall, int]] | None:
    """Return what makes the predictions that a loss was given, these, and where they are from."""
    places = [(c, i) for c in evidence.trained for i in range(len(c.outputs))]
    for call, index in places:
        if call.outputs[index].shape == given.shape and _are_equal(call.outputs[index], given):
            return head_of(evidence, call, index), given, (call, index)
    for call, index in places:
        if call.outputs[index].size != given.size or given.ndim == 0:
            continue
        head = applied(head_of(evidence, call, index), call.outputs[index], given)
        if head is not None:
            return head, given, (call, index)
    return None


def _column_of(evidence: Evidence, given: np.ndarray) -> tuple[np.ndarray, bool]:
    """Return all known rows of the labels that a loss was given, and whether they are inputs."""
    for index, leaf in reversed(list(enumerate(evidence.leaves))):
        if index < len(evidence.columns) and leaf.size and _are_equal(leaf, given):
            inputs = keras.tree.flatten(evidence.batches[0])[0]
            is_input = index == 0 or (isinstance(inputs, np.ndarray) and _are_equal(inputs, given))
            return np.asarray(evidence.columns[index]), is_input
    return given, False


def _are_equal(a: Any, b: Any) -> bool:
    if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or not a.ndim or not b.ndim:
        return False
    if a.size != b.size or len(a) != len(b) or not {a.dtype.kind, b.dtype.kind} <= set("biufV"):
        return False
    return bool(np.array_equal(a.reshape(-1).astype(b.dtype), b.reshape(-1), equal_nan=True))


def _accuracies(evidence: Evidence, pred: np.ndarray) -> dict[str, str]:
    """Return the kinds of accuracies of one output, by the names of the metrics."""
    return {
        str(one.by.name): accuracy_of(one)
        for one in evidence.training.compared
        if one.y_pred.size == pred.size and accuracy_of(one)
    }


def accuracy_of(seen: Compared) -> str:
    """Return which accuracy a metric is, such as `"binary_accuracy"`; empty if it is none."""
    what = computation_of(seen.by)
    if what.kind == "accuracy_by_shape":
        kind = kind_of_labels(seen.y_true, seen.y_pred) if seen.y_pred.ndim else "binary"
        return "sparse_categorical_accuracy" if kind == "sparse" else f"{kind}_accuracy"
    return what.kind if what.kind.endswith("accuracy") else ""
