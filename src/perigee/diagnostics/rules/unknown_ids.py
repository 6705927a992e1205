"""PG326, UnknownIds: ids outside the range of an `Embedding`, or of rows with a single 1.

An embedding with `input_dim=1000` has the ids 0 to 999. On a CPU, TensorFlow raises for others;
under XLA and on a GPU it silently returns another row, or zeros, as JAX does. A one-hot row of
depth 12 has the ids 0 to 11: for others, such as 12, it is all zeros, and they cannot be told
apart. Ids that were stored in 8 or 16 bits end at 255 or 65535, and larger ones wrap, which a table
with far more rows shows.

How sure: an error, shown by the id and the size of the embedding; a warning for rows of zeros.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_Leaf = tuple[np.ndarray, np.ndarray]
"""A leaf of the first batch, and all its known rows."""

_NEAR, _FAR = 3, 1.5
"""How near to the largest number of a type ids come, and how many times more a table has."""


def check(evidence: Evidence) -> list[Finding]:
    """Examine the ids given to embeddings, and all known rows of the same leaf."""
    found: dict[str, Finding] = {}
    for lookup in evidence.training.lookups:
        known, size = lookup.layer.input_dim, lookup.ids.size
        if not size or lookup.layer.path in found:
            continue
        where, ids = _column(evidence, lookup.ids)
        ids = np.trunc(ids) if ids.dtype.kind == "f" else ids  # as Keras does
        bad = np.argwhere((ids < 0) | (ids >= known))
        if not bad.size:
            continue
        place = ", ".join(str(int(i)) for i in bad[0])
        found[lookup.layer.path] = Finding(
            code="PG326",
            name="UnknownIds",
            severity="error",
            happened=f"{len(bad)} ids of {where} are outside 0..{known - 1}, the first one, "
            f"{int(ids[tuple(bad[0])])}, at [{place}]; {lookup.layer.path!r} has {known}.",
            expected=f"ids from 0 to {known - 1}.",
            fix="give the embedding an `input_dim` above the largest id, or map unknown ids to a "
            "known one.",
        )
    return list(found.values())


def check_rows(evidence: Evidence) -> list[Finding]:
    """Look for one-hot rows that lose ids of the inputs, and for ids of too few bits."""
    batch = evidence.batches[0]
    count = len(keras.tree.flatten(batch[0] if isinstance(batch, tuple) else batch))
    leaves = list(zip(evidence.leaves, evidence.columns, strict=False))[:count]
    return _without_one(evidence, leaves) or _too_short(evidence, leaves)


def _without_one(evidence: Evidence, leaves: Sequence[_Leaf]) -> list[Finding]:
    for index, (leaf, column) in enumerate(leaves):
        if not _are_ids(leaf) or not _are_ids(column):
            continue
        for made in _made(evidence):
            depth = made.shape[-1]
            if made.size != leaf.size * depth or not _are_of(leaf, made):
                continue
            lost = np.unique(column[column >= depth])
            if not lost.size:
                continue
            return [
                Finding(
                    code="PG326",
                    name="UnknownIds",
                    severity="warning",
                    happened=f"{np.mean(column >= depth):.0%} of the ids in batch[{index}] have "
                    f"no place in one-hot rows of depth {depth}, such as {int(lost[0])}: their "
                    "rows are all 0.",
                    expected=f"ids from 0 to {depth - 1}.",
                    fix=f"use a depth of {int(lost[-1]) + 1}, or map the ids to 0..{depth - 1}.",
                )
            ]
    return []


def _made(evidence: Evidence) -> Iterator[np.ndarray]:
    """Yield what layers are given and return that may be one-hot rows."""
    for call in evidence.trained:
        if call.inputs is None:
            continue
        inside = evidence.inside(call)
        inner = [array for one in inside for array in (*one.inputs, *one.outputs)]
        for array in (*keras.tree.flatten(call.inputs), *inner):
            if array.ndim > 1 and array.shape[-1] > 1:
                yield array


def _are_ids(values: np.ndarray) -> bool:
    if values.dtype.kind == "f":
        return bool(np.isfinite(values).all() and (values == np.floor(values)).all())
    return values.dtype.kind in "iu" and values.ndim > 0


def _are_of(ids: np.ndarray, rows: np.ndarray) -> bool:
    """Return whether each row has its single 1 at its id, or none where there is no such place."""
    flat, depth = ids.reshape(-1).astype("int64"), rows.shape[-1]
    rows = rows.reshape(-1, depth)
    is_known = (flat >= 0) & (flat < depth)
    if not is_known.any() or is_known.all():
        return False
    expected = np.zeros_like(rows)
    expected[np.flatnonzero(is_known), flat[is_known]] = 1
    return bool(np.array_equal(rows, expected))


def _too_short(evidence: Evidence, leaves: Sequence[_Leaf]) -> list[Finding]:
    for lookup in evidence.training.lookups:
        for index, (leaf, column) in enumerate(leaves):
            if leaf.dtype.kind not in "iu" or not np.array_equal(leaf, lookup.ids):
                continue
            most = int(np.iinfo(leaf.dtype).max)
            if column.max() < most - _NEAR or lookup.layer.input_dim < _FAR * (most + 1):
                continue
            return [
                Finding(
                    code="PG326",
                    name="UnknownIds",
                    severity="warning",
                    happened=f"The ids in batch[{index}] are {leaf.dtype.name}: they end at "
                    f"{most}, and {lookup.layer.path!r} has {lookup.layer.input_dim}.",
                    expected="ids of a type that holds all of them.",
                    fix='store the ids as "int32": larger ones begin at 0 again in fewer bits.',
                )
            ]
    return []


def _column(evidence: Evidence, ids: np.ndarray) -> tuple[str, np.ndarray]:
    """Return all rows of the leaf, or of its column, that contains the ids."""
    for index, (leaf, column) in enumerate(zip(evidence.leaves, evidence.columns, strict=False)):
        if leaf.shape == ids.shape and np.array_equal(leaf, ids):
            return f"batch[{index}]", column
        for j in range(leaf.shape[1] if leaf.ndim == 2 else 0):
            if leaf[:, j].shape == ids.shape and np.array_equal(leaf[:, j], ids):
                return f"batch[{index}][:, {j}]", column[:, j]
    return "the batch", ids
