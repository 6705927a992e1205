"""PG446, FrozenNumber: a number outside the Step that changed after the step was compiled.

A compiled step keeps the value of a global variable or a closure from when it was compiled. A
callback that changes the number later has no effect on the step. Keep it as an attribute of the
Step: if that changes, the step is recompiled. Keep what changes often in a `keras.Variable`.

How sure: a warning, shown by the number when the step was compiled, and now.
"""

from __future__ import annotations

from perigee._execution import Program
from perigee.diagnostics._finding import Finding


def check(program: Program) -> list[Finding]:
    """Compare the numbers that a compiled method reads with their values when it was compiled."""
    changed = program.changed_outside
    if not changed:
        return []
    return [
        Finding(
            code="PG446",
            name="FrozenNumber",
            severity="warning",
            happened="The step was compiled with numbers that have changed since:",
            items=tuple(f"{name}, which was {value}" for name, value in sorted(changed.items())),
            expected="numbers that do not change, or whose changes a compiled step sees.",
            fix="keep the number as an attribute of the Step, or in a `keras.Variable`.",
        )
    ]
