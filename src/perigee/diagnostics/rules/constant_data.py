"""PG322, ConstantData: labels that are all equal, or a feature that never changes.

Nothing can be learned from labels that are all equal; often a split by time or by class went wrong.
Labels that the loss does not look at, which only fill their place, are not reported.
A feature with a single value carries no information either; zeros, as in pixels at the edge, are
not reported.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_FEWEST = 48
"""The least number of rows for which equal values are unlikely to be chance."""


def check_labels(evidence: Evidence) -> list[Finding]:
    """Compare all known labels."""
    labels = evidence.answers
    if labels is None or min(len(evidence.columns[0]), len(labels)) < _FEWEST:
        return []
    if labels.dtype.kind not in "fiub" or not bool(np.all(labels == labels[0])):
        return []
    if _are_unused(evidence):
        return []
    return [
        _finding(
            "warning",
            f"All {len(labels)} labels (batch[1]) are {np.asarray(labels[0]).tolist()}.",
            "labels that differ.",
            "check how the data was split.",
        )
    ]


def _are_unused(evidence: Evidence) -> bool:
    """Return whether the loss is the same with other labels."""
    batch = evidence.batches[0]
    if not isinstance(batch, tuple) or not evidence.is_repeatable:
        return False
    y = np.asarray(batch[1])
    other = ~y if y.dtype.kind == "b" else (y + 1).astype(y.dtype)
    return evidence.loss((batch[0], other, *batch[2:])) == evidence.loss(batch)


def check(evidence: Evidence) -> list[Finding]:
    """Compare all known rows of the inputs."""
    if len(evidence.columns) < 1 or len(evidence.columns[0]) < _FEWEST:
        return []
    x = evidence.columns[0]
    if x.ndim == 2 and x.dtype.kind == "f":
        constant = np.flatnonzero((x == x[0]).all(axis=0) & (x[0] != 0) & (x[0] != 1))
        if constant.size:
            column = int(constant[0])
            return [
                _finding(
                    "hint",
                    f"{constant.size} features never change, the first one is batch[0][:, "
                    f"{column}] = {x[0, column]:.4g}.",
                    "features that differ between examples.",
                    "remove the feature, or find out why it is constant.",
                )
            ]
    return []


def _finding(severity: str, happened: str, expected: str, fix: str) -> Finding:
    return Finding(
        code="PG322",
        name="ConstantData",
        severity="warning" if severity == "warning" else "hint",
        happened=happened,
        expected=expected,
        fix=fix,
    )
