"""PG420, Recompiled: a step that is compiled again and again, since its batches differ in size.

Compiled code is made for sizes. On TensorFlow an axis that varies is left open the second time, so
that no more is compiled; on JAX, and where XLA compiles, each new size costs a compilation. What
counts are compilations, not sizes: one, and one more for each axis that varies (such as that of the
smaller last batch), are usual. Pad the batches to one length, or to a few (bucketing), and mask
what is added.
"""

from __future__ import annotations

from collections.abc import Sequence

from perigee._execution import Program
from perigee.diagnostics._finding import Finding


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
    """Tell of the first time that a function was compiled more often than sizes that vary need."""
    many = [again for again in program.retraces if again.traces > 1 + again.axes]
    if not many:
        return []
    again = many[0]
    return [
        Finding(
            code="PG420",
            name="Recompiled",
            severity="warning",
            happened=f"The step was compiled {again.traces} times for batches of other sizes, the "
            f"last time for this one: {again.change}.",
            expected="one compilation, and one more for each axis that varies.",
            fix="pad the batches to one length, or to a few (bucketing), and mask what is added.",
        )
    ]
