"""PG110, UncoveredVariables: a trainable variable that no optimizer of the step updates.

It keeps its initial value, as if it were frozen, while `model.summary()` lists it as trainable.
Pass it to an optimizer, or set `trainable = False` on its layer if it should stay constant. Steps
with raw gradient tapes are not checked. With batches of several structures, an update on any of
them counts.
"""

from __future__ import annotations

from collections.abc import Sequence

from perigee._rehearsal.discovery import Rehearsal
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Find trainable variables that nothing updates."""
    return check_rehearsals(evidence.rehearsals)


def check_rehearsals(rehearsals: Sequence[Rehearsal]) -> list[Finding]:
    """Find trainable variables that nothing updates; skips steps with raw gradient tapes.

    Args:
        rehearsals: Rehearsals of `train_step`, one for each batch structure.
    """
    if not any(one.updated for one in rehearsals) or any(map(_has_raw_tape, rehearsals)):
        return []
    covered = {id(v) for one in rehearsals for variables in one.updated.values() for v in variables}
    covered |= {id(v) for one in rehearsals for v in one.carried}
    entries = rehearsals[-1].tracked.entries
    kinds = [e for e in entries if e.kind == "trainable" or not e.is_listed]
    uncovered = tuple(
        e.name for e in kinds if e.variable.trainable and id(e.variable) not in covered
    )
    if not uncovered:
        return []
    return [
        Finding(
            code="PG110",
            name="UncoveredVariables",
            severity="warning",
            happened=f"No optimizer of the step updates {len(uncovered)} trainable variables:",
            items=uncovered,
            expected="trainable variables are trained; others are frozen.",
            fix="set `trainable = False` on what should stay constant, or pass the variables to "
            "an optimizer.",
        )
    ]


def _has_raw_tape(rehearsal: Rehearsal) -> bool:
    """Return whether a step applied optimizers, none of them through Perigee."""
    written = {id(variable) for variable in rehearsal.written}
    optimizers = rehearsal.tracked.optimizers.values()
    return not rehearsal.updated and any(id(o.iterations) in written for o in optimizers)
