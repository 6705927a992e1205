"""PG420, Recompiled: a step that is recompiled repeatedly, since its batches differ in size.

Compiled code is specific to sizes. On TensorFlow an axis that varies is left undefined the second
time, so nothing more is compiled; on JAX, and under XLA, each new size costs a compilation.
Compilations are counted, not sizes: one, and one more for each axis that varies (such as that of
the smaller last batch), are usual. Pad the batches to one length, or to a few (bucketing), and mask
the padding.

How sure: a warning, shown by the number of compilations.
"""

from __future__ import annotations

from collections.abc import Sequence

from perigee._execution import Program
from perigee.diagnostics._finding import Finding


def check_changes(changes: int, attributes: Sequence[str]) -> list[Finding]:
    """Report a Step that is recompiled since its attributes change.

    Args:
        changes: How often it was recompiled.
        attributes: What differed the last time, by path.
    """
    return [
        Finding(
            code="PG420",
            name="Recompiled",
            severity="warning",
            happened=f"The Step was recompiled {changes} times, since its attributes change:",
            items=tuple(attributes),
            expected="attributes that do not change while the Step trains.",
            fix="keep changing numbers in a `keras.Variable` or in the batch, and growing "
            "collections in a `collections.deque` or in an object of your own.",
        )
    ]


def check(program: Program) -> list[Finding]:
    """Report the first function that was compiled more often than its varying sizes require."""
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
            fix="pad the batches to one length, or to a few (bucketing), and mask the padding.",
        )
    ]
