"""PG211: a hand-written loss that compares every label with every prediction."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import keras
import numpy as np

from perigee import _backends
from perigee._errors import PairingError, refuse
from perigee._rehearsal.discovery import Probe, Rehearsal
from perigee._step.losses import computation_of
from perigee._step.step import Step
from perigee._typing import Batch
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_UNCHANGED = 1e-5
"""Relative change below which float32 losses count as equal, for another summation order."""

_ROUNDED = 1e-6
"""The same as a part of what a label far out changes, where the losses themselves cancel."""

_CHANGED = 1e-3

_COMBINED = 1e-4
"""The same for a sum of four losses, as a part of the largest difference between them."""


def check(evidence: Evidence) -> list[Finding]:
    """Refuse the step as below; a loss whose computation is the user's own is not trusted."""
    rehearsal, seen = evidence.training.rehearsal, evidence.training.losses
    if rehearsal is not None:
        trusts_losses = bool(seen) and not any(computation_of(one.by).is_own for one in seen)
        check_rehearsal(
            evidence.step, rehearsal, evidence.batch, trusts_losses, lambda: evidence.probe
        )
    return []


def check_rehearsal(
    step: Step,
    rehearsal: Rehearsal,
    batch: Batch,
    trusts_losses: bool = True,
    probe: Callable[[], Probe] | None = None,
) -> None:
    """Refuse a step whose loss stays the same when labels are rolled by one row.

    Only leaves that look like labels with one value per example are tried. The loss must depend on
    their values: it must change when one label does.

    Args:
        step: The Step.
        rehearsal: The rehearsal of its `train_step`.
        batch: Tensors.
        trusts_losses: Whether a step that calls loss objects is skipped.
        probe: Returns a function that runs the step, if there is one already.
    """
    is_meant = PairingError.code in step.ignore_findings
    if is_meant or (trusts_losses and rehearsal.called_losses) or "loss" not in rehearsal.kinds:
        return
    candidates = _label_leaves(batch)
    if not candidates:
        return
    run = Probe(step, "train_step", rehearsal.tracked) if probe is None else probe()
    base = run(batch)["loss"]
    if _differs(base, run(batch)["loss"], _UNCHANGED):
        return  # a loss that differs between equal runs shows nothing
    for path, index, leaf in candidates:
        # A model initialized with zeros predicts the same for every example, and an absolute error
        # is linear where all labels lie on one side of the predictions: then no loss depends on the
        # pairs. Nor does it where all units are dead. Other weights, other labels and other inputs
        # must show the same.
        moved = partial(run, change_weights=True)
        if (
            all(
                _ignores_pairs(one, batch, index, labels)
                for one in (run, moved)
                for labels in (leaf, _centered(leaf))
            )
            and _meets_the_input(moved, batch, index, leaf)
            and all(_ignores_pairs(moved, other, index, leaf) for other in _other_inputs(batch))
        ):
            refuse(PairingError(path, leaf.shape), step.ignore_findings)
            return


def _meets_the_input(
    probe: Callable[[Batch], Mapping[str, Any]], batch: Batch, index: int, labels: np.ndarray
) -> bool:
    """Return whether the loss combines labels and inputs.

    A critic's loss is a sum of one term for each of them: it has no pairs.
    """
    others = _other_inputs(batch)
    if not others:
        return True

    def loss(one: Batch) -> float:
        return _mean(probe(one)["loss"])

    bumped = _bumped(labels)
    base, other = loss(batch), loss(_with(batch, index, bumped))
    # Two other inputs: by chance the mean prediction for one of them may be nearly the same.
    for moved in others:
        one, both = loss(moved), loss(_with(moved, index, bumped))
        scale = max(abs(corner - base) for corner in (one, other, both))
        if abs(both - one - other + base) > _COMBINED * scale:
            return True
    return False


def _other_inputs(batch: Batch) -> list[Batch]:
    """Return the batch with two other inputs; nothing if they are not floats."""
    first = keras.tree.flatten(batch)[0]
    if not _backends.current().is_tensor(first):
        return []
    value = np.asarray(_backends.current().to_host(first))
    if value.dtype.kind != "f":
        return []
    moves = (1.5, 0.5), (0.5, -1.0)
    return [
        _with(batch, 0, (value * factor + shift).astype(value.dtype)) for factor, shift in moves
    ]


def _ignores_pairs(
    probe: Callable[[Batch], Mapping[str, Any]], batch: Batch, index: int, labels: np.ndarray
) -> bool:
    rolled = _with(batch, index, np.roll(labels, 1, axis=0))
    bumped = _with(batch, index, _bumped(labels))
    base, other, far = (
        _mean(probe(one)["loss"]) for one in (_with(batch, index, labels), rolled, bumped)
    )
    # Centered weights of examples have a sum of 0, of which all digits are rounding.
    rounding = max(_UNCHANGED * abs(base), _ROUNDED * abs(far - base))
    return bool(abs(other - base) <= rounding) and _differs(base, far, _CHANGED)


def _label_leaves(batch: Batch) -> list[tuple[str, int, np.ndarray]]:
    """Return leaves of shape (batch,) or (batch, 1) with differing float or binary values.

    The first leaf of a batch is its input, unless it is the only one.
    """
    flat = keras.tree.flatten(batch)
    found = []
    for index, leaf in enumerate(flat):
        shape = tuple(getattr(leaf, "shape", ()))
        is_column = len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)
        if index == 0 or not is_column or not _backends.current().is_tensor(leaf):
            continue
        value = np.asarray(_backends.current().to_host(leaf))
        if value.dtype.kind not in "fiub" or len(value) < 3:
            continue
        if value.dtype.kind != "f" and len(np.unique(value)) > 2:
            continue
        if not np.array_equal(value, np.roll(value, 1, axis=0)):
            found.append((f"batch[{index}]", index, value))
    return found


def _centered(leaf: np.ndarray) -> np.ndarray:
    """Shift and scale floating labels to mean 0 and standard deviation 1."""
    if leaf.dtype.kind != "f":
        return leaf
    return ((leaf - leaf.mean()) / leaf.std()).astype(leaf.dtype)


def _bumped(leaf: np.ndarray) -> np.ndarray:
    changed = leaf.copy()
    if leaf.dtype.kind == "f":
        # Far out: moving to the other side of the prediction may leave the error unchanged.
        changed[0] += 3.0 * (1.0 + np.abs(leaf).max())
    else:
        changed[0] = leaf.max() if leaf[0] == leaf.min() else leaf.min()
    return changed


def _with(batch: Batch, index: int, value: np.ndarray) -> Batch:
    flat = list(keras.tree.flatten(batch))
    flat[index] = _backends.current().tensors(value)
    return keras.tree.pack_sequence_as(batch, flat)


def _mean(loss: Any) -> float:
    return float(np.mean(np.asarray(loss, np.float64)))


def _differs(a: Any, b: Any, tolerance: float) -> bool:
    return not bool(np.isclose(_mean(a), _mean(b), rtol=tolerance, atol=0, equal_nan=True))
