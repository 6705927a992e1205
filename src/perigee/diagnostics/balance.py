"""PG331, RareClass: a class with few examples, measured by accuracy.

With one example of a class among fifty, a model that never names it is right in 98% of all cases.
Look at precision and recall or at the area under their curve besides, or weigh the classes.
"""

from __future__ import annotations

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_FEWEST, _MOST_CLASSES, _SHARE = 96, 20, 20.0


def check(evidence: Evidence) -> list[Finding]:
    """Count the examples of each class where a metric is an accuracy and none looks further."""
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
            f"{rare:g}, and accuracy alone is measured.",
            expected="a metric that a model which never names the rare class does badly in.",
            fix="add Precision, Recall or AUC, or give `class_weight`.",
        )
    ]


def _metrics(evidence: Evidence) -> list[keras.Metric]:
    found: list[keras.Metric] = []
    for metric in evidence.tracked.metrics.values():
        found += [metric, *(getattr(metric, "metrics", None) or ())]
    return found
