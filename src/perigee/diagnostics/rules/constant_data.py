"""PG322, ConstantData: labels that are all equal, or a feature that never changes.

Nothing can be learned from labels that are all equal; often a split by time or by class went wrong,
or a comparison. Labels that the loss does not use may be anything, and rows of several labels may
rightly be equal, where the first candidate is always the right one. Nor can anything be learned of
inputs that are the same in all rows. A single feature with one value carries no information either;
zeros, as in pixels at the edge, are not reported.

How sure: a warning for labels, a hint for rows of several labels and for a feature, shown by all
known rows, at least 48.
"""

from __future__ import annotations

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_FEWEST = 48
"""The least number of rows for which equal values are unlikely to be chance."""


def check_labels(evidence: Evidence) -> list[Finding]:
    """Compare all known labels, unless the loss is the same with others."""
    labels = evidence.answers
    if labels is None or len(labels) < _FEWEST or labels.dtype.kind not in "fiub":
        return []
    if not np.all(labels == labels[0]) or not _matter(evidence):
        return []
    are_alike = len(np.unique(labels)) == 1
    return [
        _finding(
            "warning" if are_alike else "hint",
            f"All {len(labels)} labels (batch[1]) are {np.asarray(labels[0]).tolist()}.",
            "labels that differ.",
            "check how the data was split, and what the labels were compared with.",
        )
    ]


def _matter(evidence: Evidence) -> bool:
    """Return whether the loss changes with the labels, as far as that can be told."""
    batch = evidence.batches[0]
    if not isinstance(batch, tuple) or not evidence.is_repeatable:
        return True
    y = np.asarray(batch[1])
    others = (batch[0], ~y if y.dtype.kind == "b" else (y + 1).astype(y.dtype), *batch[2:])
    losses = [[evidence.loss(b, change_weights=m) for b in (batch, others)] for m in (False, True)]
    return any(one is None or one != other for one, other in losses)


def check(evidence: Evidence) -> list[Finding]:
    """Compare all known rows of the inputs."""
    labels = evidence.answers
    if labels is None or min(len(evidence.columns[0]), len(labels)) < _FEWEST:
        return []
    inputs = evidence.columns[: len(keras.tree.flatten(evidence.batches[0][0]))]
    if all(_are_equal(leaf) for leaf in inputs) and not _are_equal(labels):
        return [
            _finding(
                "warning",
                f"All {len(labels)} rows of the inputs (batch[0]) are the same.",
                "inputs that differ.",
                "check how they were scaled and copied: integers that are divided may all be 0.",
            )
        ]
    x = inputs[0]
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


def _are_equal(rows: np.ndarray) -> bool:
    return rows.ndim > 0 and rows.dtype.kind in "fiub" and bool(np.all(rows == rows[:1]))


def _finding(severity: str, happened: str, expected: str, fix: str) -> Finding:
    return Finding(
        code="PG322",
        name="ConstantData",
        severity="warning" if severity == "warning" else "hint",
        happened=happened,
        expected=expected,
        fix=fix,
    )
