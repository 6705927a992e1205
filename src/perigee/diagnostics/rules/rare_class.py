"""PG331, RareClass: a class with few examples, measured by accuracy.

If one example in fifty belongs to a class, a model that never predicts it has an accuracy of 98%.
Also measure precision and recall or the area under their curve, or use class weights.

How sure: a hint, shown by how often each label occurs, and by the metrics.
"""

from __future__ import annotations

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_FEWEST, _MOST_CLASSES, _SHARE = 96, 20, 20.0


def check(evidence: Evidence) -> list[Finding]:
    """Count the examples of each class if accuracies are the only metrics."""
    y = evidence.answers
    if y is None or y.size != len(y) or len(y) < _FEWEST or y.dtype.kind not in "fiub":
        return []
    if not np.isfinite(y.astype("float64")).all():
        return []
    classes, counts = np.unique(y, return_counts=True)
    if not 1 < len(classes) <= _MOST_CLASSES or not bool((classes == np.round(classes)).all()):
        return []
    if counts.max() < _SHARE * counts.min():
        return []
    names = [f"{type(m).__name__} {m.name}".lower() for m in _metrics(evidence)]
    if not any("acc" in name for name in names):
        return []
    if any(word in name for name in names for word in ("auc", "recall", "precision", "f1")):
        return []
    rare, often = classes[counts.argmin()], classes[counts.argmax()]
    return [
        Finding(
            code="PG331",
            name="RareClass",
            severity="hint",
            happened=f"{counts.max()} of {len(y)} labels are {often:g} and {counts.min()} are "
            f"{rare:g}, and accuracy is the only metric.",
            expected="a metric that is low for a model that never predicts the rare class.",
            fix="add Precision, Recall or AUC, or pass `class_weight`.",
        )
    ]


def _metrics(evidence: Evidence) -> list[keras.Metric]:
    found: list[keras.Metric] = []
    for metric in evidence.tracked.metrics.values():
        found += [metric, *(getattr(metric, "metrics", None) or ())]
    return found
