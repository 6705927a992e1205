"""Finds why two ways of training differ, by repeating the step under changed conditions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._listening import Call, Talk, listening
from perigee._step.state import Tracked, track
from perigee._typing import Batch
from perigee.testing._ways import Array, Outcome, Pair

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
    "unknown",
]

_ALIKE = 1e-3
"""The largest relative difference of numbers that should be equal."""
_LEAST_LOSS_SCALE = 256.0
_WEIGHTS = ("trainable", "non_trainable", "variable")

_Finding = tuple[Cause, str]


@dataclass(frozen=True, slots=True)
class _Case:
    """A step in which two ways differ.

    Attributes:
        pair: The two ways, in the state in which the step begins.
        batches: All batches.
        index: The index of the step's batch.
        tolerance: How far updates may be apart.
        ours: The outcome of our way, op by op.
        theirs: The outcome of the other way.
    """

    pair: Pair
    batches: Sequence[Batch]
    index: int
    tolerance: float
    ours: Outcome
    theirs: Outcome

    @property
    def batch(self) -> Batch:
        return self.batches[self.index]

    def parted(self, ours: Outcome, theirs: Outcome, *kinds: str) -> list[str]:
        found = self.pair.differences(ours, theirs, self.tolerance)
        return [each.name for each in found if not kinds or each.kind in kinds]

    def trains_alike(self, under: Callable[[], Any], batch: Batch | None = None) -> bool:
        """Return whether the two agree under other conditions.

        Slots are compared too, since Adam's update hardly depends on the scale of a gradient.
        """
        outcomes = self.pair.run(self.batch if batch is None else batch, observed=True, under=under)
        return not self.parted(*outcomes, *_WEIGHTS, "optimizer")


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
    ours, theirs = pair.run(batches[index], observed=True)
    case = _Case(pair, batches, index, tolerance, ours, theirs)
    try:
        for look in _LOOKS:
            found = look(case)
            if found is not None:
                return found
    finally:
        pair.restore()
    return "unknown", "None of the known causes explains it: " + _summary(case)


def _summary(case: _Case) -> str:
    signals = _signals(case, case.ours, case.theirs)
    ratios = [f"{_ratio(a, b)[0]:.4g}" for _, a, b in signals.pairs[:5]]
    return f"the {signals.what} differ by factors of about {', '.join(ratios) or 'nothing'}."


# What is compared: gradients if both are known, otherwise updates.


@dataclass(frozen=True, slots=True)
class _Signals:
    what: str
    pairs: list[tuple[Any, Array, Array]]

    @property
    def joined(self) -> tuple[Array, Array]:
        if not self.pairs:
            return np.zeros(1), np.zeros(1)
        return (
            np.concatenate([a.ravel() for _, a, _ in self.pairs]),
            np.concatenate([b.ravel() for _, _, b in self.pairs]),
        )


def _signals(case: _Case, ours: Outcome, theirs: Outcome) -> _Signals:
    found: list[tuple[Any, Array, Array]] = []
    for a, b in case.pair.matched:
        ids = id(a.variable), id(b.variable)
        if ids[0] in ours.gradients and ids[1] in theirs.gradients:
            found.append((a, ours.gradients[ids[0]], theirs.gradients[ids[1]]))
    if found:
        return _Signals("gradients", found)
    return _updates(case, ours, theirs)


def _updates(case: _Case, ours: Outcome, theirs: Outcome) -> _Signals:
    found: list[tuple[Any, Array, Array]] = []
    for a, b in case.pair.matched:
        if a.kind in ("trainable", "variable") and "float" in str(a.variable.dtype):
            start = case.pair.before(a).astype("float64")
            found.append(
                (a, ours.values[id(a.variable)] - start, theirs.values[id(b.variable)] - start)
            )
    return _Signals("updates", found)


def _ratio(a: Array, b: Array) -> tuple[float, float]:
    """Return the factor from `a` to `b`, and the share of `b` that it does not explain."""
    square = float(np.vdot(a, a))
    factor = float(np.vdot(a, b)) / square if square > 0 else 0.0
    rest = float(np.linalg.norm(b - factor * a))
    return factor, rest / max(float(np.linalg.norm(b)), 1e-30)


def _one_factor(signals: _Signals) -> float | None:
    """Return the common factor between all tensors of the two, `None` if there is none."""
    a, b = signals.joined
    factor, rest = _ratio(a, b)
    return factor if rest < _ALIKE and factor != 0 and abs(factor - 1) > _ALIKE else None


def _agree(signals: _Signals) -> bool:
    factor, rest = _ratio(*signals.joined)
    return rest < _ALIKE and abs(factor - 1) < _ALIKE


def _is_near(a: float, b: float) -> bool:
    return abs(a - b) <= 5 * _ALIKE * max(abs(a), abs(b))


def _rows(batch: Batch) -> int:
    shapes = [leaf.shape for leaf in keras.tree.flatten(batch) if getattr(leaf, "shape", ())]
    return int(shapes[0][0]) if shapes else 1


# The checks, in order: each returns a cause with its evidence, or `None`.


def _only_reported(case: _Case) -> _Finding | None:
    names = case.parted(case.ours, case.theirs)
    if case.parted(case.ours, case.theirs, *_WEIGHTS, "optimizer"):
        return None
    if case.parted(case.ours, case.theirs, "seed"):
        return "seeds", f"Weights agree, but seed generators were used differently: {names[0]}."
    return "metric state", (
        f"Weights and optimizers agree after the step; only measured values differ: "
        f"{', '.join(names[:3])}."
    )


def _clock(case: _Case) -> _Finding | None:
    counters = {
        id(getattr(o, "inner_optimizer", o).iterations)
        for o in track(case.pair.ours.holder).optimizers.values()
    }
    for a, b in case.pair.matched:
        before = int(case.pair.before(a)) if id(a.variable) in counters else 0
        after = (
            [int(case.ours.values[id(a.variable)]), int(case.theirs.values[id(b.variable)])]
            if id(a.variable) in counters
            else [0, 0]
        )
        if after[0] != after[1]:
            return "learning rate or schedule clock", (
                f"{a.name} went from {before} to {after[0]} here and to {after[1]} against it, "
                "so schedules and bias corrections are at different steps."
            )
    return None


def _frozen(case: _Case) -> _Finding | None:
    moved: list[tuple[str, bool, bool]] = []
    for a, b in case.pair.matched:
        if a.kind in ("trainable", "non_trainable", "variable") and (
            a.kind == "trainable" or b.kind == "trainable"
        ):
            before = case.pair.before(a)
            here = case.ours.values[id(a.variable)].tobytes() != before.tobytes()
            there = case.theirs.values[id(b.variable)].tobytes() != before.tobytes()
            moved.append((a.name, here, there))
    here_only = [name for name, here, there in moved if here and not there]
    there_only = [name for name, here, there in moved if there and not here]
    both = [name for name, here, there in moved if here and there]
    if (here_only or there_only) and both:
        names = here_only or there_only
        place = "here" if here_only else "against it"
        return "frozen variables", f"Only {place} the step updates {', '.join(names[:5])}."
    return None


def _ragged(case: _Case) -> _Finding | None:
    rows, full = _rows(case.batch), max(_rows(batch) for batch in case.batches)
    if rows == full:
        return None
    other = next(batch for batch in case.batches if _rows(batch) == full)
    if not case.trains_alike(ExitStack, other):
        return None
    factor = _one_factor(_signals(case, case.ours, case.theirs))
    by = "" if factor is None else f" The gradients differ by a factor of {factor:.6g}"
    if factor is not None and (_is_near(factor, rows / full) or _is_near(factor, full / rows)):
        by += f", and the batch has {rows} of {full} rows"
    return "ragged last batch", (
        f"The batch has {rows} rows, others {full}; from the same state a full batch trains both "
        f"alike.{by + '.' if by else ''}"
    )


def _training_flag(case: _Case) -> _Finding | None:
    for flag in (True, False):
        if case.trains_alike(lambda flag=flag: _forced_training(flag)):
            return "training flag", (
                f"With training={flag} forced on all layers both agree, otherwise they do not."
            )
    return None


def _regularization(case: _Case) -> _Finding | None:
    signals = _signals(case, case.ours, case.theirs)
    held = _held_variables(case.pair)
    penalties = {
        id(a): _penalty_gradient(case, a.variable)
        for a, _, _ in signals.pairs
        if getattr(a.variable, "regularizer", None) is not None
    }
    if penalties and signals.what == "gradients":
        without = case.pair.run(
            case.batch, observed=True, under=lambda: _without_regularizers(held)
        )
        bare = _signals(case, *without)
        difference = np.concatenate([(b - a).ravel() for _, a, b in signals.pairs])
        penalty = np.concatenate(
            [penalties.get(id(e), np.zeros(a.shape)).ravel() for e, a, _ in signals.pairs]
        )
        factor, rest = _ratio(penalty, difference)
        if rest < 10 * _ALIKE and abs(factor) > 10 * _ALIKE:
            here = _ratio(penalty, signals.joined[0] - bare.joined[0])[0]
            there = _ratio(penalty, signals.joined[1] - bare.joined[1])[0]
            how = (
                f"the regularizers' gradients are included {here:.3g} times here and {there:.3g} "
                "times against it"
            )
            if abs(there - here - factor) > 10 * _ALIKE:
                how = f"one of the two adds them {abs(factor):.3g} times by hand"
            return "regularization", (
                f"The gradients differ by {factor:.3g} times those of the regularizers: {how}."
            )
    if case.trains_alike(lambda: _without_added_losses(held)):
        return "regularization", (
            "Without regularizers and terms added by layers (`add_loss`, activity regularizers) "
            "both agree: one of the two omits such terms, or adds them twice."
        )
    return None


def _optimizer_settings(case: _Case) -> _Finding | None:
    signals = _signals(case, case.ours, case.theirs)
    optimizers = [o for way in _holders(case.pair) for o in way.optimizers.values()]
    if signals.what == "gradients" and _agree(signals):
        rates = case.ours.rates, case.theirs.rates
        factor = _one_factor(_updates(case, case.ours, case.theirs))
        if len(rates[0]) == len(rates[1]) and not np.allclose(*rates, rtol=_ALIKE, atol=0):
            by = "" if factor is None else f", and the updates by a factor of {factor:.6g}"
            return "learning rate or schedule clock", (
                f"The gradients agree, the learning rates do not: {_list(rates[0])} here and "
                f"{_list(rates[1])} against it{by}."
            )
        if case.trains_alike(lambda: _without_clipping(optimizers)):
            return "clipping", (
                "The gradients passed to the optimizers agree; without clipping in the "
                "optimizers the updates do, too."
            )
        if factor is not None:
            return "learning rate or schedule clock", (
                f"The gradients agree, the updates differ by a factor of {factor:.6g}."
            )
        return None
    if any(_clips(o) for o in optimizers):
        under = case.pair.run(
            case.batch, observed=True, under=lambda: _without_clipping(optimizers)
        )
        if _agree(_signals(case, *under)) and not case.parted(*under, *_WEIGHTS, "optimizer"):
            return "clipping", "Without clipping in the optimizers both agree."
    return None


def _clipping(case: _Case) -> _Finding | None:
    """Check whether some norm of the gradients is the same for each batch on one side only."""
    if _signals(case, case.ours, case.theirs).what != "gradients":
        return None
    runs = [(case.ours, case.theirs)]
    others = [b for i, b in enumerate(case.batches) if i != case.index][:2]
    runs += [case.pair.run(batch, observed=True) for batch in others]
    if len(runs) < 2:
        return None
    fixed: list[str | None] = []
    for side in (0, 1):
        gradients = [
            [pair[1 + side] for pair in _signals(case, *outcomes).pairs] for outcomes in runs
        ]
        fixed.append(_fixed_norm(gradients))
    if fixed[0] != fixed[1]:
        here, there = (f or "nothing of the kind" for f in fixed)
        return "clipping", (
            f"Over {len(runs)} batches, what stays constant in the gradients passed to the "
            f"optimizer: {here} here, {there} against it."
        )
    return None


def _fixed_norm(gradients: list[list[Array]]) -> str | None:
    """Return which norm is the same for each batch; gradients by batch and by variable."""
    norms = np.array([[np.linalg.norm(g) for g in each] for each in gradients])
    joint = np.sqrt(np.sum(np.square(norms), axis=1))
    if _is_constant(joint):
        return f"the global norm ({joint[0]:.4g})"
    constant = [i for i in range(norms.shape[1]) if _is_constant(norms[:, i])]
    if constant:
        return f"the norm of {len(constant)} variables ({norms[0, constant[0]]:.4g})"
    largest = np.array([max(np.max(np.abs(g)) for g in each) for each in gradients])
    return f"the largest element ({largest[0]:.4g})" if _is_constant(largest) else None


def _is_constant(values: Array) -> bool:
    return bool(values[0] > 0 and np.ptp(values) < 1e-5 * values[0])


def _scale(case: _Case) -> _Finding | None:
    signals = _signals(case, case.ours, case.theirs)
    factor = _one_factor(signals)
    if factor is None:
        return None
    size, rows = max(abs(factor), 1 / abs(factor)), _rows(case.batch)
    said = f"All {signals.what} against it are {factor:.6g} times those here"
    exponent = np.log2(size)
    if _is_near(size, rows) and not (size >= _LEAST_LOSS_SCALE and _holds_for_other(case, factor)):
        side = "against it" if factor > 1 else "here"
        return "reduction", f"{said}: the number of rows. There is a sum {side} instead of a mean."
    if size >= _LEAST_LOSS_SCALE and abs(exponent - round(exponent)) < _ALIKE:
        return "loss scale", (
            f"{said}, a power of two: a loss was scaled and not unscaled, or the other way round."
        )
    return "reduction", (
        f"{said}, with a batch of {rows} rows: one of the two divides by something else, or "
        "weights the loss."
    )


def _holds_for_other(case: _Case, factor: float) -> bool:
    """Return whether the factor is the same for a batch of another size."""
    rows = _rows(case.batch)
    for batch in case.batches:
        if _rows(batch) != rows:
            outcomes = case.pair.run(batch, observed=True)
            other = _one_factor(_signals(case, *outcomes))
            return other is not None and _is_near(other, factor)
    return False


def _labels(case: _Case) -> _Finding | None:
    """Compare the losses on one output, with changed outputs or changed labels."""
    losses = [_only_loss(outcome) for outcome in (case.ours, case.theirs)]
    others = [b for i, b in enumerate(case.batches) if i != case.index][:1]
    shares: dict[int, list[float]] = {0: [], 1: []}
    for batch in [case.batch, *others]:
        outcomes = case.pair.run(batch, observed=True)
        seen = _labels_and_outputs(case, batch)
        if seen is None:
            return None
        y, y_pred = seen
        for side in (0, 1):
            loss, other = losses[side], losses[1 - side]
            if loss is None:
                continue
            wanted = (
                _number(other(y, y_pred))
                if other is not None
                else outcomes[1 - side].logs.get("loss", float("nan"))
            )
            plain = _number(loss(y, y_pred))
            if abs(plain - wanted) <= 1e-5 * abs(wanted):
                continue
            for name, changed in _other_readings(y_pred).items():
                if batch is case.batch and abs(_number(loss(y, changed)) - wanted) < (
                    1e-4 * abs(wanted)
                ):
                    return "from_logits", (
                        f"The loss {'here' if side == 0 else 'against it'} gives {wanted:.6g}, "
                        f"as the other one does, if {name} is applied to the outputs first; "
                        f"unchanged, it gives {plain:.6g}."
                    )
            if "float" in keras.backend.standardize_dtype(y.dtype):
                classes = y.shape[-1] if len(y.shape) > 1 and y.shape[-1] > 1 else 2
                flat = _number(loss(ops.ones_like(y) / classes, y_pred))
                shares[side].append((wanted - plain) / (flat - plain or 1e-30))
    for found in shares.values():
        if len(found) == 2 and abs(found[0] - found[1]) < 1e-2 and 1e-3 < abs(found[0]) < 1:
            return "label smoothing", (
                f"On two batches the losses differ as if {abs(found[0]):.3g} of the labels were "
                "spread evenly over the classes on one side only."
            )
    return None


def _only_loss(outcome: Outcome) -> Any:
    found = {id(loss): loss for loss in outcome.losses}
    return next(iter(found.values())) if len(found) == 1 else None


def _labels_and_outputs(case: _Case, batch: Batch) -> tuple[Any, Any] | None:
    x, y, _ = keras.utils.unpack_x_y_sample_weight(_backends.current().tensors(batch))
    holder = track(case.pair.ours.holder)
    models = [m for m in holder.models.values() if isinstance(m, keras.Model)]
    if len(models) != 1 or not hasattr(y, "shape"):
        return None
    case.pair.restore()
    y_pred = models[0](x, training=True)
    return (y, y_pred) if hasattr(y_pred, "shape") else None


def _other_readings(y_pred: Any) -> dict[str, Any]:
    values = ops.convert_to_numpy(ops.stop_gradient(y_pred))
    tiny = 1e-7
    found: dict[str, Any] = {}
    if y_pred.shape[-1] > 1:
        found["softmax"] = ops.softmax(y_pred)
    found["sigmoid"] = ops.sigmoid(y_pred)
    if values.min() >= 0 and values.max() <= 1:
        clipped = ops.clip(y_pred, tiny, 1 - tiny)
        found["log"] = ops.log(clipped)
        found["logit"] = ops.log(clipped) - ops.log(1 - clipped)
    return found


def _number(tensor: Any) -> float:
    return float(np.mean(ops.convert_to_numpy(ops.stop_gradient(tensor))))


def _seeds(case: _Case) -> _Finding | None:
    if case.trains_alike(_same_draws):
        return "seeds", (
            "If every draw uses the same seed, both agree: otherwise they draw from different "
            "seeds, or in a different order."
        )
    return None


_LOOKS: tuple[Callable[[_Case], _Finding | None], ...] = (
    _only_reported,
    _clock,
    _frozen,
    _ragged,
    _optimizer_settings,
    _regularization,
    _seeds,
    _training_flag,
    _clipping,
    _scale,
    _labels,
)


# Changed conditions.


@contextmanager
def _forced_training(flag: bool) -> Generator[None]:
    """Call every layer that accepts it with `training=flag`."""

    def call(original: Any, layer: Any, *args: Any, **kwargs: Any) -> Talk:
        parameters = list(inspect.signature(layer.call).parameters)
        if "training" in parameters:
            place = parameters.index("training")
            if place < len(args):
                args = (*args[:place], flag, *args[place + 1 :])
            else:
                kwargs["training"] = flag
        yield Call(original, (layer, *args), kwargs)

    with listening(keras.Layer, "__call__", call):
        yield


@contextmanager
def _same_draws() -> Generator[None]:
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
def _without_regularizers(variables: Sequence[Any]) -> Generator[None]:
    held = [(v, v.regularizer) for v in variables if getattr(v, "regularizer", None) is not None]
    for variable, _ in held:
        variable.regularizer = keras.regularizers.L2(0.0)  # the step itself may call it
    try:
        yield
    finally:
        for variable, regularizer in held:
            variable.regularizer = regularizer


@contextmanager
def _without_added_losses(variables: Sequence[Any]) -> Generator[None]:
    def nothing(original: Any, layer: Any, loss: Any) -> Talk:
        yield Call(lambda: None, (), {})

    with listening(keras.Layer, "add_loss", nothing), _without_regularizers(variables):
        yield


_CLIPPING = ("clipnorm", "clipvalue", "global_clipnorm")


def _clips(optimizer: Any) -> bool:
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    return any(getattr(inner, name, None) is not None for name in _CLIPPING)


@contextmanager
def _without_clipping(optimizers: Sequence[Any]) -> Generator[None]:
    inner = [getattr(optimizer, "inner_optimizer", optimizer) for optimizer in optimizers]
    held = [(o, name, getattr(o, name, None)) for o in inner for name in _CLIPPING]
    for optimizer, name, _ in held:
        setattr(optimizer, name, None)
    try:
        yield
    finally:
        for optimizer, name, value in held:
            setattr(optimizer, name, value)


def _holders(pair: Pair) -> list[Tracked]:
    return [track(way.holder) for way in (pair.ours, pair.theirs)]


def _held_variables(pair: Pair) -> list[Any]:
    return [v for tracked in _holders(pair) for v in tracked.variables]


def _penalty_gradient(case: _Case, variable: Any) -> Array:
    case.pair.restore()
    _, [gradient], _ = _backends.current().differentiate(
        lambda: (ops.sum(variable.regularizer(variable)), None), [variable]
    )
    return np.asarray(_backends.current().to_host(gradient), "float64")


def _list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.6g}" for value in values)
