"""PG445, CountedOnce: a compiled step that changes Python numbers.

Python code runs only while a step is compiled: a counter that it increments, or a rate that it
lowers, changes just once. Keep such state in a `keras.Variable`. In a training it is reported where
the step does more with the number than to change it; where that is seen to change the program, it
is an error (PG417).

How sure: a warning, shown by the attribute before and after the step has run.
"""

from __future__ import annotations

from collections.abc import Collection

from perigee import _backends
from perigee._execution import Program
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Report numeric attributes that `train_step` changes each time that it runs."""
    if _backends.current().capabilities.modes[0] == "eager":
        return []
    return _findings(evidence.numbers)


def check_program(program: Program) -> list[Finding]:
    """Report numeric attributes that a compiled step changes and uses."""
    return _findings(program.counted_once)


def _findings(changed: Collection[str]) -> list[Finding]:
    if not changed:
        return []
    return [
        Finding(
            code="PG445",
            name="CountedOnce",
            severity="warning",
            happened="`train_step` changes numbers that are not variables:",
            items=tuple(sorted(changed)),
            expected="state that changes from step to step is held in a `keras.Variable`.",
            fix="hold a `keras.Variable` and `assign` to it.",
        )
    ]
