"""PG443, NormOfOne: BatchNorm that is trained on batches of one example.

The mean of one value is the value itself, so BatchNorm returns its bias for every input. Use larger
batches, `LayerNormalization` or `GroupNormalization`.

How sure: a warning, shown by the shape of what the layer was given.
"""

from __future__ import annotations

import numpy as np
from keras import layers as kl

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Find BatchNorm that averages over the batch axis alone."""
    if evidence.size != 1:
        return []
    found = tuple(
        inner.layer.path
        for inner in evidence.hidden
        if isinstance(inner.layer, kl.BatchNormalization)
        and inner.layer.trainable
        and inner.inputs
        and np.prod(inner.inputs[0].shape[:-1]) == 1
    )
    if not found:
        return []
    return [
        Finding(
            code="PG443",
            name="NormOfOne",
            severity="warning",
            happened="BatchNorm takes the mean of a single value, in batches of one example:",
            items=found,
            expected="batches of several examples.",
            fix="raise `batch_size`, or use `LayerNormalization`.",
        )
    ]
