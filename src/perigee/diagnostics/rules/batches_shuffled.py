"""PG328, BatchesShuffled: whole batches are shuffled, so each always holds the same examples.

The data is shuffled after it is batched, so the same examples share a batch in every epoch. Shuffle
first: `dataset.shuffle(n).batch(32)`.

How sure: a warning, shown by two passes over the data: the same batches in another order.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from perigee._typing import Batch
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_FEWEST = 3


def check(evidence: Evidence) -> list[Finding]:
    """Draw the first batches again, and look them up among those of the first pass."""
    if evidence.is_of_arrays or len(evidence.batches) < _FEWEST or evidence.size < 2:
        return []
    first, again = _keys(evidence.batches), _keys(evidence.batches_again)
    if len(set(first)) < _FEWEST or first == again or len(again) < _FEWEST:
        return []
    if not set(again) <= set(first):
        return []
    return [
        Finding(
            code="PG328",
            name="BatchesShuffled",
            severity="warning",
            happened=f"The {len(again)} batches of a second pass are those of the first, in "
            "another order.",
            expected="examples that share a batch with different ones in each epoch.",
            fix="shuffle before batching.",
        )
    ]


def _keys(batches: Sequence[Batch]) -> list[bytes]:
    return [
        b"".join(np.asarray(leaf).tobytes() for leaf in keras.tree.flatten(batch))
        for batch in batches
    ]
