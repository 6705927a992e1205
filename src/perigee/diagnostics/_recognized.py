"""Recognizes what a loss computes that the user wrote: by its values for other predictions.

Predictions are drawn between 0 and 1, in rows that sum to 1, where probabilities and logits both
have a loss. A loss is recognized if all its differences between these predictions are those of a
known one, times the same factor: then a factor, a penalty or a constant changes nothing. One of
numbers must be like the known one beyond 0 and 1, too: between them, a hinge looks like a distance.

Other questions need no known loss: whether only the distance of labels and predictions counts,
whether a label of 0 says anything, and whether it matters which class a prediction is of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from perigee import _backends
from perigee._listening import Returned, Talk, listening
from perigee._rehearsal.discovery import Probe
from perigee._step.losses import Computation
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._recording import Compared, ModelCall, divided

_DRAWS, _SAME, _EQUAL, _LEAST = 4, 2e-3, 1e-5, 1e-6
_FAR = 3.0
"""The deviation of predictions that are drawn beyond 0 and 1."""

_NAMES = {
    "binary_crossentropy": "binary crossentropy",
    "categorical_crossentropy": "categorical crossentropy",
    "sparse_categorical_crossentropy": "sparse categorical crossentropy",
    "mean_squared_error": "mean squared error",
    "mean_absolute_error": "mean absolute error",
    "hinge": "hinge",
    "squared_hinge": "squared hinge",
}

_OF_NUMBERS = ("mean_squared_error", "mean_absolute_error")
_HINGES = ("hinge", "squared_hinge")

DISTANCE = "distance"
"""The kind of a loss that only the distances of labels and predictions decide."""

UNKNOWN = Computation("own", "own")


@dataclass(frozen=True, slots=True)
class Loss:
    """A loss that the user wrote, whose value can be computed.

    Attributes:
        value: Returns it for labels and predictions like those that it was given.
        true: The labels that it was given.
        pred: The predictions.
    """

    value: Callable[[np.ndarray, np.ndarray], float]
    true: np.ndarray
    pred: np.ndarray

    def recognized(self) -> Computation:
        """Return what it computes, by its values for other predictions."""
        try:
            return _known(self) or _distance(self) or UNKNOWN
        except Exception:  # it needs more than labels and predictions of these shapes
            return UNKNOWN

    def ignores_zeros(self) -> bool:
        """Return whether predictions do not matter where the label is 0, and do elsewhere."""
        zeros = self.true.reshape(-1) == 0
        if self.true.size != self.pred.size or zeros.all() or not zeros.any():
            return False
        return self._is_same(lambda p: _exchanged(p, zeros)) and not self._is_same(
            lambda p: _exchanged(p, ~zeros)
        )

    def ignores_classes(self) -> bool:
        """Return whether it does not matter to which class each prediction belongs.

        The labels then decide no more than how much an example weighs.
        """
        order = np.roll(np.arange(self.pred.shape[-1]), 1)
        return self._is_same(lambda p: p[..., order]) and not self._is_same(lambda p: p * p)

    def takes_logits(self) -> bool:
        """Return whether a softmax comes first: all logits of a row may move by one amount."""
        more = np.random.default_rng(1).normal(size=(*self.pred.shape[:-1], 1)).astype("float32")
        return self._is_same(lambda p: p + more)

    def _is_same(self, change: Callable[[np.ndarray], np.ndarray]) -> bool:
        """Return whether a change of predictions never changes the value."""
        draw = np.random.default_rng(0)
        try:
            for _ in range(_DRAWS):
                pred = _probabilities(draw, self.pred)
                one, other = self.value(self.true, pred), self.value(self.true, change(pred))
                if not np.isfinite([one, other]).all() or abs(one - other) > _EQUAL * abs(one):
                    return False
        except Exception:  # it needs more than labels and predictions of these shapes
            return False
        return True


def _exchanged(pred: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Return probabilities with the opposite ones at some places."""
    flat = pred.reshape(-1)
    return np.where(where, 1 - flat, flat).reshape(pred.shape)


def loss_of(seen: Compared, known: np.ndarray) -> Loss:
    """Return the loss of a loss object.

    Args:
        seen: What it was given.
        known: All known labels: those of the first batch may be of one class.
    """

    def value(true: np.ndarray, pred: np.ndarray) -> float:
        made = seen.by(true, keras.ops.convert_to_tensor(pred))
        return float(np.mean(keras.ops.convert_to_numpy(made)))

    return Loss(value, _spread(known, seen.y_true), seen.y_pred)


