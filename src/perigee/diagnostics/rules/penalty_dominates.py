"""PG134, PenaltyDominates: weight penalties that make up nearly all of the loss.

Training then only shrinks the weights. Usual factors are between 1e-6 and 1e-2.

How sure: a warning, shown by the values of the penalties and of the loss, on one batch.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_SHARE, _LEAST = 0.9, 1.0


def check(evidence: Evidence) -> list[Finding]:
    """Compare the penalties with the whole loss."""
    logged, penalty = evidence.training.logs.get("loss"), evidence.penalty
    if logged is None or not logged.size or not np.isfinite(logged).all() or penalty < _LEAST:
        return []
    loss = float(np.mean(logged))
    rest = abs(loss - penalty)
    if penalty < _SHARE * (penalty + rest):
        return []
    return [
        Finding(
            code="PG134",
            name="PenaltyDominates",
            severity="warning",
            happened=f"{penalty:.4g} of the loss of {loss:.4g} are weight penalties.",
            expected=f"penalties below {_SHARE:.0%} of the loss.",
            fix="use smaller factors in the regularizers, such as `L2(1e-4)`.",
        )
    ]
