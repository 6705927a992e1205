"""PG131, ExplodingGradients: gradients that are far larger than the weights.

Wide initial weights make values and gradients grow from layer to layer. The first updates then move
the weights very far. Use Keras's default initializers, and clip by the global norm.

How sure: a warning, shown by the norm of the gradients on one batch: above 10,000.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_LARGEST = 1e4
"""Global norm; at a healthy start it is below some hundreds."""


def check(evidence: Evidence) -> list[Finding]:
    """Examine the global norm of gradients, before clipping if that is known."""
    recording = evidence.training
    if any(one.raw.hides_scale for one in evidence.rehearsals):
        return []
    for update in recording.derived or recording.updates:
        total = sum(float(np.sum(np.square(g.astype("float64")))) for g in update.gradients)
        norm = float(np.sqrt(total))
        if not np.isfinite(norm) or norm < _LARGEST:
            continue
        return [
            Finding(
                code="PG131",
                name="ExplodingGradients",
                severity="warning",
                happened=f"The global norm of the gradients of {len(update.variables)} variables "
                f"is {norm:.3g}.",
                expected=f"a norm below {_LARGEST:g}.",
                fix="use Keras's default initializers, scale inputs and targets, or clip by the "
                "global norm.",
            )
        ]
    return []
