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
"""Where there are more, two passes are not compared as wholes."""


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
    if not apart or _may_be_reordered(evidence, again):
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


def _may_be_reordered(evidence: Evidence, again: Sequence[np.ndarray]) -> bool:
    """Return whether two passes have, or may have, the same rows in another order."""
    one, two = (evidence.validation_again(_MOST_BATCHES) for _ in range(2))
    if one and two:
        first, second = _rows(one), _rows(two)
        return first is not None and first == second
    # A pass is longer. Labels in one order, beside other inputs, are not shuffled.
    pairs = zip(evidence.validation or (), again, strict=True)
    in_order = [_content(a) == _content(b) and len({*map(_content, a)}) > 1 for a, b in pairs]
    return not any(in_order)


def _rows(columns: Sequence[np.ndarray]) -> Counter[object] | None:
    """Return the rows of columns, and how often each occurs; `None` if they differ in length."""
    if len({len(column) for column in columns}) != 1:
        return None
    return Counter(tuple(map(_content, row)) for row in zip(*columns, strict=True))


def _content(array: np.ndarray) -> object:
    """Return what identifies an array's content; the bytes of an object array are addresses."""
    array = np.asarray(array)
    return array.tolist() if array.dtype.kind == "O" else array.tobytes()
