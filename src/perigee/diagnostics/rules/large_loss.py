"""PG133, LargeLoss: an initial loss far above that of a random guess.

An untrained model has a crossentropy near log K for K classes. If it is far higher, the logits are
too large: the initial weights of the last layer are too wide, or the inputs are far from unit
scale. Where most other draws of the weights begin lower, it is a hint.
"""

from __future__ import annotations

import numpy as np

from perigee._step.losses import computation_of
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import Recording

_TIMES = 4.0
_CATEGORICAL = {"sparse_categorical_crossentropy", "categorical_crossentropy"}
_FEWEST_ROWS = 8


def check(evidence: Evidence) -> list[Finding]:
    """Compare the crossentropies with that of a random guess."""
    happened = _large(evidence.training)
    if happened is None:
        return []
    is_by_chance = evidence.is_by_chance(lambda other: _large(other) is not None)
    return [
        Finding(
            code="PG133",
            name="LargeLoss",
            severity="hint" if is_by_chance else "warning",
            happened=happened + (", for these weights." if is_by_chance else "."),
            expected=f"a loss below {_TIMES:g} times that of a random guess.",
            fix="use smaller initial weights in the last layer, and scale the inputs.",
        )
    ]


def _large(recording: Recording) -> str | None:
    """Return which crossentropy is far above that of a random guess; `None` for none."""
    for seen in recording.losses:
        what = computation_of(seen.by)
        is_binary = what.kind == "binary_crossentropy"
        if not is_binary and what.kind not in _CATEGORICAL:
            continue
        if len(seen.y_pred) < _FEWEST_ROWS or not np.isfinite(seen.y_pred).all():
            continue
        classes = 2 if is_binary else seen.y_pred.shape[what.axis]
        value = what.mean(seen.y_true, seen.y_pred)
        if classes >= 2 and np.isfinite(value) and value > _TIMES * np.log(classes):
            return (
                f"{what.name} begins at {value:.3g}, where a random guess among {classes} "
                f"classes has {np.log(classes):.3g}"
            )
    return None
