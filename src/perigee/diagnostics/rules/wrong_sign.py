"""PG222, WrongSign: a loss with the wrong sign, so training makes predictions worse.

The minimized loss is the negative of a distance between labels and predictions, or it decreases as
labels move away from the outputs. To maximize a measure (a likelihood, an accuracy), minimize its
negative; minimize a distance without a minus. Or the step moves all that it trains along the
gradient of its loss, not against it, as by `assign_add(rate * gradient)`: subtract it.

How sure: an error where the values show it: the loss is the negative of a distance between labels
and predictions. It is a warning where the loss only falls as labels move away from the outputs, and
where the first step moves the weights along the gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import keras
import numpy as np

from perigee._step.losses import NOT_NEGATIVE, computation_of
from perigee._step.updates import inner_of
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import activation_of
from perigee.diagnostics._recording import ModelCall, Recording

_SAME = 1e-3
_UPHILL = 0.3
"""The cosine of a change and a gradient above which one follows the other, as Adam's steps do."""
_DRAWS = 3
"""Other draws of the weights, of which none must say otherwise: a bound may fall by chance."""


def check(evidence: Evidence) -> list[Finding]:
    """Compare the loss with the negative of each distance that the step may use.

    If it is none of them, use labels near to the model's outputs and far from them.
    """
    uphill = _uphill(evidence)
    if uphill:
        happened = f"The step moves all {uphill} variables that it trains along the gradient of "
        fix = "subtract the gradients: `variable.assign_sub(rate * gradient)`."
        return [_finding("warning", f"{happened}its loss, so the loss rises.", fix)]
    logged = evidence.training.logs.get("loss")
    if logged is None or not logged.size or not np.isfinite(logged).all():
        return []
    loss = float(np.mean(logged)) - evidence.penalty
    same = [
        name
        for name, distance in _distances(evidence).items()
        if loss < -1e-9 and abs(loss + distance) < _SAME * distance
    ]
    if same:
        happened = f"The loss is {loss:.4g}, the negative of the {same[0]} between labels and "
        return [_finding("error", happened + "predictions: minimizing it makes them worse.")]
    if _is_as_keras_computes_it(evidence, loss):
        return []
    losses = _of_labels_ever_farther(evidence, evidence.training)
    if not _are_turned(losses):
        return []
    for turn in range(_DRAWS):
        recording = evidence.training_redrawn(turn)
        with evidence.redrawn(turn):
            others = _of_labels_ever_farther(evidence, recording)
        if others and not _are_turned(others):
            return []
    told = " and ".join(f"{value:.4g}" for value in losses[0])
    happened = f"The loss is {told} for labels that are farther and farther from the predictions."
    return [_finding("warning", happened)]


def _is_as_keras_computes_it(evidence: Evidence, loss: float) -> bool:
    """Return whether the loss is what a Keras loss returned, so its sign is Keras's."""
    for seen in evidence.training.losses:
        what = computation_of(seen.by)
        if not what.is_own:
            value = what.mean(seen.y_true, seen.y_pred)
            if abs(loss - value) <= _SAME * abs(value):
                return True
    return False


def _uphill(evidence: Evidence) -> int:
    """Return how many variables a step moves, if it moves all along the gradient of its loss.

    The loss is what a Keras loss returned, or what the step logs as its loss: what is named a
    reward or a bound may be maximized. Where some variables move against the gradient, others are
    their adversaries. Momentum of earlier steps may lead uphill for a while. What no layer holds
    beside models that stay as they are is an image that climbs what a model says of it.
    """
    recording = evidence.training
    if any(np.any(recording.before.get(id(o.iterations), 0)) for o in _optimizers(evidence)):
        return 0
    logged = recording.logs.get("loss")
    moved: dict[int, list[float]] = {}
    for derived in recording.derived:
        if derived.loss is None or len(derived.gradients) != len(derived.variables):
            continue
        is_logged = logged is not None and np.isclose(np.mean(logged), derived.loss, 1e-4)
        for variable, gradient in zip(derived.variables, derived.gradients, strict=True):
            change = _change(recording, variable)
            if change is not None and change.size > 1:
                cosine = _cosine(change, gradient)
                moved.setdefault(id(variable), []).append(
                    cosine if is_logged or derived.rows else -1.0
                )
    of_models = {id(v) for held in evidence.tracked.models.values() for v in held.variables}
    if of_models and of_models.isdisjoint(moved):
        return 0
    is_uphill = bool(moved) and all(min(some) > _UPHILL for some in moved.values())
    return len(moved) if is_uphill else 0


def _optimizers(evidence: Evidence) -> list[Any]:
    held = evidence.tracked.optimizers.values()
    return [inner_of(optimizer) for optimizer in held]


def _change(recording: Recording, variable: Any) -> np.ndarray | None:
    """Return by what a step changes a variable; `None` if it does not, or if that is not known."""
    before, after = recording.before.get(id(variable)), recording.after.get(id(variable))
    if before is None or after is None or before.shape != after.shape:
        return None
    change = after.astype("float64") - before
    return change if np.isfinite(change).all() and change.any() else None


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.reshape(-1), b.reshape(-1).astype("float64")
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return float(a @ b / norms) if norms else 0.0


