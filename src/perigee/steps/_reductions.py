"""Keras losses as exact averages, with separate sum and count.

A loss object returns a number that is already divided. Here its values pass through Keras's
weighting and masking (`keras.losses.Loss.__call__`) once with the reduction "sum", and the divisor
is counted in the same way. The quotient is Keras's number, and the pair stays exact over batches,
shares of a batch and micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._errors import ArgumentError
from perigee._step.averages import Average, Term, as_average
from perigee._step.losses import FunctionLoss, computation_of
from perigee._step.masks import mask_of, masked
from perigee._typing import Tensor

_MEAN_BY_WEIGHT = "mean_with_sample_weight"


class _Summed(keras.losses.Loss):
    """One call of a loss, summed; keeps the single values, so that they can be counted."""

    def __init__(self, loss: keras.losses.Loss) -> None:
        # Not the loss's own name: it becomes a scope, where not every name is allowed.
        super().__init__(name="loss", reduction="sum", dtype=loss.dtype)
        # A probe finds out whether a user's function pairs labels and predictions.
        is_free = isinstance(loss, FunctionLoss) and computation_of(loss).is_own
        self.perigee_stands_for = None if is_free else loss
        self.values: Tensor = None
        self._loss = loss

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        self.values = _backends.current().user_code(self._loss.call)(y_true, y_pred)
        return self.values


class _Counted(keras.losses.Loss):
    """The sum of ones in place of values: the divisor of a mean."""

    perigee_stands_for = None

    def __init__(self, ones: Tensor, mask: Tensor | None) -> None:
        # A count in half precision would saturate at 256 or 2,048.
        super().__init__(name="count", reduction="sum", dtype="float32")
        self._ones = masked(ones, mask)

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        return self._ones


def average_loss(
    loss: keras.losses.Loss, y_true: Tensor, y_pred: Tensor, weights: Tensor | None
) -> Average:
    """Return a loss as an average that equals what the loss object itself returns.

    Masks that predictions or losses carry, and sample weights, count as in Keras: the mean is over
    valid values, whatever their weight; `"mean_with_sample_weight"` divides by the weights. `"sum"`
    is a scalar without a count; `None` is the mean of all values.

    Args:
        loss: The loss object.
        y_true: Labels.
        y_pred: Predictions, with the mask that they carry.
        weights: Sample weights, of the shape of the loss values, or of their first axes.

    Raises:
        ArgumentError: If there are weights, but the loss is one number for the batch.
    """
    if type(loss).__call__ is not keras.losses.Loss.__call__:
        return as_average(loss(y_true, y_pred, weights), None)  # it does its own reduction
    y_mask = mask_of(y_pred)
    weights = None if weights is None else _aligned(weights, y_pred, y_mask)
    summed = _Summed(loss)
    total = summed(y_true, y_pred, weights)
    # No half precision from here: means of many batches are summed.
    total = ops.cast(total, keras.backend.result_type(total.dtype, "float32"))
    values = summed.values
    own_mask = mask_of(values)
    is_masked = own_mask is not None or y_mask is not None
    if weights is not None and len(values.shape) == 0:
        raise ArgumentError(
            "loss",
            f"<{loss.name!r}, one number for the whole batch, with sample or class weights>",
            "one value per example, which a weight can multiply.",
            "remove the mean over the batch from the function.",
        )
    is_plain = weights is None and not is_masked
    if loss.reduction == "sum" or (is_plain and len(values.shape) == 0):
        return Average([Term(total, None, is_weighted=loss.reduction == "sum")])
    if is_plain:
        count = ops.cast(ops.prod(ops.shape(values)), "float32")
        return Average([Term(total, count, is_weighted=False)])
    by_weight = loss.reduction == _MEAN_BY_WEIGHT
    # One value with count 1, so that only the weights are summed; otherwise ones in place of the
    # values and of the weights.
    ones = ops.ones((), "float32") if by_weight else ops.ones_like(values, "float32")
    if weights is not None and not by_weight:
        weights = ops.ones_like(weights, "float32")
    count = ops.stop_gradient(_Counted(ones, own_mask)(y_pred, y_pred, weights))
    return Average([Term(total, count, is_weighted=by_weight or is_masked)])


def _aligned(weights: Any, y_pred: Tensor, mask: Tensor | None) -> Tensor:
    """Give weights of whole examples the axes of a sequence; return a new tensor.

    Keras multiplies weights `(batch,)` with losses `(batch, time)` along the wrong axis: it raises,
    unless both happen to have the same length. On torch it multiplies masks into the weights in
    place, which would change the data, and needs their full shape.
    """
    weights = ops.convert_to_tensor(weights)
    weights = ops.cast(weights, keras.backend.result_type(weights.dtype, "float32")) * 1.0
    for _ in range(len(y_pred.shape) - 1 - len(weights.shape)):
        weights = ops.expand_dims(weights, -1)
    if mask is not None and len(mask.shape) == len(weights.shape):
        weights = weights * ops.ones_like(mask, "float32")
    return weights


def class_weights(y_true: Tensor, y_pred: Tensor, weights: Mapping[int, float]) -> Tensor:
    """Return the weight of each label's class, 1 for classes that have none.

    Args:
        y_true: Class ids, with or without a last axis of 1; or one-hot rows, of the rank of
            `y_pred`.
        y_pred: Predictions.
        weights: Weights by class id, at least 0.
    """
    ids = ops.convert_to_tensor(y_true)
    if len(ids.shape) > 1 and ids.shape[-1] == 1:
        ids = ops.squeeze(ids, -1)
    elif len(ids.shape) > 1 and len(ids.shape) == len(y_pred.shape):
        ids = ops.argmax(ids, axis=-1)
    if "int" not in keras.backend.standardize_dtype(ids.dtype):
        ids = ops.round(ops.cast(ids, "float32"))
    ids = ops.cast(ids, "int32")
    size = max(weights) + 1
    table = np.ones(size, "float32")
    for index, weight in weights.items():
        table[index] = weight
    is_known = ops.logical_and(ids >= 0, ids < size)
    found = ops.take(ops.convert_to_tensor(table), ops.clip(ids, 0, size - 1), axis=0)
    return ops.where(is_known, found, ops.ones_like(found))


def product(a: Any, b: Any) -> Any:
    """Multiply weights along their first axes; `None` counts as 1."""
    if a is None or b is None:
        return b if a is None else a
    a, b = ops.convert_to_tensor(a), ops.convert_to_tensor(b)
    while len(a.shape) != len(b.shape):
        if len(a.shape) < len(b.shape):
            a = ops.expand_dims(a, -1)
        else:
            b = ops.expand_dims(b, -1)
    dtype = keras.backend.result_type(a.dtype, b.dtype, "float32")
    return ops.cast(a, dtype) * ops.cast(b, dtype)
