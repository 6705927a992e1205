"""PG238, RememberedRows: a loss that depends on what the step kept of the batch before.

A queue of keys, a memory bank, centers of classes, a codebook of moving averages, and the states of
stateful recurrent layers are written from the rows of one batch and read with the next. With
`accumulate` the second micro-batch of an update sees what the first one wrote, where one large
batch would see what was there before. On several replicas of TensorFlow a variable that a step
assigns becomes the mean over the replicas, which is right for averages and wrong for a queue. It is
shown by running the step twice: its loss changes with what the first run wrote, and that depends on
the rows.

How sure: a warning, shown by the loss, which changes with what the first run of the step wrote.
"""

from __future__ import annotations

from perigee.diagnostics._finding import Finding
from perigee.diagnostics._rows import Rows


def check(rows: Rows) -> list[Finding]:
    """Report such variables."""
    names = tuple(rows.remembered)
    if not names:
        return []
    return [
        Finding(
            code="PG238",
            name="RememberedRows",
            severity="warning",
            happened=f"The loss depends on what the step wrote from the rows of a {rows.parts} "
            "before:",
            items=names,
            expected="no such state, where an update is to equal one large batch.",
            fix="write it once an update, in a `Hook` or with larger batches, or ignore this if "
            "it is meant.",
        )
    ]
