"""PG222, WrongSign: a loss whose sign is turned, so that training makes predictions worse.

The loss that is minimized is the negative of a distance between labels and predictions. A measure
that is to grow (a likelihood, an accuracy) is minimized with a minus before it; a distance without.
"""

from __future__ import annotations

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_NOT_NEGATIVE = (
    keras.losses.SparseCategoricalCrossentropy,
    keras.losses.CategoricalCrossentropy,
    keras.losses.BinaryCrossentropy,
    keras.losses.MeanSquaredError,
    keras.losses.MeanAbsoluteError,
    keras.losses.MeanSquaredLogarithmicError,
    keras.losses.Huber,
    keras.losses.LogCosh,
    keras.losses.Hinge,
)
"""Losses that have no value below 0, for labels in their range."""

_SAME = 1e-3


def check(evidence: Evidence) -> list[Finding]:
    """Compare the loss with the negative of each distance that the step may have meant."""
    logged = evidence.training.logs.get("loss")
    if logged is None or not logged.size or not np.isfinite(logged).all():
        return []
    loss = float(np.mean(logged))
    if loss >= -1e-9:
        return []
    same = [
        name
        for name, distance in _distances(evidence).items()
        if abs(loss + distance) < _SAME * distance
    ]
    if not same:
        return []
    return [
        Finding(
            code="PG222",
            name="WrongSign",
            severity="error",
            happened=f"The loss is {loss:.4g}, the negative of the {same[0]} between labels and "
            "predictions: minimizing it makes the predictions worse.",
            expected="a loss that is smaller for better predictions.",
            fix="leave the minus out.",
        )
    ]


def _distances(evidence: Evidence) -> dict[str, float]:
    found: dict[str, float] = {}
    for seen in evidence.training.losses:
        if isinstance(seen.by, _NOT_NEGATIVE):
            base = next(kind for kind in _NOT_NEGATIVE if isinstance(seen.by, kind))
            own = base.from_config(seen.by.get_config())
            found[base.__name__] = float(own(seen.y_true, seen.y_pred))
    for call in evidence.trained:
        for y_pred in call.outputs:
            for leaf in keras.tree.flatten(evidence.batches[0])[1:]:
                y_true = np.asarray(leaf)
                if y_true.shape == y_pred.shape and y_true.dtype.kind == y_pred.dtype.kind == "f":
                    gap = (y_true - y_pred).astype("float64")
                    found["mean squared error"] = float(np.mean(gap**2))
                    found["mean absolute error"] = float(np.mean(np.abs(gap)))
    return {name: value for name, value in found.items() if value > 1e-6}
