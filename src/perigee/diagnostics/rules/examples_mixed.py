"""PG233, ExamplesMixed: an output that depends on other examples of the batch.

In inference mode the output for one example must not depend on the others in its batch. It does
after a softmax or a mean over axis 0, or a reshape that moves the batch axis. For models that
compare the examples of a batch on purpose, pass `ignore=["PG233"]`.

How sure: a warning, shown by the outputs: those of other examples change with the first one. It may
be meant.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_FEWEST = 4
_CHANGED = 1e-3
"""Relative to the largest output: far above the effect of summation order in float32."""


def check(evidence: Evidence) -> list[Finding]:
    """Change the first example, and compare the outputs for the others."""
    found: list[Finding] = []
    seen: set[int] = set()
    for call in evidence.trained:
        if id(call.layer) in seen or call.inputs is None or not _rows(call.inputs):
            continue
        seen.add(id(call.layer))
        rows = _rows(call.inputs)
        before = evidence.outputs(call, call.inputs)
        after = evidence.outputs(call, keras.tree.map_structure(_changed, call.inputs))
        for old, new in zip(before, after, strict=True):
            if old.shape[:1] != (rows,) or old.dtype.kind != "f" or not np.isfinite(old).all():
                continue
            gaps = np.abs(new - old).astype("float64").reshape(rows, -1).max(axis=1)[1:]
            if gaps.max() > _CHANGED * max(np.abs(old).max(), 1e-6):
                other = int(gaps.argmax()) + 1
                found.append(_finding(call.layer.name, other, float(gaps.max())))
                break
    return found


def _rows(inputs: Any) -> int:
    sizes = {leaf.shape[:1] for leaf in keras.tree.flatten(inputs)}
    (first, *_) = next(iter(sizes), ()) or (0,)
    return first if len(sizes) == 1 and first >= _FEWEST else 0


def _changed(leaf: np.ndarray) -> np.ndarray:
    changed = leaf.copy()
    changed[0] = leaf[1] if leaf.dtype.kind != "f" else 5.0 * leaf[1] + 3.0
    if leaf.dtype.kind != "f" and np.array_equal(leaf[0], leaf[1]):
        changed[0] = leaf[2]
    return changed


def _finding(model: str, other: int, gap: float) -> Finding:
    return Finding(
        code="PG233",
        name="ExamplesMixed",
        severity="warning",
        happened=f"The output of {model!r} for example {other} changes by {gap:.3g} when example 0 "
        "changes, in inference mode.",
        expected="the output for an example depends on that example alone.",
        fix="keep the batch axis (axis 0) out of softmax, means and reshapes.",
    )