def _spread(known: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Return labels from all known rows, as many as a loss was given."""
    if len(known) < len(given) or known.size * len(given) != given.size * len(known):
        return given
    rows = known[np.linspace(0, len(known) - 1, len(given)).astype(int)]
    return rows.reshape(given.shape).astype(given.dtype)


def loss_of_step(evidence: Evidence, known: np.ndarray, call: ModelCall) -> Loss | None:
    """Return the loss of a step, which is given other outputs of its model.

    Args:
        evidence: What is known about the step.
        known: All known labels, the second part of its batches.
        call: The call of its model.
    """
    rehearsal = evidence.training.rehearsal
    batch = evidence.batches[0]
    if rehearsal is None or "loss" not in rehearsal.kinds or not isinstance(batch, tuple):
        return None
    given: list[np.ndarray] = []

    def listen(original: Any, layer: Any, *args: Any, **kwargs: Any) -> Talk:
        made = yield
        if layer is not call.layer or not _backends.current().is_tensor(made):
            return None
        if tuple(made.shape) != given[0].shape:
            return None
        # A gradient reaches the weights still, and is 0.
        return Returned(keras.ops.cast(given[0], made.dtype) + 0.0 * made)

    def value(true: np.ndarray, pred: np.ndarray) -> float:
        given[:] = [pred]
        # A compiled one would keep the first predictions.
        probe = Probe(evidence.step, "train_step", rehearsal.tracked)
        with listening(keras.Layer, "__call__", listen):
            parts = probe(_backends.current().tensors((batch[0], true, *batch[2:])))["loss"]
        return float(np.mean(divided(parts, evidence.training.are_bare["loss"])))

    return Loss(value, _spread(known, batch[1]), call.outputs[0])


def _known(loss: Loss) -> Computation | None:
    """Return the known loss whose differences are those of a loss, times a factor."""
    known = _candidates(loss.true, loss.pred)
    draw = np.random.default_rng(0)
    drawn = [_probabilities(draw, loss.pred) for _ in range(_DRAWS)]
    usual = {key: each for key, each in known.items() if key[0] not in (*_OF_NUMBERS, *_HINGES)}
    others = {key: each for key, each in known.items() if key not in usual}
    return _like(loss, drawn, usual) or _like(loss, [_wide(draw, loss.pred) for _ in drawn], others)


def _like(loss: Loss, drawn: Sequence[np.ndarray], known: _Candidates) -> Computation | None:
    if not known:
        return None
    values = np.array([loss.value(loss.true, pred) for pred in drawn])
    gaps = values[1:] - values[0]
    if not np.isfinite(gaps).all() or not np.abs(gaps).max() > _LEAST:
        return None
    for (kind, from_logits), candidate in known.items():
        others = np.array([candidate(pred.astype("float64")) for pred in drawn])
        others = others[1:] - others[0]
        factor = float(gaps @ others / max(others @ others, _LEAST))
        if factor > 0 and np.abs(gaps - factor * others).max() < _SAME * np.abs(gaps).max():
            settings = {} if from_logits is None else {"from_logits": from_logits}
            return Computation(kind, f"a {_NAMES[kind]}", settings)
    return None


def _distance(loss: Loss) -> Computation | None:
    """Return that a loss is a distance: it stays where both move, and is least where both agree."""
    true, pred = loss.true, loss.pred
    if true.size != pred.size or true.dtype.kind not in "fiu":
        return None
    draw = np.random.default_rng(2)
    least = loss.value(true, true.reshape(pred.shape).astype(pred.dtype))
    for further in (1, 2, 5):
        drawn = _wide(draw, pred)
        value = loss.value(true, drawn)
        moved = loss.value((true + further).astype(true.dtype), drawn + np.float32(further))
        if not np.isfinite([least, value, moved]).all() or not value > least + _LEAST:
            return None
        if abs(moved - value) > _SAME * (value - least):
            return None
    return Computation(DISTANCE, "a distance of numbers")


def _wide(draw: np.random.Generator, like: np.ndarray) -> np.ndarray:
    return draw.normal(0.0, _FAR, like.shape).astype("float32")


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
            ("hinge", None): lambda p: float(np.mean(np.maximum(1 - y * p, 0))),
            ("squared_hinge", None): lambda p: float(np.mean(np.maximum(1 - y * p, 0) ** 2)),
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
