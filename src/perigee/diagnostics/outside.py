"""PG446, FrozenNumber: a number outside the Step that changes after the step was compiled.

What a compiled step reads from a global variable or a closure is built into it as it was then. A
callback that changes the number changes nothing in the step. Hold it as an attribute of the Step:
where that changes, the step is compiled anew. What changes often belongs into a `keras.Variable`.
"""

from __future__ import annotations

from perigee._execution import Program
from perigee.diagnostics._finding import Finding


def check(program: Program) -> list[Finding]:
    """Compare the numbers that a compiled method reads with what they were."""
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
            expected="numbers that stay as they are, or that a compiled step sees change.",
            fix="hold the number as an attribute of the Step, or in a `keras.Variable`.",
        )
    ]
