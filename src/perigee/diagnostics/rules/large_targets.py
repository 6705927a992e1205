"""PG325, LargeTargets: regression targets that are far from unit scale.

The initial outputs of a model are near unit scale. Targets in the thousands take long to reach, and
the gradients are as large. Scale the targets, and scale the predictions back.

How sure: a warning, shown by the deviation of the targets: above 1,000.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_WIDEST = 1e3


def check(evidence: Evidence) -> list[Finding]:
    """Examine floating labels that have the shape of an output."""
    shapes = {output.shape[1:] for call in evidence.trained for output in call.outputs}
    for index, column in evidence.labels:
        if column.dtype.kind != "f" or column.shape[1:] not in shapes:
            continue
        if not np.isfinite(column).all() or np.std(column, dtype="float64") < _WIDEST:
            continue
        return [
            Finding(
                code="PG325",
                name="LargeTargets",
                severity="warning",
                happened=f"The targets batch[{index}] have a standard deviation of "
                f"{np.std(column, dtype='float64'):.3g}.",
                expected="targets near unit scale.",
                fix="scale the targets, and scale the predictions back.",
            )
        ]
    return []
