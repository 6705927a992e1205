"""PG130, VanishingGradients: first layers whose gradients are nearly 0.

Each sigmoid or tanh makes gradients smaller; after many of them almost nothing is left, and the
first layers do not change. Use ReLUs, normalization or residual connections.
"""

from __future__ import annotations

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._kernels import kernels

_SMALLEST, _FEWEST = 1e-4, 3


def check(evidence: Evidence) -> list[Finding]:
    """Compare the gradient of the first kernel of each update with that of the last one."""
    for found in kernels(evidence):
        if len(found) < _FEWEST or not 0 < found[0].size < _SMALLEST * found[-1].size:
            continue
        ratio = found[0].size / found[-1].size
        return [
            Finding(
                code="PG130",
                name="VanishingGradients",
                severity="warning",
                happened=f"The gradient of {found[0].name!r} is {ratio:.1e} of that of "
                f"{found[-1].name!r}.",
                expected=f"gradients of similar size, within a factor of {1 / _SMALLEST:.0e}.",
                fix='use "relu" in place of sigmoid and tanh, normalization layers, or '
                "residual connections.",
            )
        ]
    return []
