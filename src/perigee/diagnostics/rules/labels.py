"""PG203 to PG206: labels and predictions that do not match each other or the loss."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import ops

from perigee._errors import (
    BroadcastError,
    LabelEncodingError,
    LabelRangeError,
    LogitsError,
    PerigeeError,
    refuse,
)
from perigee._rehearsal.recorder import LossCall
from perigee._step.frame import ignored_codes
from perigee._step.losses import (
    BINARY,
    CATEGORICAL,
    ELEMENTWISE,
    SPARSE,
    Computation,
    computation_of,
)
from perigee._step.masks import mask_of
from perigee.diagnostics._recording import look
from perigee.diagnostics.fence import guarded

_SUM_TOLERANCE = 2e-2  # a row of float16 probabilities sums to 1 within this
_RANGE_TOLERANCE = 0.5
"""How far labels 0 and 1 may lie outside: GANs train on 1 plus noise, or on 0.7 to 1.2. Beyond
that, a label is nearer to another class id."""
_SAME = 1e-4
_KNOWN = 1e-5, 15.0
"""Between these values Keras's crossentropies clip nothing, so that they can be compared."""


class LossChecks:
    """Examines each call of a loss in the first batch, before the loss runs.

    Attributes:
        may_mix: Whether labels `(batch,)` were compared with predictions `(batch, 1)`, or the
            reverse, in a user's loss whose arguments Keras does not bring to one rank: a probe
            decides then.
        right: Losses that expect logits, got probabilities, and still have the right value, since
            Keras recovered the logits. By id.
    """

    def __init__(self) -> None:
        self.may_mix: bool = False
        self.right: dict[int, Any] = {}

    def __call__(self, call: LossCall) -> None:
        """Examine one call."""
        what = computation_of(call.loss)
        check(call, what, lambda: self.right.update({id(call.loss): call.loss}))
        if what.is_own and not what.is_aligned:
            shapes = [tuple(getattr(part, "shape", ())) for part in (call.y_true, call.y_pred)]
            lower, higher = sorted(shapes, key=len)
            self.may_mix |= len(lower) == 1 and len(higher) == 2 and higher[-1] == 1


def check(call: LossCall, what: Computation, is_right: Callable[[], None]) -> None:
    """Refuse a call of a Keras loss whose labels or predictions cannot be right.

    Only its author knows what a user's own loss accepts.

    Args:
        call: The call.
        what: What its loss computes.
        is_right: Called if probabilities are treated as logits and the value is still right.
    """
    y_true, y_pred = call.y_true, call.y_pred
    if what.is_own or not (hasattr(y_true, "shape") and hasattr(y_pred, "shape")):
        return
    ignored = ignored_codes()
    wrong = _of_shapes(what, tuple(y_true.shape), tuple(y_pred.shape))
    if wrong is not None:
        refuse(wrong, ignored)
        return
    mask = mask_of(y_pred) if what.kind in SPARSE else None
    seen = (y_true, y_pred) if mask is None else (y_true, y_pred, mask)
    look(seen, guarded(partial(_check_values, what, ignored)))
    if what.kind in SPARSE | CATEGORICAL or (what.kind in BINARY and what.from_logits):
        seen = guarded(partial(_check_scale, what, ignored, is_right))
        _look_at_scale(what, y_true, y_pred, seen)


def _of_shapes(
    what: Computation, true: tuple[Any, ...], pred: tuple[Any, ...]
) -> PerigeeError | None:
    """Return what is wrong with the shapes of labels and predictions."""
    classes = pred[what.axis] if -len(pred) <= what.axis < len(pred) else None
    is_alike = len(true) == len(pred)
    if what.kind in SPARSE:
        if is_alike and len(pred) > 1 and classes != 1 and true[what.axis] == classes:
            return LabelEncodingError(what.name, true, pred, "CategoricalCrossentropy")
        return None
    if what.kind in CATEGORICAL:
        is_column = is_alike and bool(true) and true[what.axis] == 1
        if (is_column or len(true) == len(pred) - 1) and (classes or 0) > 1:
            return LabelEncodingError(what.name, true, pred, "SparseCategoricalCrossentropy")
        if classes == 1:
            return LabelEncodingError(what.name, true, pred, "BinaryCrossentropy")
    if what.kind not in ELEMENTWISE or not true or not pred:
        return None
    # Keras itself brings (batch,) and (batch, 1) to one rank; remaining differences broadcast.
    if len(true) == len(pred) + 1 and true[-1] == 1:
        true = true[:-1]
    if len(pred) == len(true) + 1 and pred[-1] == 1:
        pred = pred[:-1]
    if None not in (true[0], pred[0]) and true[0] != pred[0]:
        return None  # not one label per example: one for all of them, or Keras rejects it
    known = [(a, b) for a, b in zip(true, pred, strict=False) if None not in (a, b)]
    if len(true) != len(pred) or any(a != b and 1 in (a, b) for a, b in known):
        return BroadcastError(what.name, true, pred)
    return None


