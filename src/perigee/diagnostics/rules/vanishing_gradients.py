"""PG130, VanishingGradients: first layers whose gradients are nearly 0.

Each sigmoid or tanh makes gradients smaller; after many of them almost nothing is left, and the
first layers do not change. Use ReLUs, normalization or residual connections. Where most other draws
of the weights have larger gradients, it is a hint.

How sure: a warning or, as said, a hint, shown by the norms of the gradients of the first and the
last kernel, on one batch.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import Recording

_SMALLEST, _FEWEST = 1e-4, 3


def check(evidence: Evidence) -> list[Finding]:
    """Compare the gradient of the first kernel of each update with that of the last one."""
    happened = _small(evidence, evidence.training)
    if happened is None:
        return []
    is_by_chance = evidence.is_by_chance(lambda other: _small(evidence, other) is not None)
    return [
        Finding(
            code="PG130",
            name="VanishingGradients",
            severity="hint" if is_by_chance else "warning",
            happened=happened + (" for these weights." if is_by_chance else "."),
            expected=f"gradients of similar size, within a factor of {1 / _SMALLEST:.0e}.",
            fix='use "relu" in place of sigmoid and tanh, normalization layers, or '
            "residual connections.",
        )
    ]


def _small(evidence: Evidence, recording: Recording) -> str | None:
    """Return which gradient is far smaller than the last one; `None` for none."""
    for update in recording.updates:
        kernels = [
            (evidence.tracked.name_of(variable), gradient)
            for variable, gradient in update.pairs
            if gradient.ndim > 1 and "embedding" not in variable.path
        ]
        if len(kernels) < _FEWEST:
            continue
        (first, _), (last, _) = ends = kernels[0], kernels[-1]
        small, large = (np.sqrt(np.mean(np.square(g.astype("float64")))) for _, g in ends)
        if 0 < small < _SMALLEST * large:
            return f"The gradient of {first!r} is {small / large:.1e} of that of {last!r}"
    return None
