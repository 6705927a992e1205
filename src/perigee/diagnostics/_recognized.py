"""Recognizes what a loss computes that the user wrote: by its values for other predictions.

Predictions are drawn between 0 and 1, in rows that sum to 1, where probabilities and logits both
have a loss. A loss is recognized if all its differences between these predictions are those of a
known one, times the same factor: then a factor, a penalty or a constant changes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from perigee import _backends
from perigee._listening import Returned, Talk, listening
from perigee._rehearsal.discovery import Probe
from perigee._step.losses import Computation
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._recording import Compared, ModelCall, divided

_DRAWS, _SAME = 4, 2e-3

_NAMES = {
    "binary_crossentropy": "binary crossentropy",
    "categorical_crossentropy": "categorical crossentropy",
    "sparse_categorical_crossentropy": "sparse categorical crossentropy",
    "mean_squared_error": "mean squared error",
    "mean_absolute_error": "mean absolute error",
}

UNKNOWN = Computation("own", "own")


def recognized_loss(seen: Compared) -> Computation:
    """Return what a loss object computes, by calling it with other predictions."""

    def loss(pred: np.ndarray) -> float:
        value = seen.by(seen.y_true, keras.ops.convert_to_tensor(pred))
        return float(np.mean(keras.ops.convert_to_numpy(value)))

    return _recognized(loss, seen.y_true, seen.y_pred)


def recognized_step(evidence: Evidence, y_true: np.ndarray, call: ModelCall) -> Computation:
    """Return what a step computes as its loss, by giving it other outputs of its model."""
    rehearsal = evidence.training.rehearsal
    if rehearsal is None or "loss" not in rehearsal.kinds:
        return UNKNOWN
    given: list[np.ndarray] = []

    def listen(original: Any, layer: Any, *args: Any, **kwargs: Any) -> Talk:
        made = yield
        if layer is not call.layer or not _backends.current().is_tensor(made):
            return None
        if tuple(made.shape) != given[0].shape:
            return None
        # A gradient reaches the weights still, and is 0.
        return Returned(keras.ops.cast(given[0], made.dtype) + 0.0 * made)

    def loss(pred: np.ndarray) -> float:
        given[:] = [pred]
        # A compiled one would keep the first predictions.
        probe = Probe(evidence.step, "train_step", rehearsal.tracked)
        with listening(keras.Layer, "__call__", listen):
            parts = probe(evidence.batch)["loss"]
        return float(np.mean(divided(parts, evidence.training.are_bare["loss"])))

    return _recognized(loss, y_true, call.outputs[0])


def _recognized(
    loss: Callable[[np.ndarray], float], y_true: np.ndarray, y_pred: np.ndarray
) -> Computation:
    draw = np.random.default_rng(0)
    drawn = [_probabilities(draw, y_pred) for _ in range(_DRAWS)]
    known = _candidates(y_true, y_pred)
    if not known:
        return UNKNOWN
    try:
        values = np.array([loss(pred) for pred in drawn])
    except Exception:  # it needs more than predictions of that shape
        return UNKNOWN
    gaps = values[1:] - values[0]
    if not np.isfinite(gaps).all() or not np.abs(gaps).max() > 1e-6:
        return UNKNOWN
    for (kind, from_logits), candidate in known.items():
        others = np.array([candidate(pred.astype("float64")) for pred in drawn])
        others = others[1:] - others[0]
        factor = float(gaps @ others / (others @ others))
        if factor > 0 and np.abs(gaps - factor * others).max() < _SAME * np.abs(gaps).max():
            settings = {} if from_logits is None else {"from_logits": from_logits}
            return Computation(kind, f"the loss, a {_NAMES[kind]}", settings)
    return UNKNOWN


def _probabilities(draw: np.random.Generator, like: np.ndarray) -> np.ndarray:
    values = draw.uniform(0.1, 0.9, like.shape)
    if like.ndim > 1 and like.shape[-1] > 1:
        values /= values.sum(axis=-1, keepdims=True)
    return values.astype("float32")


_Candidates = Mapping[tuple[str, bool | None], Callable[[np.ndarray], float]]


def _candidates(y_true: np.ndarray, y_pred: np.ndarray) -> _Candidates:
    """Return known losses of predictions of a shape, for some labels."""
    y = y_true.astype("float64")
    if y.size == y_pred.size:
        y = y.reshape(y_pred.shape)
        found: dict[tuple[str, bool | None], Callable[[np.ndarray], float]] = {
            ("mean_squared_error", None): lambda p: float(np.mean((y - p) ** 2)),
            ("mean_absolute_error", None): lambda p: float(np.mean(np.abs(y - p))),
        }
        if y.min() < 0 or y.max() > 1:
            return found
        found |= {
            ("binary_crossentropy", False): lambda p: _of_chances(y, p),
            ("binary_crossentropy", True): lambda p: float(np.mean(np.logaddexp(0, p) - y * p)),
        }
        if y_pred.ndim > 1 and y_pred.shape[-1] > 1:
            found |= _of_rows(y)
        return found
    is_of_ids = y_pred.ndim > 1 and y.size * y_pred.shape[-1] == y_pred.size
    if not is_of_ids or y_true.size == 0 or y.min() < 0 or y.max() >= y_pred.shape[-1]:
        return {}
    ids = y.astype(int).reshape(y_pred.shape[:-1])
    rows = _of_rows(np.eye(y_pred.shape[-1])[ids])
    return {("sparse_" + kind, logits): each for (kind, logits), each in rows.items()}


def _of_rows(y: np.ndarray) -> dict[tuple[str, bool | None], Callable[[np.ndarray], float]]:
    def of_logits(p: np.ndarray) -> float:
        return float(np.mean(np.log(np.exp(p).sum(axis=-1)) - (y * p).sum(axis=-1)))

    return {
        ("categorical_crossentropy", False): lambda p: -float(np.mean((y * np.log(p)).sum(-1))),
        ("categorical_crossentropy", True): of_logits,
    }


def _of_chances(y: np.ndarray, p: np.ndarray) -> float:
    return -float(np.mean(y * np.log(p) + (1 - y) * np.log(1 - p)))
