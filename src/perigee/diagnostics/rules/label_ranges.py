"""PG205 over all known rows: labels for which the loss is not defined."""

from __future__ import annotations

import numpy as np

from perigee._step.losses import computation_of
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics.rules import labels


def check(evidence: Evidence) -> list[Finding]:
    """Find the leaf that a loss was given, and check all its rows.

    Raises:
        LabelRangeError: If one is out of range.
    """
    leaves = evidence.leaves
    for seen in evidence.training.losses:
        for index, leaf in list(enumerate(leaves))[1:]:
            is_known = leaf.size == seen.y_true.size and index < len(evidence.columns)
            if is_known and np.array_equal(leaf.reshape(-1), seen.y_true.reshape(-1)):
                column = np.asarray(evidence.columns[index])
                labels.check_range(computation_of(seen.by), column, seen.y_pred.shape)
    return []
