"""PG134, PenaltyDominates: weight penalties that make up nearly all of the loss.

Training then only shrinks the weights. Usual factors are between 1e-6 and 1e-2.

How sure: a warning, shown by the values of the penalties and of the loss, on one batch, with most
of some other draws of the weights, too.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import Recording

_SHARE, _LEAST = 0.9, 1.0


def check(evidence: Evidence) -> list[Finding]:
    """Compare the penalties with the whole loss."""
    penalty = evidence.penalty

    def dominates(recording: Recording) -> bool:
        logged = recording.logs.get("loss")
        if logged is None or not logged.size or not np.isfinite(logged).all():
            return False
        return penalty >= _SHARE * (penalty + abs(float(np.mean(logged)) - penalty))

    if penalty < _LEAST or not dominates(evidence.training) or evidence.is_by_chance(dominates):
        return []
    loss = float(np.mean(evidence.training.logs["loss"]))
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