def _finding(
    severity: Literal["error", "warning"], happened: str, fix: str = "remove the minus."
) -> Finding:
    return Finding(
        code="PG222",
        name="WrongSign",
        severity=severity,
        happened=happened,
        expected="a loss that is smaller for better predictions.",
        fix=fix,
    )


def _are_turned(losses: Sequence[Sequence[float]]) -> bool:
    """Return whether losses fall from near labels to far ones."""
    falls = any(all(a > b + _SAME * abs(b) for a, b in pairwise(some)) for some in losses)
    return falls and all(some[0] > some[-1] for some in losses)


def _of_labels_ever_farther(evidence: Evidence, recording: Recording) -> list[list[float]]:
    """Return losses of labels equal to the model's outputs, and of others, from near to far.

    Args:
        evidence: Its Step has the weights that it had when the recording was made.
        recording: A recording of `train_step`.
    """
    batch = evidence.batches[0]
    calls = [call for call in recording.calls if evidence.is_updated(call.layer)]
    outputs = [output for call in calls for output in call.outputs]
    if isinstance(batch, tuple) and _is_binary(batch[1]):
        outputs = [o for call in calls if _predicts(evidence, call) for o in call.outputs]
    known = [seen.y_pred for seen in recording.losses]
    if known:  # what is trained may be another model than the one whose outputs are measured
        outputs = [o for o in outputs if any(np.array_equal(o, each) for each in known)]
    if not isinstance(batch, tuple) or len(batch) != 2 or keras.tree.is_nested(batch[1]):
        return []
    y = np.asarray(batch[1])
    if y.dtype.kind in "iu" and y.size:  # hidden values are more than there are classes
        classes = int(evidence.columns[1].max(initial=0)) + 1
        outputs = [output for output in outputs if output.shape[-1:] == (classes,)]
    rows = [_farther(y, output) for output in outputs if output.dtype.kind == "f"]
    rows = [row for row in rows if row]
    if not rows or not evidence.is_repeatable:
        return []
    losses = [
        [evidence.loss((batch[0], labels.astype(y.dtype))) for labels in row] for row in rows[0]
    ]
    values = [[np.nan if loss is None else loss for loss in some] for some in losses]
    return values if np.isfinite(values).all() else []


def _predicts(evidence: Evidence, call: ModelCall) -> bool:
    """Return whether a model ends with scores or probabilities: a distance is small for a 1."""
    layers = [one.layer for one in evidence.inside(call)] or [call.layer]
    last = [name for name in map(activation_of, layers) if name is not None][-1:]
    return last == [] or last[0] in ("linear", "sigmoid", "softmax")


def _is_binary(labels: Any) -> bool:
    return not keras.tree.is_nested(labels) and set(np.unique(np.asarray(labels))) <= {0, 1}


def _farther(y: np.ndarray, output: np.ndarray) -> list[list[np.ndarray]]:
    """Return rows of labels, each from near to far; none if labels mean something else."""
    if not y.size or not np.isfinite(output).all():
        return []
    if y.dtype.kind in "iu" and y.size == len(y) and output.ndim == 2 and output.shape[1] > 1:
        if len(y) != len(output) or y.max() >= output.shape[1]:
            return []
        return [[i.reshape(y.shape) for i in (output.argmax(axis=1), output.argmin(axis=1))]]
    if y.shape != output.shape or y.dtype.kind != "f":
        return []
    if set(np.unique(y)) <= {0.0, 1.0}:
        if y.ndim > 1 and y.shape[-1] > 1 and (y.sum(axis=-1) == 1).all():
            # A loss of classes that exclude each other grows with the number of ones in a row.
            ones = np.eye(y.shape[-1])
            return [[ones[output.argmax(axis=-1)], ones[output.argmin(axis=-1)]]]
        middle = 0.0 if output.min() < 0 or output.max() > 1 else 0.5
        near = output > middle
        return [[near, ~near]] if near.any() and not near.all() else []
    far = np.where(np.arange(output.size).reshape(output.shape) % 2, 1.0, -1.0) * (y.std() + 1e-3)
    return [[output, output + far, output + 2 * far], [output, output - far, output - 2 * far]]


def _distances(evidence: Evidence) -> dict[str, float]:
    found: dict[str, float] = {}
    for seen in evidence.training.losses:
        what = computation_of(seen.by)
        if what.kind in NOT_NEGATIVE:
            found[what.name] = what.mean(seen.y_true, seen.y_pred)
    for call in evidence.trained:
        for y_pred in call.outputs:
            flat = evidence.leaves
            for y_true in flat[1:] or flat:  # a reconstruction is its own label
                if y_true.shape == y_pred.shape and y_true.dtype.kind == y_pred.dtype.kind == "f":
                    gap = (y_true - y_pred).astype("float64")
                    found["mean squared error"] = float(np.mean(gap**2))
                    found["mean absolute error"] = float(np.mean(np.abs(gap)))
    return {name: value for name, value in found.items() if value > 1e-6}
