"""PG203 to PG206: labels and predictions that do not fit each other or the loss."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import numpy as np

from perigee import _backends
from perigee._errors import BroadcastError, LabelEncodingError, LabelRangeError, LogitsError
from perigee._recorder import LossCall
from perigee.diagnostics.fence import guarded

_SPARSE = keras.losses.SparseCategoricalCrossentropy
_CATEGORICAL = (keras.losses.CategoricalCrossentropy, keras.losses.CategoricalFocalCrossentropy)
_BINARY = (keras.losses.BinaryCrossentropy, keras.losses.BinaryFocalCrossentropy)
_SUM_TOLERANCE = 2e-2  # a row of float16 probabilities sums to 1 within this


def check(call: LossCall) -> None:
    """Refuse a call of a Keras loss whose labels or predictions cannot be meant."""
    y_true, y_pred = call.y_true, call.y_pred
    if not (hasattr(y_true, "shape") and hasattr(y_pred, "shape")):
        return
    name = type(call.loss).__name__
    if not (is_own(call.loss) and _may_be_ids(y_true, y_pred)):
        _check_shapes(call.loss, name, tuple(y_true.shape), tuple(y_pred.shape))
    look = guarded(partial(_check_values, call.loss, name))
    _backends.current().observe((y_true, y_pred), look)


def _check_values(loss: Any, name: str, true: np.ndarray, pred: np.ndarray) -> None:
    if pred.size == 0 or true.size == 0 or pred.dtype.kind not in "fV":
        return
    true, pred = true.astype(np.float64), pred.astype(np.float64)
    if isinstance(loss, _SPARSE):
        _check_ids(loss, name, true, pred.shape[-1])
    _check_scale(loss, name, pred)
    if isinstance(loss, _BINARY):
        _check_unit_range(name, true)


def check_range(loss: Any, true: np.ndarray, classes: tuple[int, ...]) -> None:
    """Refuse labels that a loss has no value for.

    Args:
        loss: A Keras loss.
        true: Labels, as float64.
        classes: How many there are, `(num_classes,)`.

    Raises:
        LabelRangeError: If one lies outside.
    """
    if isinstance(loss, _SPARSE):
        _check_ids(loss, type(loss).__name__, true, classes[0])
    if isinstance(loss, _BINARY):
        _check_unit_range(type(loss).__name__, true)


def _check_shapes(loss: Any, name: str, true: tuple[Any, ...], pred: tuple[Any, ...]) -> None:
    if isinstance(loss, _SPARSE):
        if len(true) == len(pred) and len(pred) > 1 and true[-1] == pred[-1] and pred[-1] != 1:
            raise LabelEncodingError(name, true, pred, "CategoricalCrossentropy")
        return
    if isinstance(loss, _CATEGORICAL):
        is_column = len(true) == len(pred) and true[-1] == 1 and (pred[-1] or 0) > 1
        if is_column or len(true) == len(pred) - 1:
            raise LabelEncodingError(name, true, pred, "SparseCategoricalCrossentropy")
    # Keras brings (batch,) and (batch, 1) to one rank by itself; what differs after that
    # broadcasts.
    if len(true) == len(pred) + 1 and true[-1] == 1:
        true = true[:-1]
    if len(pred) == len(true) + 1 and pred[-1] == 1:
        pred = pred[:-1]
    known = [(a, b) for a, b in zip(true, pred, strict=False) if None not in (a, b)]
    if len(true) != len(pred) or any(a != b and 1 in (a, b) for a, b in known):
        raise BroadcastError(name, true, pred)


def is_own(loss: Any) -> bool:
    """Tell whether the user wrote the loss, so that only its author knows what it takes."""
    written = getattr(loss, "fn", None) or type(loss)
    return getattr(written, "__module__", "").partition(".")[0] != "keras"


def _may_be_ids(y_true: Any, y_pred: Any) -> bool:
    """Tell whether labels may be class ids, and predictions scores of the classes."""
    true, pred = tuple(y_true.shape), tuple(y_pred.shape)
    if not pred or pred[-1] in (None, 1):
        return False
    is_column = len(true) == len(pred) and true[-1:] == (1,) and "int" in str(y_true.dtype)
    return len(true) == len(pred) - 1 or is_column


def _check_ids(loss: Any, name: str, true: np.ndarray, classes: int) -> None:
    ignored = getattr(loss, "ignore_class", None)
    bad = (true < 0) | (true >= classes)
    if ignored is not None:
        bad &= true != ignored
    if bad.any():
        row = tuple(int(i) for i in np.argwhere(bad)[0])
        raise LabelRangeError(name, int(true[row]), row[0], 0, classes - 1)


def _check_unit_range(name: str, true: np.ndarray) -> None:
    bad = (true < 0) | (true > 1)
    if bad.any():
        row = tuple(int(i) for i in np.argwhere(bad)[0])
        raise LabelRangeError(name, float(true[row]), row[0], 0, 1)


def _check_scale(loss: Any, name: str, pred: np.ndarray) -> None:
    from_logits = getattr(loss, "from_logits", None)
    if from_logits is None or not np.isfinite(pred).all():
        return
    low, high = float(pred.min()), float(pred.max())
    in_unit = low >= -_SUM_TOLERANCE and high <= 1 + _SUM_TOLERANCE
    if isinstance(loss, _BINARY):
        if not from_logits and not in_unit:
            raise LogitsError(name, from_logits, low, high)
        return
    axis = getattr(loss, "axis", -1)
    sums = pred.sum(axis=axis)
    is_distribution = in_unit and bool(np.all(np.abs(sums - 1) < _SUM_TOLERANCE))
    if not from_logits and not in_unit:
        raise LogitsError(name, from_logits, low, high)
    # One row that sums to 1 is a chance; a batch of them, of several classes each, is a softmax.
    if from_logits and is_distribution and sums.size > 1 and pred.shape[axis] > 1:
        raise LogitsError(name, from_logits, low, high)
