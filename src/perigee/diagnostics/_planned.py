"""What a training of known length can do: its learning rates, and how far they move weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras
import numpy as np

from perigee import _backends
from perigee._execution import constant_rate
from perigee._step.losses import computation_of
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._recording import Update
from perigee.diagnostics._variations import is_out_of_scale

_ADAPTIVE = (
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Nadam,
    keras.optimizers.Adamax,
    keras.optimizers.RMSprop,
    keras.optimizers.Lion,
)
_PLACES = 24
_LAST = 10_000_000
"""The last update for which a schedule is asked."""
_CLASSES = {"sparse_categorical_crossentropy", "categorical_crossentropy", "binary_crossentropy"}
_LEARNED = 0.75
"""A loss of so much of that of a guess, or less, is that of a model which has been trained."""


@dataclass(frozen=True)
class Planned:
    """The updates that one optimizer makes in a training of known length.

    Attributes:
        path: Its attribute path.
        optimizer: The optimizer, without a loss scale.
        updates: How many updates it makes.
        places: Some steps, in order, the first and the last included.
        rates: The learning rates of these.
        given: What it was given at the first step.
    """

    path: str
    optimizer: Any
    updates: int
    places: np.ndarray
    rates: np.ndarray
    given: Update

    @property
    def has_schedule(self) -> bool:
        """Whether the learning rate follows a schedule."""
        return schedule_of(self.optimizer) is not None

    @cached_property
    def total(self) -> float:
        """The sum of the learning rates of all updates."""
        return mean_over(self.places, self.rates) * self.updates

    def part_above(self, rate: float) -> float:
        """Return the share of the updates whose learning rate is above this one."""
        return mean_over(self.places, (self.rates > rate).astype("float64"))


def mean_over(places: np.ndarray, values: np.ndarray) -> float:
    """Return the mean of values that are known at some places only, linear in between."""
    if len(places) == 1:
        return float(values[0])
    areas = np.diff(places) * (values[1:] + values[:-1]) / 2
    return float(np.sum(areas) / (places[-1] - places[0]))


def planned(evidence: Evidence) -> Sequence[Planned]:
    """Return what optimizers do in a training of known length; nothing if it is not known."""
    return evidence.once(_planned)


def _planned(evidence: Evidence) -> Sequence[Planned]:
    length = evidence.length
    if length is None:
        return ()
    written = {id(variable) for variable in evidence.rehearsals[0].written}
    found: dict[int, Planned] = {}
    for update in evidence.training.updates:
        optimizer = update.inner
        constant, schedule = constant_rate(optimizer), schedule_of(optimizer)
        is_steered = id(optimizer.learning_rate) in written
        if (constant is None and schedule is None) or is_steered or update.is_conditional:
            continue
        updates = length.steps // (optimizer.gradient_accumulation_steps or 1)
        # A schedule counts the steps between updates, too.
        places = some_of(length.steps) if constant is None else np.array([0])
        rates = [rate_at(optimizer, int(p)) if constant is None else constant for p in places]
        path = evidence.tracked.path_of(update.optimizer)
        found[id(optimizer)] = Planned(
            path, optimizer, updates, places, np.array(rates, "float64"), update
        )
    return tuple(found.values())


def schedule_of(optimizer: Any) -> Any:
    """Return the schedule of the learning rate that an optimizer follows; `None` without one."""
    kind = keras.optimizers.schedules.LearningRateSchedule
    return next((value for value in vars(optimizer).values() if isinstance(value, kind)), None)


def rate_at(optimizer: Any, update: int) -> float:
    """Return the learning rate that a schedule has after so many more updates."""
    begun = int(keras.ops.convert_to_numpy(optimizer.iterations))
    at = keras.ops.convert_to_tensor(min(begun + update, 2**31 - 1), dtype="int32")
    return float(_backends.current().to_host(schedule_of(optimizer)(at)))


def highest_rate(optimizer: Any, updates: int | None) -> float:
    """Return the highest rate of an optimizer in so many updates, or ever."""
    constant = constant_rate(optimizer)
    if constant is not None:
        return constant
    return max(rate_at(optimizer, int(place)) for place in some_of(updates or _LAST))


def some_of(updates: int) -> np.ndarray:
    """Return numbers of updates from 0 to the last one, close together at the beginning."""
    last = max(1, updates)
    places = {*np.linspace(0, last - 1, _PLACES), *(np.geomspace(1, last, _PLACES) - 1)}
    return np.unique(np.array(sorted(places)).astype(int))


def reach(evidence: Evidence, plan: Planned) -> float | None:
    """Return how far a training can move the weights, in units of their size.

    For adaptive optimizers this is a bound: each update moves a weight by about the rate. For plain
    descent it is an estimate by the first gradient, and no less than the part of the loss that this
    gradient takes away.

    Returns:
        `None` if it is not known, where a model is trained already, and for plain descent where
        inputs or weights are out of scale, and with them the gradient.
    """
    if int(keras.ops.convert_to_numpy(plan.optimizer.iterations)) or _is_trained(evidence):
        return None
    if is_adaptive(plan.optimizer) or isinstance(plan.optimizer, keras.optimizers.Adagrad):
        sizes = [min(own, usual) for own, usual in _sizes(evidence, plan.given.variables)]
        return plan.total / float(np.median(sizes)) if sizes else None
    if not isinstance(plan.optimizer, keras.optimizers.SGD) or evidence.once(is_out_of_scale):
        return None
    return _reach_of_descent(evidence, plan)


def is_adaptive(optimizer: Any) -> bool:
    """Return whether an optimizer moves each weight by about its rate, whatever the gradient."""
    return isinstance(optimizer, _ADAPTIVE)


def leap(evidence: Evidence, update: Update | None, highest: float | None) -> float | None:
    """Return how far one update moves the weights, in units of their size.

    Args:
        evidence: The evidence.
        update: What an optimizer was given; `None` for a step that changes weights itself.
        highest: The highest rate of an adaptive optimizer; with `None`, the first step tells.

    Returns:
        The median over kernels, without embeddings; `None` if it is not known.
    """
    entries = evidence.tracked.of_kind("trainable") if update is None else update.variables
    embeddings = {
        id(v)
        for layer in evidence.trained_layers
        if isinstance(layer, keras.layers.Embedding)
        for v in layer.variables
    }
    moved: list[float] = []
    for variable in entries:
        if id(variable) in embeddings:
            continue
        for own, usual in _sizes(evidence, [variable]):
            change = highest if highest is not None else _change(evidence, variable)
            if change:
                moved.append(change / max(own, usual))
    return float(np.median(moved)) if moved else None


def _change(evidence: Evidence, variable: Any) -> float:
    """Return the root mean square of the change of a weight in the first step; 0 if not known."""
    before, after = evidence.training.before, evidence.training.after
    if id(variable) not in before or id(variable) not in after:
        return 0.0
    change = after[id(variable)].astype("float64") - before[id(variable)]
    size = float(np.sqrt(np.mean(change**2)))
    return size if math.isfinite(size) else 0.0


def _sizes(evidence: Evidence, variables: Sequence[Any]) -> list[tuple[float, float]]:
    """Return the root mean square of each kernel, and the one that Glorot's initializer gives.

    Where a kernel is all zeros, both are the latter.
    """
    found: list[tuple[float, float]] = []
    for variable in variables:
        value = evidence.training.before.get(id(variable))
        if value is None or value.ndim < 2 or not value.size:
            continue
        receptive = math.prod(value.shape[:-2])
        usual = math.sqrt(2 / (receptive * (value.shape[-2] + value.shape[-1])))
        own = float(np.sqrt(np.mean(value.astype("float64") ** 2)))
        if math.isfinite(own):
            found.append((own or usual, usual))
    return found


def _reach_of_descent(evidence: Evidence, plan: Planned) -> float | None:
    gradients = [g.astype("float64") for g in plan.given.gradients]
    loss = evidence.training.logs.get("loss")
    if loss is None or not gradients or len(gradients) != len(plan.given.variables):
        return None
    total = plan.total / max(1e-6, 1 - float(plan.optimizer.momentum))
    squares = float(sum(np.sum(g**2) for g in gradients))
    first = abs(float(np.mean(loss)))
    if not squares or not math.isfinite(squares) or not first:
        return None
    moved = [
        float(np.linalg.norm(g) / np.linalg.norm(value))
        for v, g in zip(plan.given.variables, gradients, strict=True)
        if len(v.shape) > 1 and np.any(value := evidence.training.before[id(v)].astype("float64"))
    ]
    return total * max(squares / first, float(np.median(moved)) if moved else 0.0)


def _is_trained(evidence: Evidence) -> bool:
    """Return whether a loss begins well below that of a guess."""
    for seen in evidence.training.losses:
        what = computation_of(seen.by)
        y_true, y_pred = seen.y_true, seen.y_pred
        if not np.isfinite(y_pred).all() or y_true.dtype.kind not in "fiub":
            continue
        if what.kind in _CLASSES:
            is_binary = what.kind == "binary_crossentropy"
            guess = math.log(2 if is_binary else max(2, y_pred.shape[what.axis]))
        elif what.kind == "mean_squared_error":
            guess = float(np.var(y_true.astype("float64")))
        else:
            continue
        if what.mean(y_true, y_pred) < _LEARNED * guess:
            return True
    return False
