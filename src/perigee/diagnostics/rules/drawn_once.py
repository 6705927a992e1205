"""PG444, DrawnOnce: a compiled step that draws random numbers on the host.

NumPy and Python run only while a step is compiled: every step uses the numbers that were drawn
then. Draw with `keras.random` and a `keras.random.SeedGenerator` that the Step holds, or in the
data.

On JAX, a key that the Step holds and does not replace gives the same numbers in each step, too, and
so do keys that are split off or folded from it, or made of a number, if nothing that changes goes
into them.

How sure: a warning, shown by the state of the generator or the key after the step has run. The draw
may be meant to stay.
"""

from __future__ import annotations

from collections.abc import Sequence

from perigee import _backends
from perigee._rehearsal.discovery import Rehearsal
from perigee._rehearsal.outside import makes_unseeded_generators
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Report generators on the host that `train_step` used, if steps are compiled, and keys."""
    found = check_rehearsals(evidence.rehearsals)
    if _backends.current().capabilities.modes[0] == "eager":
        return found
    drawn = list(dict.fromkeys(evidence.training.draws))
    if makes_unseeded_generators(evidence.step, "train_step"):
        drawn.append("numpy.random.default_rng()")
    if not drawn:
        return found
    happened = "`train_step` draws random numbers outside the framework:"
    fix = "draw with `keras.random` and a `keras.random.SeedGenerator` held by the Step."
    return [*found, _finding(happened, drawn, fix)]


def check_rehearsals(rehearsals: Sequence[Rehearsal]) -> list[Finding]:
    """Report keys that never change, from which a step draws.

    Args:
        rehearsals: Rehearsals of `train_step`, one for each batch structure.
    """
    keys = sorted({key for rehearsal in rehearsals for key in rehearsal.keys})
    if not keys:
        return []
    happened = "`train_step` draws from a key that never changes, so each step draws the same:"
    fix = (
        "hold a seed generator in its place, `self.seed = keras.random.SeedGenerator(0)`, and draw "
        "from `key = self.seed.next()`."
    )
    return [_finding(happened, keys, fix)]


def _finding(happened: str, items: Sequence[str], fix: str) -> Finding:
    return Finding(
        code="PG444",
        name="DrawnOnce",
        severity="warning",
        happened=happened,
        items=tuple(items),
        expected="new random numbers in each step.",
        fix=fix,
    )
