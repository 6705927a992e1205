"""PG221, LabelsIgnored: a loss that does not change with the labels.

The batch contains labels, but `train_step` has the same loss for other labels: it compares
predictions with something else, such as their own argmax. For training without labels, pass data
without them, leave them out by name (`x, _ = batch`), or `ignore=["PG221"]`.

How sure: a warning, shown by the loss, which is the same for other labels. It may be meant.
"""

from __future__ import annotations

import inspect

import keras
import numpy as np

from perigee._step.bytecode import unpacked
from perigee._step.step import Step
from perigee._typing import Batch
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Reverse labels within their range, and roll them, and compare the loss."""
    batch = evidence.batches[0]
    if not isinstance(batch, tuple) or len(batch) not in (2, 3) or not evidence.is_repeatable:
        return []
    if _are_left_out(evidence.step):
        return []
    flat = keras.tree.flatten(batch)
    first = len(keras.tree.flatten(batch[0]))
    base = evidence.loss(batch)
    last = first + len(keras.tree.flatten(batch[1]))
    candidates = [(i, np.asarray(flat[i])) for i in range(first, last) if flat[i] is not None]
    usable = [(i, leaf) for i, leaf in candidates if leaf.dtype.kind in "fiu" and leaf.ndim]
    usable = [(i, leaf) for i, leaf in usable if len(np.unique(leaf)) > 1]
    if not usable:
        return []
    others = [
        _with(batch, {i: change(leaf) for i, leaf in usable}) for change in (_turned, _rolled)
    ]
    if any(evidence.loss(other) != base for other in others):
        return []
    # A last layer of zeros predicts the same for all examples, and so does a dead one.
    moved = evidence.loss(batch, change_weights=True)
    if any(evidence.loss(other, change_weights=True) != moved for other in others):
        return []
    return [
        Finding(
            code="PG221",
            name="LabelsIgnored",
            severity="warning",
            happened=f"The loss is {base:.6g} with these labels and with others.",
            expected="a loss that changes with the labels of the batch.",
            fix="compare the predictions with the labels of the batch; for training without "
            "labels, pass data without them, or write `x, _ = batch`.",
        )
    ]


def _are_left_out(step: Step) -> bool:
    """Return whether the code of a step says that it does not use labels: `x, _ = batch`."""
    code = getattr(
        inspect.unwrap(step._function("train_step") or step.train_step), "__code__", None
    )
    if code is None:
        return False
    last = code.co_varnames[code.co_argcount - 1]
    sets = [[last], *unpacked(code, last)] if code.co_argcount else []
    return any(names[-1].startswith("_") for names in sets)


def _turned(leaf: np.ndarray) -> np.ndarray:
    return (leaf.max() + leaf.min() - leaf).astype(leaf.dtype)


def _rolled(leaf: np.ndarray) -> np.ndarray:
    return np.roll(leaf, 1, axis=0)


def _with(batch: Batch, leaves: dict[int, np.ndarray]) -> Batch:
    flat = [leaves.get(i, leaf) for i, leaf in enumerate(keras.tree.flatten(batch))]
    return keras.tree.pack_sequence_as(batch, flat)
