"""PG133, LargeLoss: an initial loss far above that of a random guess.

An untrained model has a crossentropy near log K for K classes. If it is far higher, the logits are
too large: the initial weights of the last layer are too wide, or the inputs are far from unit
scale. So are predictions of numbers that begin far beyond all labels, as by a bias of another
table.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers as kl

from perigee._step.losses import computation_of
from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._tasks import OF_NUMBERS

_TIMES = 4.0
_CATEGORICAL = {"sparse_categorical_crossentropy", "categorical_crossentropy"}
_FEWEST_ROWS = 8
_BEYOND = 20.0
"""How many times larger than all labels predictions are."""


def check(evidence: Evidence) -> list[Finding]:
    """Compare the crossentropies with that of a random guess."""
    for seen in evidence.training.losses:
        what = computation_of(seen.by)
        is_binary = what.kind == "binary_crossentropy"
        if seen.y_pred.ndim == 0 or len(seen.y_pred) < _FEWEST_ROWS or _keeps_state(evidence):
            continue
        if not np.isfinite(seen.y_pred).all():
            continue
        if what.kind in OF_NUMBERS and (said := _beyond(seen.y_true, seen.y_pred)):
            return [_of_numbers(said)]
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
                severity="warning",
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


def _of_numbers(said: str) -> Finding:
    return Finding(
        code="PG133",
        name="LargeLoss",
        severity="warning",
        happened=f"Predictions {said}.",
        expected="predictions of the scale of the labels.",
        fix="use smaller initial weights, a bias near the mean of the labels, and scale the "
        "inputs.",
    )


def _keeps_state(evidence: Evidence) -> bool:
    """Return whether a layer of the user's own learns statistics, so that the start says little."""
    return any(
        evidence.training.changed(variable)
        for layer in evidence.trained_layers
        if not isinstance(layer, kl.BatchNormalization) and list(nested_layers(layer)) == [layer]
        for variable in layer.non_trainable_variables
        if "float" in keras.backend.standardize_dtype(variable.dtype)
    )
