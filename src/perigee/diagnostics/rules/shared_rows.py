"""PG323, SharedRows: validation examples that are also in the training data.

They measure how well the model memorizes. Split first, and augment or copy afterwards. Rows of
integers alone (tokens, categories) may be equal by chance and are not compared. It is a hint where
the whole training data is validated on, as to see its loss without Dropout.

How sure: a warning or, as said, a hint, shown by the bytes of the rows.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_FEWEST, _SHARE = 5, 0.01


def check(evidence: Evidence) -> list[Finding]:
    """Compare the inputs of both by their bytes."""
    if not evidence.columns or not evidence.validation:
        return []
    x, other = evidence.columns[0], evidence.validation[0]
    if x.dtype.kind != "f" or x.dtype != other.dtype or x.shape[1:] != other.shape[1:]:
        return []
    known = {row.tobytes() for row in np.ascontiguousarray(x)}
    shared = sum(row.tobytes() in known for row in np.ascontiguousarray(other))
    if shared < _FEWEST or shared < _SHARE * len(other):
        return []
    is_whole = shared == len(other) == len(x)
    return [
        Finding(
            code="PG323",
            name="SharedRows",
            severity="hint" if is_whole else "warning",
            happened=f"{shared} of {len(other)} validation examples are also in the training data.",
            expected="examples that the model has not seen.",
            fix="split the data before anything is copied, augmented or shuffled.",
        )
    ]
