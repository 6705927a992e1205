"""PG445, CountedOnce: a compiled step that changes Python numbers.

Python code runs only while a step is compiled: a counter that it increments, or a rate that it
lowers, changes just once. Keep such state in a `keras.Variable`.
"""

from __future__ import annotations

from perigee import _backends
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Report numeric attributes that `train_step` changes each time that it runs."""
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
            happened="`train_step` changes numbers that are not variables:",
            items=changed,
            expected="state that changes from step to step is held in a `keras.Variable`.",
            fix="hold a `keras.Variable` and `assign` to it.",
        )
    ]
