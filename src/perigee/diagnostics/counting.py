"""PG445, CountedOnce: Python values that the step changes, in a step that is compiled.

Python code runs while a step is compiled, and then no more: a counter that it raises, or a rate
that it lowers, changes that one time. Keep what changes in a `keras.Variable`.
"""

from __future__ import annotations

from perigee import _backends
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Tell which numbers among the attributes `train_step` changes each time that it runs."""
    if _backends.current().capabilities.modes[0] == "eager":
        return []
    changed = tuple(sorted(evidence.numbers))
    if not changed:
        return []
    return [
        Finding(
            code="PG445",
            name="CountedOnce",
            severity="warning",
            happened="`train_step` changes numbers that are no variables:",
            items=changed,
            expected="state that changes from step to step is held in a `keras.Variable`.",
            fix="hold a `keras.Variable` and `assign` to it.",
        )
    ]
