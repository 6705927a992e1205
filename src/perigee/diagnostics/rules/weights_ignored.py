"""PG215, WeightsIgnored: sample weights that do not change the loss.

The batch is `(x, y, sample_weight)`, but `train_step` has the same loss for other weights. Weight
the values: `pg.mean(values, sample_weight)`.

How sure: a warning, shown by the loss, which is the same for other weights.
"""

from __future__ import annotations

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Give the weights to other examples, and compare the loss."""
    batch = evidence.batches[0]
    if not isinstance(batch, tuple) or len(batch) != 3 or keras.tree.is_nested(batch[2]):
        return []
    weights = np.asarray(batch[2])
    is_column = weights.ndim == 1 or weights.shape[1:] == (1,)
    if weights.dtype.kind != "f" or not is_column or len(np.unique(weights)) < 2:
        return []
    if weights.min() < 0 or not evidence.is_repeatable:
        return []
    base = evidence.loss(batch)
    others = weights[::-1].copy(), np.roll(weights, 1, axis=0), 3.0 * weights**2
    for other in others:
        if evidence.loss((*batch[:2], other.astype(weights.dtype))) != base:
            return []
    return [
        Finding(
            code="PG215",
            name="WeightsIgnored",
            severity="warning",
            happened=f"The loss is {base:.6g} with these weights batch[2] and with others.",
            expected="a loss that weights each example.",
            fix="return `pg.mean(values, sample_weight)`, or remove the weights from the batch.",
        )
    ]
