"""Finds why two ways of training differ, by repeating the step under changed conditions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._listening import Call, Talk, listening
from perigee._step.state import track
from perigee._step.updates import inner_of
from perigee._typing import Batch
from perigee.testing._ways import WEIGHTS, Array, Outcome, Pair, Under, Way

Cause = Literal[
    "reduction",
    "ragged last batch",
    "regularization",
    "training flag",
    "seeds",
    "metric state",
    "learning rate or schedule clock",
    "clipping",
    "frozen variables",
    "loss scale",
    "label smoothing",
    "from_logits",
    "repeated rows",
    "unknown",
]

_ALIKE = 1e-3
"""The largest relative difference of numbers that should be equal."""
_LEAST_LOSS_SCALE = 256.0
_PLACES = ("here", "against it")

_Outcomes = tuple[Outcome, Outcome]
_Signals = list[tuple[str, Array, Array]]
"""The name of each variable, with its gradient or update in both ways."""
_Finding = tuple[Cause, str]


@dataclass(frozen=True, slots=True)
class _Case:
    """A step in which two ways differ.

    Attributes:
        pair: The two ways, in the state in which the step begins.
        batches: All batches.
        batch: The batch of this step.
        tolerance: How far updates may be apart.
        outcomes: The outcomes of both ways, op by op.
    """

    pair: Pair
    batches: Sequence[Batch]
    batch: Batch
    tolerance: float
    outcomes: _Outcomes

    def parted(self, outcomes: _Outcomes, *kinds: str) -> list[str]:
        found = self.pair.differences(*outcomes, self.tolerance)
        return [each.name for each in found if not kinds or each.kind in kinds]

    def run(self, under: Under | None = None, batch: Batch | None = None) -> _Outcomes:
        return self.pair.run(self.batch if batch is None else batch, observed=True, under=under)

    def trains_alike(self, under: Under | None = None, batch: Batch | None = None) -> bool:
        """Return whether the two agree under other conditions.

        Slots are compared too, since Adam's update hardly depends on the scale of a gradient.
        """
        return not self.parted(self.run(under, batch), *WEIGHTS, "optimizer")

    def gradients(self, outcomes: _Outcomes) -> _Signals:
        """Return the gradients that are known of both: compiled functions show none."""
        ours, theirs = (outcome.gradients for outcome in outcomes)
        pairs = [(a.name, id(a.variable), id(b.variable)) for a, b in self.pair.matched]
        return [(n, ours[a], theirs[b]) for n, a, b in pairs if a in ours and b in theirs]

    def updates(self, outcomes: _Outcomes) -> _Signals:
        ours, theirs = (outcome.values for outcome in outcomes)
        found: _Signals = []
        for a, b in self.pair.matched:
            if a.kind in ("trainable", "variable") and "float" in str(a.variable.dtype):
                before = self.pair.before(a).astype("float64")
                here, there = ours[id(a.variable)], theirs[id(b.variable)]
                found.append((a.name, here - before, there - before))
        return found

    def signals(self, outcomes: _Outcomes) -> _Signals:
        return self.gradients(outcomes) or self.updates(outcomes)


def cause_of(
    pair: Pair, batches: Sequence[Batch], index: int, tolerance: float
) -> tuple[Cause, str]:
    """Return the likely cause of a difference, and the evidence for it.

    Args:
        pair: The two ways, in the state in which the step begins.
        batches: All batches.
        index: The step in which they differ.
        tolerance: How far updates may be apart.
    """
    batch = batches[index]
    case = _Case(pair, batches, batch, tolerance, pair.run(batch, observed=True))
    for check in _CHECKS:
        found = check(case)
        if found is not None:
            return found
    factors = [f"{_ratio(a, b)[0]:.4g}" for _, a, b in case.signals(case.outcomes)[:5]]
    what = "gradients" if case.gradients(case.outcomes) else "updates"
    return "unknown", (
        f"None of the known causes explains it: the {what} differ by factors of about "
        f"{', '.join(factors) or 'nothing'}."
    )


def _joined(signals: _Signals, side: int) -> Array:
    return np.concatenate([np.zeros(0), *(both[side].ravel() for _, *both in signals)])


def _ratio(a: Array, b: Array) -> tuple[float, float]:
    """Return the factor from `a` to `b`, and the share of `b` that it does not explain."""
    factor = float(np.vdot(a, b)) / max(float(np.vdot(a, a)), 1e-300)
    return factor, float(np.linalg.norm(b - factor * a)) / max(float(np.linalg.norm(b)), 1e-30)


def _factor(signals: _Signals) -> float:
    """Return the common factor between all tensors of the two; 0 if there is none."""
    factor, rest = _ratio(_joined(signals, 0), _joined(signals, 1))
    return 0.0 if rest > _ALIKE else 1.0 if abs(factor - 1) < _ALIKE else factor


def _rows(batch: Batch) -> int:
    shapes = [leaf.shape for leaf in keras.tree.flatten(batch) if getattr(leaf, "shape", ())]
    return int(shapes[0][0]) if shapes else 1


# The checks: each returns a cause with its evidence, or `None`.


def _only_reported(case: _Case) -> _Finding | None:
    if case.parted(case.outcomes, *WEIGHTS, "optimizer"):
        return None
    seeds = case.parted(case.outcomes, "seed")
    if seeds:
        return "seeds", f"Weights agree, but seed generators were used differently: {seeds[0]}."
    return "metric state", (
        f"Weights and optimizers agree after the step; only measured values differ: "
        f"{', '.join(case.parted(case.outcomes)[:3])}."
    )


def _clock(case: _Case) -> _Finding | None:
    for each in case.pair.differences(*case.outcomes, case.tolerance):
        if each.kind == "optimizer" and each.name.endswith("iteration"):
            return "learning rate or schedule clock", (
                f"{each.name} is {each.values[0]:g} here and {each.values[1]:g} against it, so "
                "schedules and bias corrections are at different steps."
            )
    return None


def _frozen(case: _Case) -> _Finding | None:
    ours, theirs = (outcome.values for outcome in case.outcomes)
    moved: dict[tuple[bool, bool], list[str]] = {}
    for a, b in case.pair.matched:
        if "trainable" in (a.kind, b.kind):
            before = case.pair.before(a).tobytes()
            here, there = ours[id(a.variable)].tobytes(), theirs[id(b.variable)].tobytes()
            moved.setdefault((here != before, there != before), []).append(a.name)
    for place, which in zip(_PLACES, ((True, False), (False, True)), strict=True):
        if which in moved and (True, True) in moved:
            names = ", ".join(moved[which][:5])
            return "frozen variables", f"Only {place} the step updates {names}."
    return None


def _ragged(case: _Case) -> _Finding | None:
    other = max(case.batches, key=_rows)
    rows, full = _rows(case.batch), _rows(other)
    if rows == full or not case.trains_alike(batch=other):
        return None
    return "ragged last batch", (
        f"The batch has {rows} of {full} rows; from the same state, a full batch trains both alike."
    )


def _norms(case: _Case) -> _Finding | None:
    """Check whether some norm of the gradients is the same for each batch on one side only."""
    others = [batch for batch in case.batches if batch is not case.batch][:2]
    runs = [case.gradients(o) for o in (case.outcomes, *(case.run(batch=b) for b in others))]
    if not others or not all(runs):
        return None
    names = ["all together", "the largest element", *(name for name, *_ in runs[0])]
    constant: list[str] = []
    for side in (0, 1):
        norms = np.array([_norms_of(run, side) for run in runs])
        is_constant = (norms[0] > 0) & (np.ptp(norms, axis=0) < 1e-5 * norms[0])
        constant.append(", ".join(np.array(names)[is_constant][:4]) or "none")
    if constant[0] == constant[1]:
        return None
    return "clipping", (
        f"Over {len(runs)} batches, these norms of the gradients passed to the optimizer stay "
        f"constant: {constant[0]} here; {constant[1]} against it."
    )


def _norms_of(signals: _Signals, side: int) -> list[Any]:
    joint = _joined(signals, side)
    each = [np.linalg.norm(both[side]) for _, *both in signals]
    return [np.linalg.norm(joint), np.max(np.abs(joint)), *each]


def _scale(case: _Case) -> _Finding | None:
    what, factor = "gradients", _factor(case.gradients(case.outcomes))
    gradients_agree = factor == 1
    ours, theirs = (outcome.rates for outcome in case.outcomes)
    is_seen = gradients_agree and len(ours) == len(theirs)
    if is_seen and not np.allclose(ours, theirs, rtol=_ALIKE, atol=0):
        here, there = (", ".join(f"{rate:.6g}" for rate in rates) for rates in (ours, theirs))
        return "learning rate or schedule clock", (
            f"The gradients agree, the learning rates do not: {here} here and {there} against it."
        )
    if factor in (0, 1):
        what, factor = "updates", _factor(case.updates(case.outcomes))
    if factor in (0, 1):
        return None
    size, rows = max(abs(factor), 1 / abs(factor)), _rows(case.batch)
    said = f"All {what} against it are {factor:.6g} times those here, for a batch of {rows} rows"
    if gradients_agree:
        return "learning rate or schedule clock", f"{said}, and the gradients agree."
    if abs(size - rows) <= 5 * _ALIKE * rows:
        return "reduction", f"{said}: there is a sum {_PLACES[abs(factor) > 1]} instead of a mean."
    if size >= _LEAST_LOSS_SCALE and abs(np.log2(size) - round(np.log2(size))) < _ALIKE:
        return "loss scale", f"{said}, a power of two: only one of two scaled losses is unscaled."
    return "reduction", f"{said}: one of the two divides by something else, or weights the loss."


def _alike(cause: Cause, condition: str, under: Under) -> Callable[[_Case], _Finding | None]:
    """Return a check of whether both train alike under a condition."""

    def check(case: _Case) -> _Finding | None:
        if not case.trains_alike(under):
            return None
        return cause, f"{condition}, both train alike; otherwise they do not."

    return check


def _multiple(cause: Cause, condition: str, under: Under) -> Callable[[_Case], _Finding | None]:
    """Return a check of whether they differ by a multiple of what a condition changes."""

    def check(case: _Case) -> _Finding | None:
        as_they_are, changed = case.signals(case.outcomes), case.signals(case.run(under))
        found: list[tuple[float, str]] = []
        for side, place in enumerate(_PLACES):
            own = _joined(as_they_are, side)
            difference = _joined(as_they_are, 1 - side) - own
            factor, rest = _ratio(_joined(changed, side) - own, difference)
            if rest < 10 * _ALIKE < abs(factor):
                found.append((factor, place))
        if not found:
            return None
        factor, place = max(found)
        return cause, f"They differ by {factor:.3g} times what {condition} changes {place}."

    return check


# Conditions: each is entered before a way runs; `side` is 0 for ours and 1 for the other one.


@contextmanager
def _forced_training(flag: bool, way: Way, side: int) -> Generator[None]:
    """Call every layer that accepts it with `training=flag`."""

    def call(original: Any, layer: Any, *args: Any, **kwargs: Any) -> Talk:
        parameters = list(inspect.signature(layer.call).parameters)
        if "training" in parameters[: len(args)]:
            place = parameters.index("training")
            args = (*args[:place], flag, *args[place + 1 :])
        elif "training" in parameters:
            kwargs["training"] = flag
        yield Call(original, (layer, *args), kwargs)

    with listening(keras.Layer, "__call__", call):
        yield


@contextmanager
def _same_draws(way: Way, side: int) -> Generator[None]:
    """Make each draw of random numbers use the same seed.

    A function with a number as its seed uses no generator, so there is no other way.
    """

    def next_seed(original: Any, generator: Any, ordered: bool = True) -> Talk:
        yield Call(lambda: generator.state.value * 0, (), {})

    def seeded(original: Any, *args: Any, **kwargs: Any) -> Talk:
        yield Call(original, args, kwargs | {"seed": 0})

    with ExitStack() as stack:
        stack.enter_context(listening(keras.random.SeedGenerator, "next", next_seed))
        for name, function in list(vars(keras.random).items()):
            if inspect.isfunction(function) and "seed" in inspect.signature(function).parameters:
                stack.enter_context(listening(keras.random, name, seeded))
        yield


@contextmanager
def _set(things: Sequence[Any], names: Sequence[str], value: Any) -> Generator[None]:
    """Set attributes that are not `None` to another value."""
    held = [(thing, name, getattr(thing, name, None)) for thing in things for name in names]
    held = [each for each in held if each[2] is not None]
    for thing, name, _ in held:
        setattr(thing, name, value)
    try:
        yield
    finally:
        for thing, name, before in held:
            setattr(thing, name, before)


@contextmanager
def _without_added_losses(way: Way, side: int) -> Generator[None]:
    def nothing(original: Any, layer: Any, loss: Any) -> Talk:
        yield Call(lambda: None, (), {})

    none = keras.regularizers.L2(0.0)  # the step itself may call it
    with (
        listening(keras.Layer, "add_loss", nothing),
        _set(track(way.holder).variables, ["regularizer"], none),
    ):
        yield


@contextmanager
def _with_sums(way: Way, side: int) -> Generator[None]:
    """Give optimizers dense gradients, in which each row of an embedding has one."""

    def apply(original: Any, optimizer: Any, gradients: Any, *more: Any, **named: Any) -> Talk:
        sums = [g if g is None else _backends.current().dense(g) for g in gradients]
        yield Call(original, (optimizer, sums, *more), named)

    with listening(keras.optimizers.Optimizer, "apply", apply):
        yield


def _without_clipping(way: Way, side: int) -> AbstractContextManager[None]:
    optimizers = [inner_of(each) for each in track(way.holder).optimizers.values()]
    return _set(optimizers, ("clipnorm", "clipvalue", "global_clipnorm"), None)


def _losses_get(
    change: Callable[[Any, Any], Any], sides: tuple[int, ...], way: Way, side: int
) -> AbstractContextManager[Any]:
    """Pass other labels or outputs to the loss objects of these sides."""

    def call(original: Any, loss: Any, y_true: Any, y_pred: Any, *more: Any, **named: Any) -> Talk:
        if hasattr(y_true, "shape") and hasattr(y_pred, "shape"):
            y_true, y_pred = change(y_true, y_pred)
        yield Call(original, (loss, y_true, y_pred, *more), named)

    if side not in sides:
        return nullcontext()
    return listening(keras.losses.Loss, "__call__", call)


def _spread(y_true: Any, y_pred: Any) -> tuple[Any, Any]:
    if len(y_true.shape) != len(y_pred.shape) or y_true.shape[-1] != y_pred.shape[-1]:
        return y_true, y_pred  # class ids cannot be smoothed
    return ops.ones_like(y_pred) / max(2, y_pred.shape[-1]), y_pred


def _log(y_pred: Any) -> Any:
    return ops.log(ops.clip(y_pred, 1e-7, 1.0))


_READINGS: dict[str, Callable[[Any, Any], Any]] = {
    "softmax": lambda y_true, y_pred: (y_true, ops.softmax(y_pred)),
    "sigmoid": lambda y_true, y_pred: (y_true, ops.sigmoid(y_pred)),
    "log": lambda y_true, y_pred: (y_true, _log(y_pred)),
    "the inverse of sigmoid": lambda y_true, y_pred: (y_true, _log(y_pred) - _log(1.0 - y_pred)),
}

_ADDED = "regularizers and what layers add (`add_loss`, activity regularizers)"

_CHECKS: tuple[Callable[[_Case], _Finding | None], ...] = (
    _only_reported,
    _clock,
    _frozen,
    _ragged,
    _alike("repeated rows", "With the slices of each row of an embedding added up", _with_sums),
    _alike("clipping", "Without clipping in the optimizers", _without_clipping),
    _alike("regularization", f"Without {_ADDED}", _without_added_losses),
    _alike("seeds", "With the same seed for every draw", _same_draws),
    _alike("training flag", "With training=True in all layers", partial(_forced_training, True)),
    _alike("training flag", "With training=False in all layers", partial(_forced_training, False)),
    _norms,
    _scale,
    _multiple("regularization", f"leaving out {_ADDED}", _without_added_losses),
    *(
        _alike(
            "from_logits",
            f"With {name} applied to the outputs before the losses {place}",
            partial(_losses_get, reading, (side,)),
        )
        for side, place in enumerate(_PLACES)
        for name, reading in _READINGS.items()
    ),
    _multiple(
        "label smoothing",
        "spreading the labels evenly over the classes",
        partial(_losses_get, _spread, (0, 1)),
    ),
)
"""In order: the first that finds a cause returns it."""
