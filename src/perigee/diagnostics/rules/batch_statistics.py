"""PG235, BatchStatistics: normalization by the statistics of a part of a batch.

`BatchNormalization` normalizes each value by the mean and the variance of the rows that it is given
at once. With `accumulate=k` these are the rows of a micro-batch, on several replicas of TensorFlow
those of a share, and its moving averages follow them. So the loss, the gradients and what is logged
differ from those of one step on all rows; the fewer rows a part has, the more. Everything else is
added up exactly. It is no error, and it is what Keras does.

With parts of a few rows, use `keras.layers.GroupNormalization` or `LayerNormalization`. On
replicas, `BatchNormalization(synchronized=True)` has the statistics of all of them. A model that is
fine-tuned may run it in inference mode: `model(x, training=False)`.

How sure: a warning, read from the layers, and shown by the loss or a log that depends on their
statistics.
"""

from __future__ import annotations

from perigee.diagnostics._finding import Finding
from perigee.diagnostics._rows import Rows


def check(rows: Rows) -> list[Finding]:
    """Report layers that normalize by statistics of a part, if the loss or a log depends on it."""
    if not rows.normalized:
        return []
    return [
        Finding(
            code="PG235",
            name="BatchStatistics",
            severity="warning",
            happened=f"`BatchNormalization` uses the statistics of a {rows.parts}:",
            items=tuple(rows.layers),
            expected="those of all rows of an update, where it is to equal one large batch.",
            fix="use `GroupNormalization` or `LayerNormalization`, larger parts, or, on replicas, "
            "`synchronized=True`; ignore this if it is meant.",
        )
    ]
