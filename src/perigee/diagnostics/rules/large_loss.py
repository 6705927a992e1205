"""PG133, LargeLoss: an initial loss far above that of a random guess.

An untrained model has a crossentropy near log K for K classes. If it is far higher, the logits are
too large: the initial weights of the last layer are too wide, or the inputs are far from unit
scale. So are predictions of numbers that begin far beyond all labels, as by a bias of another
table. It is a hint where layers of your own gather statistics in training, which begin far from the
data.

How sure: a warning or, as said, a hint, shown by the loss on one batch: above four times that of a
guess; or by predictions twenty times larger than all labels.
"""

from __future__ import annotations

from typing import Literal

import numpy as np

from perigee._step.losses import computation_of
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import statistics_of
from perigee.diagnostics._tasks import OF_NUMBERS

_TIMES = 4.0
_CATEGORICAL = {"sparse_categorical_crossentropy", "categorical_crossentropy"}
_FEWEST_ROWS = 8
_BEYOND = 20.0
"""How many times larger than all labels predictions are."""


def check(evidence: Evidence) -> list[Finding]:
    """Compare the crossentropies with that of a random guess."""
    severity = "hint" if statistics_of(evidence) else "warning"
    for seen in evidence.training.losses:
        what = computation_of(seen.by)
        is_binary = what.kind == "binary_crossentropy"
        if seen.y_pred.ndim == 0 or len(seen.y_pred) < _FEWEST_ROWS:
            continue
        if not np.isfinite(seen.y_pred).all():
            continue
        if what.kind in OF_NUMBERS and (said := _beyond(seen.y_true, seen.y_pred)):
            return [_of_numbers(said, severity)]
        if not is_binary and what.kind not in _CATEGORICAL:
            continue
        classes = 2 if is_binary else seen.y_pred.shape[what.axis]
        value = what.mean(seen.y_true, seen.y_pred)
        if classes < 2 or not np.isfinite(value) or value <= _TIMES * np.log(classes):
            continue
        return [
            Finding(
                code="PG133",
                name="LargeLoss",
                severity=severity,
                happened=f"{what.name} begins at {value:.3g}, where a random guess among "
                f"{classes} classes has {np.log(classes):.3g}.",
                expected=f"a loss below {_TIMES:g} times that of a random guess.",
                fix="use smaller initial weights in the last layer, and scale the inputs.",
            )
        ]
    return []


def _beyond(y_true: np.ndarray, y_pred: np.ndarray) -> str | None:
    """Return where predictions of numbers begin, if that is far beyond all labels."""
    if y_true.dtype.kind not in "fiub" or not y_true.size or not np.isfinite(y_true).all():
        return None
    low, high = float(y_true.min()), float(y_true.max())
    typical = float(np.median(np.abs(y_pred.astype("float64"))))
    if low == high or typical <= _BEYOND * max(1.0, -low, high):
        return None
    return f"begin at {typical:.3g}, where the labels are {low:.3g}..{high:.3g}"


def _of_numbers(said: str, severity: Literal["hint", "warning"]) -> Finding:
    return Finding(
        code="PG133",
        name="LargeLoss",
        severity=severity,
        happened=f"Predictions {said}.",
        expected="predictions of the scale of the labels.",
        fix="use smaller initial weights, a bias near the mean of the labels, and scale the "
        "inputs.",
    )
