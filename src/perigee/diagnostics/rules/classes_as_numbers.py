"""PG227, ClassesAsNumbers: classes given to a loss for numbers, or for independent labels.

Class ids are names, not amounts: a squared error treats class 2 as lying between 1 and 3. One-hot
rows are exclusive classes, for which softmax and a categorical crossentropy fit better than one
sigmoid for each. Both may be intended, so this is a hint.
"""

from __future__ import annotations

import numpy as np

from perigee._step.losses import computation_of
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_REGRESSION = {"mean_squared_error", "mean_absolute_error", "huber", "log_cosh"}
_MOST_CLASSES, _FEWEST_ROWS = 20, 16


def check(evidence: Evidence) -> list[Finding]:
    """Examine the labels that Keras losses were given."""
    for seen in evidence.training.losses:
        true, what = seen.y_true.astype("float64"), computation_of(seen.by)
        if len(true) < _FEWEST_ROWS or not np.isfinite(true).all():
            continue
        if what.kind in _REGRESSION and true.size == len(true):
            classes = len(np.unique(true))
            if bool((true == np.round(true)).all()) and 2 < classes <= _MOST_CLASSES:
                return [_finding(f"{what.name} gets labels with {classes} different integers.")]
        if what.kind == "binary_crossentropy" and is_one_hot(true):
            return [_finding(f"{what.name} gets labels with exactly one 1 in each row.")]
    return []


def is_one_hot(true: np.ndarray) -> bool:
    """Return whether labels are one-hot rows of three or more classes."""
    return (
        true.ndim == 2
        and true.shape[-1] > 2
        and len(true) >= _FEWEST_ROWS
        and bool(np.isin(true, (0, 1)).all() and (true.sum(axis=-1) == 1).all())
    )


def _finding(happened: str) -> Finding:
    return Finding(
        code="PG227",
        name="ClassesAsNumbers",
        severity="hint",
        happened=happened,
        expected="a categorical crossentropy for exclusive classes.",
        fix="use SparseCategoricalCrossentropy (ids) or CategoricalCrossentropy (rows), unless "
        "the order of the classes means something.",
    )
