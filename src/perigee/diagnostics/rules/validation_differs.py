"""PG329, ValidationDiffers: validation data that differs each time.

Two evaluations of one model then differ. Augment only the training data, split it before it is
shuffled, and validate on the same examples each time. Their order makes no difference.

How sure: a warning, shown by two passes over the data.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_MOST_BATCHES = 128
"""Where more are shuffled, their order is not told from other examples."""


def check(evidence: Evidence) -> list[Finding]:
    """Draw the validation data twice, and compare."""
    if not evidence.validation:
        return []
    again = evidence.validation_again()
    if len(again) != len(evidence.validation):
        return []
    apart = [
        index
        for index, (one, two) in enumerate(zip(evidence.validation, again, strict=True))
        if one.shape != two.shape or _content(one) != _content(two)
    ]
    if not apart or _are_reordered(evidence):
        return []
    return [
        Finding(
            code="PG329",
            name="ValidationDiffers",
            severity="warning",
            happened=f"batch[{apart[0]}] of the validation data differs between two passes.",
            expected="the same examples in each evaluation.",
            fix="split the data before it is shuffled, and do not augment the validation data, or "
            "seed its randomness.",
        )
    ]


def _are_reordered(evidence: Evidence) -> bool:
    """Return whether two passes have the same rows, in another order."""
    one, two = (evidence.validation_again(_MOST_BATCHES) for _ in range(2))
    first, second = _rows(one), _rows(two)
    return first is not None and first == second


def _rows(columns: Sequence[np.ndarray]) -> Counter[object] | None:
    """Return the rows of columns, and how often each occurs; `None` if they differ in length."""
    if len({len(column) for column in columns}) != 1:
        return None
    return Counter(tuple(map(_content, row)) for row in zip(*columns, strict=True))


def _content(array: np.ndarray) -> object:
    """Return what identifies an array's content; the bytes of an object array are addresses."""
    array = np.asarray(array)
    return array.tolist() if array.dtype.kind == "O" else array.tobytes()
