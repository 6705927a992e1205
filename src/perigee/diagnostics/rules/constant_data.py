"""PG322, ConstantData: labels that are all equal, or a feature that never changes.

Nothing can be learned from labels that are all equal; often a split by time or by class went wrong.
A feature with a single value carries no information either; zeros, as in pixels at the edge, are
not reported.

How sure: a warning for labels, a hint for a feature, shown by all known rows, at least 48.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_FEWEST = 48
"""The least number of rows for which equal values are unlikely to be chance."""


def check(evidence: Evidence) -> list[Finding]:
    """Compare all known rows."""
    labels = evidence.answers
    if labels is None or len(evidence.columns[0]) < _FEWEST:
        return []
    found: list[Finding] = []
    if len(labels) >= _FEWEST and labels.dtype.kind in "fiub" and bool(np.all(labels == labels[0])):
        found.append(
            _finding(
                "warning",
                f"All {len(labels)} labels (batch[1]) are {np.asarray(labels[0]).tolist()}.",
                "labels that differ.",
                "check how the data was split.",
            )
        )
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


def _finding(severity: str, happened: str, expected: str, fix: str) -> Finding:
    return Finding(
        code="PG322",
        name="ConstantData",
        severity="warning" if severity == "warning" else "hint",
        happened=happened,
        expected=expected,
        fix=fix,
    )
