"""PG420, Recompiled: a step that is compiled again and again, since its batches differ in size.

Compiled code is made for sizes. On TensorFlow an axis that varies is left open the second time, so
that no more is compiled; on JAX, and where XLA compiles, each new size costs a compilation. One
for a smaller last batch is usual. Pad the batches to one length, or to a few (bucketing), and mask
what is added.
"""

from __future__ import annotations

from collections.abc import Sequence

from perigee._execution import Program
from perigee.diagnostics._finding import Finding

_USUAL_TRACES = 2
"""One, and one more for a smaller last batch or for the axis that varies."""


def check_changes(changes: int, attributes: Sequence[str]) -> list[Finding]:
    """Tell of a Step that is compiled again since attributes of it change.

    Args:
        changes: How often it was compiled again.
        attributes: What was different the last time, by path.
    """
    return [
        Finding(
            code="PG420",
            name="Recompiled",
            severity="warning",
            happened=f"The Step was compiled again {changes} times, since what it holds changes:",
            items=tuple(attributes),
            expected="attributes that stay as they are while the Step trains.",
            fix="keep numbers that change in a `keras.Variable` or in the batch, and what grows in "
            "a `collections.deque` or in an object of your own.",
        )
    ]


def check(program: Program) -> list[Finding]:
    """Tell of the first time that a function was compiled more often than is usual."""
    many = [change for traces, change in program.retraces if traces > _USUAL_TRACES]
    if not many:
        return []
    return [
        Finding(
            code="PG420",
            name="Recompiled",
            severity="warning",
            happened=f"The step was compiled {_USUAL_TRACES + 1} times, the last time since a "
            f"batch has another size: {many[0]}.",
            expected="batches of few different sizes: each new one costs a compilation.",
            fix="pad the batches to one length, or to a few (bucketing), and mask what is added.",
        )
    ]
