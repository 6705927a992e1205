"""PG110, UncoveredVariables: a trainable variable that no optimizer of the step updates.

It keeps its first value, as if it were frozen, while `model.summary()` calls it trainable. Pass it
to an optimizer, or set `trainable = False` on its layer to say that it is meant to stay. Steps with
raw gradient tapes are not looked at. Where batches of several structures take turns, it counts what
is updated on any of them.
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
        rehearsals: Of `train_step`, one for each structure of batches.
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
            fix="set `trainable = False` on what is meant to stay as it is, or pass the variables "
            "to an optimizer.",
        )
    ]


def _has_raw_tape(rehearsal: Rehearsal) -> bool:
    """Tell whether a step applied an optimizer, and none through Perigee."""
    written = {id(variable) for variable in rehearsal.written}
    optimizers = rehearsal.tracked.optimizers.values()
    return not rehearsal.updated and any(id(o.iterations) in written for o in optimizers)
