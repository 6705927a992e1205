"""PG326, UnknownIds: ids outside the range of an `Embedding`.

An embedding with `input_dim=1000` has the ids 0 to 999. On a CPU, TensorFlow raises for others;
under XLA and on a GPU it silently returns another row, or zeros, as JAX does.

How sure: an error, shown by the id and the size of the embedding.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Examine the ids given to embeddings, and all known rows of the same leaf."""
    found: dict[str, Finding] = {}
    for lookup in evidence.training.lookups:
        known, size = lookup.layer.input_dim, lookup.ids.size
        if not size or lookup.layer.path in found:
            continue
        where, ids = _column(evidence, lookup.ids)
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


def _column(evidence: Evidence, ids: np.ndarray) -> tuple[str, np.ndarray]:
    """Return all rows of the leaf, or of its column, that contains the ids."""
    for index, (leaf, column) in enumerate(zip(evidence.leaves, evidence.columns, strict=False)):
        if leaf.shape == ids.shape and np.array_equal(leaf, ids):
            return f"batch[{index}]", column
        for j in range(leaf.shape[1] if leaf.ndim == 2 else 0):
            if leaf[:, j].shape == ids.shape and np.array_equal(leaf[:, j], ids):
                return f"batch[{index}][:, {j}]", column[:, j]
    return "the batch", ids
