"""PG330, LabelsUnrelated: similar inputs do not have similar labels.

The most similar examples predict the label of an example no better than others do, as if inputs and
labels had been shuffled separately. Many tasks are too hard for this simple predictor, so this is a
hint. It is a warning where similar inputs have similar labels in another order: those of the rows
before or after, of the batch before or after, or in the opposite order.

How sure: a hint: the nearest examples predict the labels no better than shuffled labels would be
predicted. Other models may do better. A warning where they predict them in another order.
"""

from __future__ import annotations

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_FEWEST, _MOST, _WIDEST = 96, 600, 4096
_NEIGHBORS, _DRAWS = 5, 40
_BETTER = 2.0
"""Standard deviations above predictions with shuffled labels."""
_UNSURE, _PROVEN = 4.0, 8.0
"""So few may be chance, and so many show that labels belong to other rows."""


def check(evidence: Evidence) -> list[Finding]:
    """Predict each label from the nearest inputs, and compare with shuffled labels."""
    if len(evidence.columns) != 2 or evidence.answers is None:
        return []
    x, y = evidence.columns[0][:_MOST], evidence.answers[:_MOST]
    is_measured = x.dtype.kind == "f" or x.dtype == "uint8"
    if not is_measured or len(x) < _FEWEST or x.ndim < 2 or x[0].size > _WIDEST:
        return []
    if _are_rows_of_one(y):
        y = y.argmax(axis=-1)
    if y.size != len(x) or y.dtype.kind not in "fiub" or len(np.unique(y)) < 2:
        return []
    x, y = x.reshape(len(x), -1).astype("float64"), y.reshape(-1).astype("float64")
    if not np.isfinite(x).all() or not np.isfinite(y).all():
        return []
    is_of_classes = bool((y == np.round(y)).all()) and len(np.unique(y)) <= 20
    x = (x - x.mean(axis=0)) / (x.std(axis=0) + 1e-6)
    squares = np.square(x).sum(axis=1)
    distances = squares[:, None] + squares - 2 * x @ x.T
    np.fill_diagonal(distances, np.inf)
    nearest = np.argpartition(distances, _NEIGHBORS, axis=1)[:, :_NEIGHBORS]
    draw = np.random.default_rng(0)
    others = [_score(draw.permutation(y), nearest, is_of_classes) for _ in range(_DRAWS)]
    mean, deviation = float(np.mean(others)), float(np.std(others)) + 1e-12

    def gap(labels: np.ndarray) -> float:
        return (_score(labels, nearest, is_of_classes) - mean) / deviation

    own = gap(y)
    if own > _UNSURE:
        return []
    moved = {said: gap(labels) for said, labels in _moved(y, evidence)}
    best = max(moved, key=lambda said: moved[said])
    found = moved[best] > _PROVEN
    if own > _BETTER and not found:
        return []
    return [
        Finding(
            code="PG330",
            name="LabelsUnrelated",
            severity="warning" if found else "hint",
            happened=f"The {_NEIGHBORS} nearest inputs predict the labels of {len(y)} examples "
            f"no better than shuffled labels ({own:.1f} standard deviations apart)"
            + (f", and well the labels {best} ({moved[best]:.0f})." if found else "."),
            expected="labels that are related to their inputs.",
            fix="check that inputs and labels are in the same order; shuffle them together.",
        )
    ]


def _moved(y: np.ndarray, evidence: Evidence) -> list[tuple[str, np.ndarray]]:
    """Return the labels in other orders, with what is said of these."""
    sizes = {len(keras.tree.flatten(batch)[0]) for batch in evidence.batches[:1]}
    rows = sorted({1, 2, 3, *sizes})
    moved = [
        (f"of {n} row{'s' if n > 1 else ''} {where}", np.roll(y, sign * n))
        for n in rows
        for sign, where in ((1, "before"), (-1, "after"))
        if n < len(y) // 2
    ]
    return [*moved, ("in the opposite order", y[::-1])]


def _are_rows_of_one(y: np.ndarray) -> bool:
    is_row = y.ndim == 2 and y.shape[1] > 1 and y.dtype.kind in "fiub"
    return is_row and bool(np.isin(y, (0, 1)).all() and (y.sum(axis=-1) == 1).all())


def _score(y: np.ndarray, nearest: np.ndarray, is_of_classes: bool) -> float:
    if is_of_classes:
        return float(np.mean(y[nearest] == y[:, None]))
    guess = y[nearest].mean(axis=1)
    return float(-np.mean(np.square(guess - y)))
