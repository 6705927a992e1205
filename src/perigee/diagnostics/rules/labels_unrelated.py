"""PG330, LabelsUnrelated: similar inputs do not have similar labels.

The most similar examples predict the label of an example no better than others do, as if inputs and
labels had been shuffled separately. Many tasks are too hard for this simple predictor, so this is a
hint.

How sure: a hint: the nearest examples predict the labels no better than shuffled labels would be
predicted. Other models may do better.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_FEWEST, _MOST, _WIDEST = 96, 600, 4096
_NEIGHBORS, _DRAWS = 5, 40
_BETTER = 2.0
"""Standard deviations above predictions with shuffled labels."""


def check(evidence: Evidence) -> list[Finding]:
    """Predict each label from the nearest inputs, and compare with shuffled labels."""
    if len(evidence.columns) != 2 or evidence.answers is None:
        return []
    x, y = evidence.columns[0][:_MOST], evidence.answers[:_MOST]
    if x.dtype.kind != "f" or len(x) < _FEWEST or x.ndim < 2 or x[0].size > _WIDEST:
        return []
    if y.size != len(x) or y.dtype.kind not in "fiu" or len(np.unique(y)) < 2:
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
    score = _score(y, nearest, is_of_classes)
    others = [_score(draw.permutation(y), nearest, is_of_classes) for _ in range(_DRAWS)]
    gap = (score - np.mean(others)) / (np.std(others) + 1e-12)
    if gap > _BETTER:
        return []
    return [
        Finding(
            code="PG330",
            name="LabelsUnrelated",
            severity="hint",
            happened=f"The {_NEIGHBORS} nearest inputs predict the labels of {len(y)} examples "
            f"no better than shuffled labels ({gap:.1f} standard deviations apart).",
            expected="labels that are related to their inputs.",
            fix="check that inputs and labels are in the same order; shuffle them together.",
        )
    ]


def _score(y: np.ndarray, nearest: np.ndarray, is_of_classes: bool) -> float:
    if is_of_classes:
        return float(np.mean(y[nearest] == y[:, None]))
    guess = y[nearest].mean(axis=1)
    return float(-np.mean(np.square(guess - y)))
