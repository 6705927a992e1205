"""The call of an objective: terms that layers add to its loss, and the scalar to differentiate."""

from __future__ import annotations

from collections.abc import Sequence
from contextvars import ContextVar
from typing import Any

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._errors import InnerLossError, LossShapeError, LossTypeError
from perigee._listening import Talk, listening
from perigee._step.averages import Average, accumulation_dtype, as_average, total_mean
from perigee._step.frame import Frame, under_way
from perigee._step.state import Holder
from perigee._typing import Tensor

_added: ContextVar[list[Tensor] | None] = ContextVar("perigee_added", default=None)
"""Terms that layers add to the innermost running objective, per thread.

Replicas run their objectives in threads that alternate.
"""


class ObjectiveCall:
    """The call of an objective: collects the terms that layers add to the loss while it runs."""

    def __init__(self, frame: Frame, step: Holder, add_losses: bool) -> None:
        self._frame, self._step, self._add_losses = frame, step, add_losses
        self._added: list[Tensor] = []

    def __enter__(self) -> ObjectiveCall:
        self._frame.depth += 1
        self._outer_adds_losses = self._frame.adds_losses
        self._frame.adds_losses = self._add_losses
        self._was_set = under_way.get() is None
        if self._was_set:
            self._token = under_way.set(self._frame)
        # Inner objectives keep their terms: on some frameworks their tensors are invalid outside.
        self._outer = _added.set(self._added)
        self._listening = listening(keras.Layer, "add_loss", self._adds)
        self._listening.__enter__()
        return self

    def __exit__(self, *_: Any) -> None:
        self._listening.__exit__(None, None, None)
        _added.reset(self._outer)
        self._frame.adds_losses = self._outer_adds_losses
        self._frame.depth -= 1
        if self._was_set:
            under_way.reset(self._token)

    def _adds(self, original: Any, layer: keras.Layer, loss: Any) -> Talk:
        """Collect a term that a layer adds, unless an inner objective is running."""
        yield
        if _added.get() is self._added:
            self._added.extend(keras.tree.flatten(loss))

    def terms(self, variables: Sequence[Any]) -> list[Tensor]:
        """Return the terms to add to the loss: `add_loss` terms and penalties of `variables`."""
        if not self._add_losses:
            return []
        penalties = [v.regularizer(v) for v in variables if getattr(v, "regularizer", None)]
        terms = [ops.sum(term) for term in (*self._added, *penalties)]
        dtypes = {accumulation_dtype(term) for term in terms}
        return [ops.cast(term, max(dtypes)) for term in terms]

    @property
    def adds(self) -> bool:
        """Whether layers have added terms that count."""
        return self._add_losses and bool(self._added)


def measured(
    returned: Any,
    added: Sequence[Tensor],
    frame: Frame,
    is_inner: bool,
    scale: Tensor | None,
    has_means: bool = False,
) -> tuple[Tensor, Any]:
    """Return the scalar to differentiate, with the result: (returned, weight, scalar).

    If each replica has a share of the batch, the scalars of all replicas sum to the loss.

    Args:
        returned: What the objective returned.
        added: Terms to add to the loss.
        frame: The running step.
        is_inner: Whether another objective is running.
        scale: What to multiply the scalar with, or `None`.
        has_means: Whether some of the terms are those of layers: means over the batch.
    """
    if is_inner:
        return inner_scalar(returned), (returned, None, None)
    loss, has_aux = (returned[0], True) if _has_aux(returned) else (returned, False)
    _check_loss(loss, frame.examples)
    average = as_average(loss, frame.examples)
    if frame.recorder is not None:
        frame.recorder.measured(average.terms, has_means)
    examples = 1 if frame.examples is None else frame.examples
    pairs = average.pairs(examples)
    weight = pairs[0][1]
    if frame.all_examples is not None:
        pairs, weight = _shared(average, pairs, isinstance(loss, Average), frame)
    scalar, reported = total_mean(pairs), loss
    if added:
        extra = sum(added[1:], start=added[0])
        share = 1.0 if frame.all_examples is None else frame.share
        scalar = scalar + ops.cast(extra, scalar.dtype) * ops.cast(share, scalar.dtype)
        reported = loss + (extra if isinstance(loss, Average) else ops.cast(extra, loss.dtype))
    scaled = scalar if scale is None else scalar * scale
    return scaled, ((reported, returned[1]) if has_aux else reported, weight, scalar)


def _shared(
    average: Average, pairs: Sequence[tuple[Tensor, Tensor]], is_average: bool, frame: Frame
) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Weight the terms of a replica by its share of each count.

    Returns:
        The terms, and the count of the first one summed over all replicas.
    """
    counts = [count for _, count in pairs]
    if is_average and any(term.count is not None for term in average.terms):
        (counted,) = _backends.current().sum_over_replicas([ops.stack(counts)])
        everywhere = [counted[index] for index in range(len(counts))]
    else:
        everywhere = [
            frame.all_examples if term.count is None else ops.cast(frame.all_rows, "float32")
            for term in average.terms
        ]
    shared: list[tuple[Tensor, Tensor]] = []
    for (mean, count), whole in zip(pairs, everywhere, strict=True):
        # No gradient flows through a count, nor back over the replicas.
        whole = ops.where(whole == 0, ops.ones_like(whole), whole)
        share = ops.stop_gradient(count / ops.cast(whole, count.dtype))
        kept = ops.where(count == 0, ops.zeros_like(mean), mean)  # a mean over nothing is NaN
        shared.append((kept * ops.cast(share, kept.dtype), count))
    return shared, ops.stop_gradient(everywhere[0])


def _has_aux(returned: Any) -> bool:
    return isinstance(returned, tuple) and len(returned) == 2


def inner_scalar(returned: Any) -> Tensor:
    loss = returned[0] if _has_aux(returned) else returned
    if isinstance(loss, Average):
        raise InnerLossError([1])
    _check_loss(loss, None)
    if len(loss.shape) > 0:
        raise InnerLossError(loss.shape)
    return loss


def _check_loss(loss: Any, examples: Any) -> None:
    if isinstance(loss, Average):
        return
    is_host = isinstance(loss, np.ndarray | np.generic)
    if is_host or not hasattr(loss, "shape") or not hasattr(loss, "dtype"):
        raise _loss_type_error(loss)
    dtype = keras.backend.standardize_dtype(loss.dtype)
    if "float" not in dtype:
        raise LossTypeError(f"a tensor of {dtype}")
    batch = _static_int(examples)
    if len(loss.shape) > 1 or (
        len(loss.shape) == 1 and None not in (batch, loss.shape[0]) and loss.shape[0] != batch
    ):
        raise LossShapeError(loss.shape, batch)


def _loss_type_error(loss: Any) -> LossTypeError:
    if loss is None:
        return LossTypeError("nothing", "end the objective with `return loss`.")
    if isinstance(loss, tuple | list):
        fix = "put all but the loss into one tuple: `return loss, (y_pred, ...)`."
        return LossTypeError(f"a {type(loss).__name__} of {len(loss)}", fix)
    if isinstance(loss, dict):
        return LossTypeError("a dict", "return `loss` or `(loss, {...})`; the step returns logs.")
    return LossTypeError(f"{type(loss).__name__} ({loss!r:.60})")


def _static_int(value: Any) -> int | None:
    """Return a number if it is known now, as outside compiled code."""
    try:
        return None if value is None else int(value)
    except Exception:  # a symbolic tensor; each framework raises its own type
        return None
