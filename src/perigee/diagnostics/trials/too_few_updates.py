"""PG716, TooFewUpdates: in trials, the program learns if it trains for longer.

Checked at `level="full"`, where the number of epochs is known (`epochs=`, or what a file passes to
`fit`) and makes fewer than 150 updates: the program is trained for the updates that it has now,
and for up to ten times as many; see PG713. Each batch makes one update, so that large batches make
few.

How sure: a warning, shown by losses on rows that were not trained on, with more updates and
without.
"""

from __future__ import annotations

from perigee.diagnostics._comparison import Comparison, told
from perigee.diagnostics._finding import Finding


def check(trials: Comparison) -> list[Finding]:
    """Report the number of updates as the cause."""
    cause = trials.cause
    if cause is None or cause.kind != "updates":
        return []
    steps, updates = cause.variation.steps, trials.updates
    return [
        Finding(
            code="PG716",
            name="TooFewUpdates",
            severity="warning",
            happened=told(f"With {steps} updates instead of {updates}", cause),
            expected="enough updates to learn what the rows hold.",
            fix="train for more epochs, or use smaller batches: each batch makes one update.",
        )
    ]
