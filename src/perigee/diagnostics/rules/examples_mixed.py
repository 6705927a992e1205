"""PG233, ExamplesMixed: an output that depends on other examples of the batch.

In inference mode the output for one example must not depend on the others in its batch. It does
after a softmax or a mean over axis 0, or a reshape that moves the batch axis. For models that
compare the examples of a batch on purpose, pass `ignore=["PG233"]`.

A step that puts the rows of a batch in another order must do so with inputs and labels alike.

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
        for old, new in zip(before, after, strict=False):
            if old.shape[:1] != (rows,) or old.dtype.kind != "f" or not np.isfinite(old).all():
                continue
            gaps = np.abs(new - old).astype("float64").reshape(rows, -1).max(axis=1)[1:]
            if gaps.max() > _CHANGED * max(np.abs(old).max(), 1e-6):
                other = int(gaps.argmax()) + 1
                found.append(_finding(call.layer.name, other, float(gaps.max())))
                break
    return found or _moved_apart(evidence)


def _moved_apart(evidence: Evidence) -> list[Finding]:
    """Find rows of a batch that a loss compares with the labels of others.

    The model was given the inputs of the batch, and the loss its labels, not in one order.
    """
    batch = evidence.batches[0]
    if not isinstance(batch, tuple) or len(batch) < 2 or len(evidence.trained) != 1:
        return []
    (call,) = evidence.trained
    x, y = keras.tree.flatten(batch[0])[:1], keras.tree.flatten(batch[1])[:1]
    given = keras.tree.flatten(call.inputs)[:1] if call.inputs is not None else []
    if not all(isinstance(leaf, np.ndarray) and leaf.ndim for leaf in (*x, *y)) or not given:
        return []
    places, outputs = _places(x[0], given[0]), call.outputs
    for seen in evidence.training.losses if places and y else ():
        labels, true = y[0], seen.y_true
        if not any(np.array_equal(made.reshape(-1), seen.y_pred.reshape(-1)) for made in outputs):
            continue
        if labels.size != true.size or len(labels) != len(true) or len(labels) != len(x[0]):
            continue
        labels = labels.reshape(len(labels), -1)
        true = true.reshape(len(true), -1).astype(labels.dtype)
        apart = [row for row, at in enumerate(places) if not (labels[at] == true[row]).all(1).any()]
        if apart and _rows_of(labels) == _rows_of(true):
            return [
                Finding(
                    code="PG233",
                    name="ExamplesMixed",
                    severity="warning",
                    happened=f"{call.layer.name!r} gets the inputs of the batch, and the loss its "
                    f"labels, in two orders: {len(apart)} of {len(true)} predictions are compared "
                    "with the label of another example.",
                    expected="each prediction is compared with the label of its own example.",
                    fix="shuffle before batches are made, or apply one order to inputs and labels.",
                )
            ]
    return []


def _places(x: np.ndarray, given: np.ndarray) -> list[list[int]]:
    """Return, for each row that a model was given, where it is in the batch; else nothing."""
    if x.size != given.size or len(x) != len(given) or x.dtype.kind not in "fiub":
        return []
    rows = x.reshape(len(x), -1)
    others = given.reshape(len(given), -1).astype(x.dtype)
    places = [np.flatnonzero((rows == row).all(axis=1)).tolist() for row in others]
    return places if all(places) else []


def _rows_of(values: np.ndarray) -> list[bytes]:
    return sorted(row.tobytes() for row in values)


def _rows(inputs: Any) -> int:
    sizes = {leaf.shape[:1] for leaf in keras.tree.flatten(inputs)}
    (first, *_) = next(iter(sizes), ()) or (0,)
    return first if len(sizes) == 1 and first >= _FEWEST else 0


def _changed(leaf: np.ndarray) -> np.ndarray:
    changed, may_be_ids = leaf.copy(), leaf.dtype.kind != "f" or bool(np.all(leaf == np.rint(leaf)))
    changed[0] = leaf[1] if may_be_ids else 5.0 * leaf[1] + 3.0
    if may_be_ids and np.array_equal(leaf[0], leaf[1]):
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
