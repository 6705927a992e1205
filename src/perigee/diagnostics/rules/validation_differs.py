"""PG329, ValidationDiffers: validation data that differs each time.

Two evaluations of one model then differ. Shuffle and augment only the training data, and validate
on the same examples each time.

How sure: a warning, shown by two passes over the data.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Draw the validation data twice, and compare."""
    if not evidence.validation:
        return []
    again = evidence.validation_again
    if len(again) != len(evidence.validation):
        return []
    apart = [
        index
        for index, (one, two) in enumerate(zip(evidence.validation, again, strict=True))
        if one.shape != two.shape or _content(one) != _content(two)
    ]
    if not apart:
        return []
    return [
        Finding(
            code="PG329",
            name="ValidationDiffers",
            severity="warning",
            happened=f"batch[{apart[0]}] of the validation data differs between two passes.",
            expected="the same examples, in the same order, in each evaluation.",
            fix="do not shuffle or augment the validation data, or seed its randomness.",
        )
    ]


def _content(array: np.ndarray) -> object:
    """Return what identifies an array's content; the bytes of an object array are addresses."""
    return array.tolist() if array.dtype.kind == "O" else array.tobytes()
