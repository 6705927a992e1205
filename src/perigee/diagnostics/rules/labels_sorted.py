"""PG327, LabelsSorted: examples sorted by their labels.

Batches that each hold a single class pull the weights back and forth. `fit` shuffles arrays for
each epoch unless it is called with `shuffle=False`, so this is a hint for them; other data is used
in its own order.

How sure: a warning, shown by the labels in the order of the data; a hint for arrays, which `fit`
shuffles.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_FEWEST, _FEWEST_EACH, _MOST_CLASSES = 48, 8, 100


def check(evidence: Evidence) -> list[Finding]:
    """Examine class ids in the order of the data."""
    y = evidence.answers
    if y is None or y.size != len(y) or len(y) < _FEWEST or y.dtype.kind not in "fiub":
        return []
    if not np.isfinite(y.astype("float64")).all():
        return []
    y = y.reshape(-1)
    classes, counts = np.unique(y, return_counts=True)
    is_of_classes = bool((classes == np.round(classes)).all())
    if not is_of_classes or not 1 < len(classes) <= _MOST_CLASSES or counts.min() < _FEWEST_EACH:
        return []
    runs = 1 + int(np.count_nonzero(np.diff(y)))
    if runs > len(classes):
        return []
    return [
        Finding(
            code="PG327",
            name="LabelsSorted",
            severity="hint" if evidence.is_of_arrays else "warning",
            happened=f"{len(y)} examples are sorted by their label: {runs} runs of equal labels "
            f"for {len(classes)} classes.",
            expected="batches in which the classes are mixed.",
            fix="keep `shuffle=True` in `fit`, the default for arrays."
            if evidence.is_of_arrays
            else "shuffle the examples before batching.",
        )
    ]
