"""PG324, TargetInInputs: a feature that is the label itself.

The model learns to copy it, scores perfectly, and fails where the label is not known.

How sure: a warning, shown by the values of all known rows, at least 48. A model that copies its
input may be meant.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_FEWEST = 48


def check(evidence: Evidence) -> list[Finding]:
    """Compare each feature with labels of one value per example."""
    if evidence.answers is None:
        return []
    x, y = evidence.columns[0], evidence.answers
    if x.ndim != 2 or x.shape[1] < 2 or len(x) < _FEWEST or y.size != len(x):
        return []
    labels = y.reshape(-1, 1)
    if labels.dtype.kind not in "fiu" or len(np.unique(labels)) < 2:
        return []
    same = np.flatnonzero((x == labels).all(axis=0))
    if not same.size:
        return []
    return [
        Finding(
            code="PG324",
            name="TargetInInputs",
            severity="warning",
            happened=f"batch[0][:, {int(same[0])}] is equal to the labels in all {len(x)} rows.",
            expected="inputs that are known before the label.",
            fix="remove the column from the inputs.",
        )
    ]
