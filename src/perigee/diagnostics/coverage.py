"""PG110, UncoveredVariables: a trainable variable that no optimizer of the step updates.

It keeps its first value, as if it were frozen, while `model.summary()` calls it trainable. Pass it
to an optimizer, or set `trainable = False` on its layer to say that it is meant to stay. Steps with
raw gradient tapes are not looked at.
"""

from __future__ import annotations

from perigee._discovery import Rehearsal
from perigee.diagnostics._finding import Finding


def check(rehearsal: Rehearsal) -> list[Finding]:
    """Find trainable variables that nothing updates; silent for steps with raw gradient tapes."""
    if not rehearsal.updated or not rehearsal.uncovered:
        return []
    uncovered = tuple(rehearsal.uncovered)
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
