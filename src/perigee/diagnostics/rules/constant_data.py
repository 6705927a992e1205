"""PG322, ConstantData: labels that are all equal, or a feature that never changes.

Nothing can be learned from labels that are all equal; often a split by time or by class went wrong.
Rows of several labels may rightly be equal, where the first candidate is always the right one, and
so may labels that the loss does not use. A feature with a single value carries no information
either; zeros, as in pixels at the edge, are not reported.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_FEWEST = 48
"""The least number of rows for which equal values are unlikely to be chance."""


def check(evidence: Evidence) -> list[Finding]:
    """Compare all known rows."""
    if evidence.answers is None or len(evidence.columns[0]) < _FEWEST:
        return []
    found = _of_labels(evidence.answers)
    x = evidence.columns[0]
    if x.ndim == 2 and x.dtype.kind == "f":
        constant = np.flatnonzero((x == x[0]).all(axis=0) & (x[0] != 0) & (x[0] != 1))
        if constant.size:
            column = int(constant[0])
            found.append(
                _finding(
                    "hint",
                    f"{constant.size} features never change, the first one is batch[0][:, "
                    f"{column}] = {x[0, column]:.4g}.",
                    "features that differ between examples.",
                    "remove the feature, or find out why it is constant.",
                )
            )
    return found


def of_dummies(evidence: Evidence) -> list[Finding]:
    """Return what is to be said of equal labels no more, since the loss is the same with others."""
    found = [] if evidence.answers is None else _of_labels(evidence.answers)
    if not found or not evidence.is_repeatable:
        return []
    x, y, *weights = evidence.batches[0]
    others = (x, _others(y), *weights)
    are_used = any(
        evidence.loss(others, change_weights=moves)
        != evidence.loss(evidence.batches[0], change_weights=moves)
        for moves in (False, True)
    )
    return [] if are_used else found


def _of_labels(labels: np.ndarray) -> list[Finding]:
    are_known = len(labels) >= _FEWEST and labels.dtype.kind in "fiub"
    if not are_known or not np.all(labels == labels[0]):
        return []
    are_alike = len(np.unique(labels)) == 1
    return [
        _finding(
            "warning" if are_alike else "hint",
            f"All {len(labels)} labels (batch[1]) are {np.asarray(labels[0]).tolist()}.",
            "labels that differ.",
            "check how the data was split.",
        )
    ]


def _others(labels: np.ndarray) -> np.ndarray:
    return ~labels if labels.dtype.kind == "b" else labels + np.ones_like(labels)


def _finding(severity: str, happened: str, expected: str, fix: str) -> Finding:
    return Finding(
        code="PG322",
        name="ConstantData",
        severity="warning" if severity == "warning" else "hint",
        happened=happened,
        expected=expected,
        fix=fix,
    )
