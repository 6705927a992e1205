"""PG761, UndividedBatch: batches that do not divide evenly over the devices.

Under `keras.distribution` a batch is split along its first axis. If the rows do not divide evenly,
each device gets all of them: the results are the same, but several devices bring no speedup. For
the smaller last batch of a pass this is unavoidable, and is not reported.

How sure: a warning, shown by the number of rows and of devices.
"""

from __future__ import annotations

from typing import Any

import keras

from perigee.diagnostics._finding import Finding


def check(batch: Any) -> list[Finding]:
    """Report a first batch whose rows do not divide evenly over the devices."""
    distribution = keras.distribution.distribution()
    shapes: list[tuple[int, ...]] = [
        tuple(getattr(leaf, "shape", ())) for leaf in keras.tree.flatten(batch)
    ]
    rows = {shape[0] for shape in shapes if shape}
    if distribution is None or len(rows) != 1:
        return []
    count, parts = rows.pop(), distribution.num_model_replicas
    if count % parts == 0:
        return []
    return [
        Finding(
            code="PG761",
            name="UndividedBatch",
            severity="warning",
            happened=f"A batch of {count} rows does not divide evenly over {parts} devices, so "
            "each computes all of it.",
            expected=f"a multiple of {parts} rows per batch.",
            fix=f"use {max(1, count // parts) * parts} rows per batch.",
        )
    ]
