"""PG133, LargeLoss: a model that is surer of wrong answers than one that knows nothing.

A model that knows nothing has a crossentropy of log K for K classes. Far above it the scores are
too large: last layers that begin with wide weights, or inputs far from unit scale.
"""

from __future__ import annotations

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._losses import mean_value

_TIMES = 4.0
_CATEGORICAL = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
)
_FEWEST_ROWS = 8


def check(evidence: Evidence) -> list[Finding]:
    """Compare what crossentropies were given with a guess at random."""
    for seen in evidence.training.losses:
        is_binary = isinstance(seen.by, keras.losses.BinaryCrossentropy)
        if not is_binary and not isinstance(seen.by, _CATEGORICAL):
            continue
        if len(seen.y_pred) < _FEWEST_ROWS or not np.isfinite(seen.y_pred).all():
            continue
        classes = 2 if is_binary else seen.y_pred.shape[-1]
        base = next(k for k in (*_CATEGORICAL, keras.losses.BinaryCrossentropy) if _is(seen.by, k))
        value = mean_value(seen.by, seen.y_true, seen.y_pred)
        if classes < 2 or not np.isfinite(value) or value <= _TIMES * np.log(classes):
            continue
        return [
            Finding(
                code="PG133",
                name="LargeLoss",
                severity="warning",
                happened=f"{base.__name__} begins at {value:.3g}, where a guess at random among "
                f"{classes} classes has {np.log(classes):.3g}.",
                expected=f"a loss below {_TIMES:g} times that of a guess.",
                fix="begin the last layer with smaller weights, and scale the inputs.",
            )
        ]
    return []


def _is(loss: object, kind: type) -> bool:
    return isinstance(loss, kind)