def _check_values(
    what: Computation,
    ignored: Collection[str],
    true: np.ndarray,
    pred: np.ndarray,
    mask: np.ndarray | None = None,
) -> None:
    if pred.size == 0 or true.size == 0 or pred.dtype.kind not in "fV":
        return
    wrong = _of_range(what, true, pred.shape, mask)
    if wrong is not None:
        refuse(wrong, ignored)
    pred = pred.astype(np.float64)
    is_probability = what.kind in BINARY and not what.from_logits
    if is_probability and np.isfinite(pred).all() and not _in_unit(pred):
        refuse(LogitsError(what.name, False, float(pred.min()), float(pred.max())), ignored)


def check_range(what: Computation, true: np.ndarray, pred: tuple[int, ...]) -> None:
    """Refuse labels for which a loss is not defined.

    Args:
        what: What the loss computes.
        true: Labels.
        pred: The shape of predictions.

    Raises:
        LabelRangeError: If one is out of range.
    """
    wrong = _of_range(what, true, pred)
    if wrong is not None:
        raise wrong


def _of_range(
    what: Computation, true: np.ndarray, pred: tuple[int, ...], mask: np.ndarray | None = None
) -> LabelRangeError | None:
    if true.dtype.kind not in "biufV":
        return None
    true = true.astype(np.float64)
    if what.kind in SPARSE:
        classes = pred[what.axis] if pred else 1
        bad = (true < 0) | (true >= classes)
        if what.settings.get("ignore_class") is not None:
            bad &= true != what.settings["ignore_class"]
        if mask is not None and mask.size == bad.size:
            bad &= mask.astype(bool).reshape(bad.shape)
        number, high = int, classes - 1
    elif what.kind in BINARY:
        bad = (true < -_RANGE_TOLERANCE) | (true > 1 + _RANGE_TOLERANCE)
        number, high = float, 1
    else:
        return None
    if not bad.any():
        return None
    row = tuple(int(i) for i in np.argwhere(bad)[0])
    return LabelRangeError(what.name, number(true[row]), row[0], 0, high)


def _look_at_scale(what: Computation, y_true: Any, y_pred: Any, at: Callable[..., None]) -> None:
    """Show predictions, the values of the loss, and its values with the other `from_logits`.

    On some frameworks Keras recovers the logits from a softmax, and it normalizes positive numbers
    that do not sum to 1: only the values tell.
    """
    try:
        y_pred = ops.convert_to_tensor(y_pred, dtype=keras.backend.floatx())
        # Always a new tensor, so that it lacks what Keras attached to the first one.
        is_binary = what.kind in BINARY
        size = 1.0 if is_binary else ops.sum(y_pred, axis=what.axis, keepdims=True)
        weights = y_pred / size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras gives the same warning, in the observed call
            values = what.values(y_true, y_pred)
        meant = what.values(y_true, weights, from_logits=False)
    except Exception:
        return  # the loss rejects it too, with its own message
    look((y_pred, values, meant), at)


def _check_scale(
    what: Computation,
    ignored: Collection[str],
    is_right: Callable[[], None],
    pred: np.ndarray,
    values: np.ndarray,
    meant: np.ndarray,
) -> None:
    pred = pred.astype(np.float64)
    if not pred.size or not np.isfinite(pred).all():
        return
    low, high = float(pred.min()), float(pred.max())
    if what.from_logits and (not _in_unit(pred) or pred.size < 2):
        return
    if what.from_logits and what.kind not in BINARY:
        # One row may sum to 1 by chance; a batch of rows, of several classes each, is a softmax.
        sums = pred.sum(axis=what.axis)
        if np.any(np.abs(sums - 1) > _SUM_TOLERANCE) or sums.size < 2 or pred.shape[what.axis] < 2:
            return
    if not what.from_logits and _in_unit(pred):
        return
    if low >= 0:
        known = (meant > _KNOWN[0]) & (meant < _KNOWN[1])
        if not known.any():
            return
        if np.allclose(values[known], meant[known], _SAME, 0):
            is_right()
            return
    if what.kind not in BINARY:  # logits between 0 and 1 are possible too
        refuse(LogitsError(what.name, bool(what.from_logits), low, high), ignored)


def _in_unit(pred: np.ndarray) -> bool:
    return bool(pred.min() >= -_SUM_TOLERANCE and pred.max() <= 1 + _SUM_TOLERANCE)
