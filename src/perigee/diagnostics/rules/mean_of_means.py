"""PG216, MeanOfMeans: a loss that is divided by the number of tokens in its batch.

The mean over an epoch is then a mean of means, in which a token of a batch with few tokens counts
more. With micro-batches and with several devices the gradients change too. `pg.mean(values, mask)`
keeps the sum and the count separate, so that every token counts the same.

How sure: a hint, shown by the losses of a batch and of its halves. It may be meant.
"""

from __future__ import annotations

import keras
import numpy as np

from perigee._typing import Batch
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_SAME, _APART = 1e-6, 1e-5


def check(evidence: Evidence) -> list[Finding]:
    """Compare the loss of a batch with the losses of its halves, weighted by tokens."""
    bare = evidence.training.are_bare.get("loss", ())
    if evidence.is_of_keras or not all(bare) or evidence.size < 4 or evidence.size % 2:
        return []
    by_row = [
        np.count_nonzero(leaf, axis=1)
        for leaf in evidence.leaves
        if leaf.ndim == 2 and (leaf.dtype.kind in "iub" or set(np.unique(leaf)) <= {0.0, 1.0})
    ]
    by_row = [counts for counts in by_row if len(np.unique(counts)) > 1]
    if not by_row or not evidence.is_repeatable:
        return []
    order = np.argsort(by_row[0], kind="stable")  # one half has the short rows
    batch = keras.tree.map_structure(lambda leaf: np.asarray(leaf)[order], evidence.batches[0])
    counts = [row[order].reshape(2, -1).sum(axis=1) for row in by_row]
    counts = [count for count in counts if count.all()]
    whole = evidence.loss(batch)
    halves = [evidence.loss(_half(batch, evidence.size, i)) for i in (0, 1)]
    if not whole or None in halves:
        return []
    by_word = [np.average(np.asarray(halves, "float64"), weights=count) for count in counts]
    plain = np.mean(np.asarray(halves, "float64"))
    if abs(whole - plain) <= _APART * abs(whole):
        return []
    if all(abs(whole - mean) > _SAME * abs(whole) for mean in by_word):
        return []
    return [
        Finding(
            code="PG216",
            name="MeanOfMeans",
            severity="hint",
            happened=f"The loss of a batch is {whole:.6g}; the mean of its halves is {plain:.6g}, "
            "as each is divided by its own number of tokens.",
            expected="a loss in which each token counts the same, whatever its batch.",
            fix="return `pg.mean(values, mask)`, which keeps sum and count separate.",
        )
    ]


def _half(batch: Batch, size: int, index: int) -> Batch:
    part = slice(index * size // 2, (index + 1) * size // 2)
    return keras.tree.map_structure(lambda leaf: np.asarray(leaf)[part], batch)
