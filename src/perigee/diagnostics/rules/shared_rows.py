"""PG323, SharedRows: validation examples that are also in the training data.

They measure how well the model memorizes. Split first, and augment or copy afterwards. Inputs and
labels must both be equal. Examples of integers alone (tokens, categories), of few values in each
column, and of one value throughout (padding) may be equal by chance and are left alone. It is a
hint where the whole training data is validated on, as to see its loss without Dropout.

How sure: a warning or, as said, a hint, shown by the bytes of the rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_FEWEST, _SHARE = 5, 0.01
_MOST_ROWS = 2048


def check(evidence: Evidence) -> list[Finding]:
    """Compare inputs and labels of both by their bytes."""
    if not evidence.columns or not evidence.validation:
        return []
    count = _compared(evidence)
    pairs = list(zip(evidence.columns[:count], evidence.validation, strict=False))
    if len(pairs) < count or not any(x.dtype.kind == "f" for x, _ in pairs):
        return []
    if any(x.dtype != other.dtype or x.shape[1:] != other.shape[1:] for x, other in pairs):
        return []
    train, held_out = ([pair[side] for pair in pairs] for side in (0, 1))
    if any(len({len(leaf) for leaf in leaves if leaf.ndim}) != 1 for leaves in (train, held_out)):
        return []
    known, rows = set(_rows(train)), _rows(held_out)
    shared = sum(row in known for row in rows if row is not None)
    if shared < _FEWEST or shared < _SHARE * len(rows) or _are_equal_by_chance(train):
        return []
    is_whole = shared == len(rows) == len(train[0])
    return [
        Finding(
            code="PG323",
            name="SharedRows",
            severity="hint" if is_whole else "warning",
            happened=f"{shared} of {len(rows)} validation examples are also in the training data.",
            expected="examples that the model has not seen.",
            fix="split the data before anything is copied, augmented or shuffled.",
        )
    ]


def _compared(evidence: Evidence) -> int:
    """Return how many leaves make an example: inputs and labels, without weights."""
    batch = evidence.batches[0]
    return len(keras.tree.flatten(batch[:2] if isinstance(batch, tuple) else batch))


def _rows(leaves: Sequence[np.ndarray]) -> list[bytes | None]:
    """Return the bytes of each row; `None` for one of a single value, as of padding."""
    columns = [np.ascontiguousarray(leaf).reshape(len(leaf), -1) for leaf in leaves if leaf.size]
    floats = [column for column in columns if column.dtype.kind == "f"]
    are_flat = np.all([(column == column[:, :1]).all(axis=1) for column in floats], axis=0)
    one = sum(column.shape[1] for column in floats) == 1
    return [
        None if is_flat and not one else b"".join(row.tobytes() for row in parts)
        for is_flat, *parts in zip(are_flat, *columns, strict=True)
    ]


def _are_equal_by_chance(leaves: Sequence[np.ndarray]) -> bool:
    """Return whether rows with as few values in each column may be equal and not be copies.

    That is as likely as that two rows agree in each column, if columns are independent.
    """
    agree, length = 1.0, len(leaves[0])
    for leaf in leaves:
        sampled = leaf[np.linspace(0, length - 1, min(length, _MOST_ROWS)).astype(int)]
        for column in sampled.reshape(len(sampled), -1).T:
            _, counts = np.unique(column, return_counts=True)
            agree *= float(np.sum(counts * (counts - 1.0))) / (len(sampled) * (len(sampled) - 1.0))
            if agree * length < _SHARE:
                return False
    return True
