"""PG133, LargeLoss: an initial loss far above that of a random guess.

An untrained model has a crossentropy near log K for K classes. If it is far higher, the logits are
too large: the initial weights of the last layer are too wide, or the inputs are far from unit
scale. So are predictions of numbers that begin far beyond all labels, as by a bias of another
table. A loss that smaller weights leave as it is, as of cosines times a scale (ArcFace), is left
alone. It is a hint where most other draws of the weights begin lower, and where layers of your own
gather statistics in training, which begin far from the data.

How sure: a warning or, as said, a hint, shown by the loss on one batch: above four times that of a
guess; or by predictions twenty times larger than all labels.
"""

from __future__ import annotations

import numpy as np

from perigee._step.losses import computation_of
from perigee._step.state import preserved, restore, snapshot
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import statistics_of
from perigee.diagnostics._recording import Recording
from perigee.diagnostics._tasks import OF_NUMBERS

_TIMES = 4.0
_CATEGORICAL = {"sparse_categorical_crossentropy", "categorical_crossentropy"}
_FEWEST_ROWS = 8
_SMALLER, _STAYS = 0.25, 0.9
"""What weights are multiplied by, and which part of the loss is left where that matters little."""
_BEYOND = 20.0
"""How many times larger than all labels predictions are."""


def check(evidence: Evidence) -> list[Finding]:
    """Compare the crossentropies with that of a random guess, and predictions with the labels."""
    for shown, expected, fix in (
        (
            _large,
            f"a loss below {_TIMES:g} times that of a random guess.",
            "use smaller initial weights in the last layer, and scale the inputs.",
        ),
        (
            _beyond,
            "predictions of the scale of the labels.",
            "use smaller initial weights, a bias near the mean of the labels, and scale the "
            "inputs.",
        ),
    ):
        happened = shown(evidence.training)
        if happened is None or (shown is _large and _is_of_any_weights(evidence)):
            continue
        is_by_chance = evidence.is_by_chance(lambda other, shown=shown: shown(other) is not None)
        return [
            Finding(
                code="PG133",
                name="LargeLoss",
                severity="hint" if is_by_chance or statistics_of(evidence) else "warning",
                happened=happened + (", for these weights." if is_by_chance else "."),
                expected=expected,
                fix=fix,
            )
        ]
    return []


def _is_of_any_weights(evidence: Evidence) -> bool:
    """Return whether smaller weights leave the loss where it is, as cosines times a scale do.

    Single numbers and constrained weights stay: the scale may be one of them.
    """
    weights = [v for v in evidence.tracked.of_kind("trainable") if len(v.shape)]
    weights = [v for v in weights if getattr(v, "constraint", None) is None]
    with preserved(evidence.tracked.state):
        restore(weights, [(_SMALLER * value).astype(value.dtype) for value in snapshot(weights)])
        smaller = evidence.training_now()
    pairs = zip(evidence.training.losses, smaller.losses, strict=False)
    known = [
        (computation_of(seen.by), seen, other)
        for seen, other in pairs
        if seen.y_pred.shape == other.y_pred.shape
    ]
    return bool(known) and all(
        what.mean(other.y_true, other.y_pred) > _STAYS * what.mean(seen.y_true, seen.y_pred)
        for what, seen, other in known
    )


def _large(recording: Recording) -> str | None:
    """Return which crossentropy is far above that of a random guess; `None` for none."""
    for seen in recording.losses:
        what = computation_of(seen.by)
        is_binary = what.kind == "binary_crossentropy"
        if not is_binary and what.kind not in _CATEGORICAL:
            continue
        if not _is_known(seen.y_pred):
            continue
        classes = 2 if is_binary else seen.y_pred.shape[what.axis]
        value = what.mean(seen.y_true, seen.y_pred)
        if classes >= 2 and np.isfinite(value) and value > _TIMES * np.log(classes):
            return (
                f"{what.name} begins at {value:.3g}, where a random guess among {classes} "
                f"classes has {np.log(classes):.3g}"
            )
    return None


def _beyond(recording: Recording) -> str | None:
    """Return where predictions of numbers begin far beyond all labels; `None` for nowhere."""
    for seen in recording.losses:
        labels = seen.y_true
        if computation_of(seen.by).kind not in OF_NUMBERS or not _is_known(seen.y_pred):
            continue
        if labels.dtype.kind not in "fiub" or not labels.size or not np.isfinite(labels).all():
            continue
        low, high = float(labels.min()), float(labels.max())
        typical = float(np.median(np.abs(seen.y_pred.astype("float64"))))
        if low != high and typical > _BEYOND * max(1.0, -low, high):
            return f"Predictions begin at {typical:.3g}, where the labels are {low:.3g}..{high:.3g}"
    return None


def _is_known(y_pred: np.ndarray) -> bool:
    return y_pred.ndim > 0 and len(y_pred) >= _FEWEST_ROWS and bool(np.isfinite(y_pred).all())
