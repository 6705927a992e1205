"""PG131, ExplodingGradients: gradients that are far larger than the weights.

Wide initial weights make values and gradients grow from layer to layer. The first updates then move
the weights very far. Use Keras's default initializers, and clip by the global norm. Where most
other draws of the weights have smaller gradients, it is a hint.

How sure: a warning or, as said, a hint, shown by the norm of the gradients on one batch: above
10,000.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import Recording

_LARGEST = 1e4
"""Global norm; at a healthy start it is below some hundreds."""


def check(evidence: Evidence) -> list[Finding]:
    """Examine the global norm of gradients, before clipping if that is known."""
    if any(one.raw.hides_scale for one in evidence.rehearsals):
        return []
    happened = _large(evidence.training)
    if happened is None:
        return []
    is_by_chance = evidence.is_by_chance(lambda other: _large(other) is not None)
    return [
        Finding(
            code="PG131",
            name="ExplodingGradients",
            severity="hint" if is_by_chance else "warning",
            happened=happened + (" for these weights." if is_by_chance else "."),
            expected=f"a norm below {_LARGEST:g}.",
            fix="use Keras's default initializers, scale inputs and targets, or clip by the "
            "global norm.",
        )
    ]


def _large(recording: Recording) -> str | None:
    """Return which gradients are far too large; `None` for none."""
    for update in recording.derived or recording.updates:
        total = sum(float(np.sum(np.square(g.astype("float64")))) for g in update.gradients)
        norm = float(np.sqrt(total))
        if np.isfinite(norm) and norm >= _LARGEST:
            count = len(update.variables)
            return f"The global norm of the gradients of {count} variables is {norm:.3g}"
    return None
