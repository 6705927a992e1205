"""PG444, DrawnOnce: a compiled step that draws random numbers on the host.

NumPy and Python run only while a step is compiled: every step uses the numbers that were drawn
then. Draw with `keras.random` and a `keras.random.SeedGenerator` that the Step holds, or in the
data.
"""

from __future__ import annotations

from perigee import _backends
from perigee._rehearsal.outside import makes_unseeded_generators
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Report generators on the host that `train_step` used, if steps are compiled."""
    if _backends.current().capabilities.modes[0] == "eager":
        return []
    drawn = list(dict.fromkeys(evidence.training.draws))
    if makes_unseeded_generators(evidence.step, "train_step"):
        drawn.append("numpy.random.default_rng()")
    if not drawn:
        return []
    return [
        Finding(
            code="PG444",
            name="DrawnOnce",
            severity="warning",
            happened="`train_step` draws random numbers outside the framework:",
            items=tuple(drawn),
            expected="new random numbers in each step.",
            fix="draw with `keras.random` and a `keras.random.SeedGenerator` held by the Step.",
        )
    ]
