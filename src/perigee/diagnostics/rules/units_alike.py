"""PG138, UnitsAlike: units of a layer that begin alike and get one gradient, so stay alike.

All units of a kernel begin with the same values, and the gradient of the first batch is the same
for all of them: the layer has one unit, however many it is given. Or two layers of zeros, one after
the other as the factors of a product, hold each other back: neither ever gets a gradient, as is
shown by moving them. A single layer of zeros, as before a loss or at the end of a residual branch,
is right: its units get gradients of their own. Random initial values tell units apart.

How sure: a warning, shown by the weights and their gradients on one batch, or by moving the
weights; an error where no weight has a gradient.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._starts import alike, stuck_at_zero


def check(evidence: Evidence) -> list[Finding]:
    """Examine the first values and the gradients of weights that are zero or all alike."""
    variables = stuck_at_zero(evidence)
    happened = "These weights are all 0, and hold each other back: no update changes them:"
    if not variables:
        variables = alike(evidence)
        happened = "Units begin alike, and the first gradient does not tell them apart:"
    if not variables:
        return []
    has_gradient = any(np.any(g) for u in evidence.training.updates for g in u.gradients)
    return [
        Finding(
            code="PG138",
            name="UnitsAlike",
            severity="warning" if has_gradient else "error",
            happened=happened,
            items=tuple(evidence.tracked.names_of(variables)),
            expected="units that differ from each other.",
            fix="use Keras's default initializers; zeros suit biases and single kernels.",
        )
    ]
