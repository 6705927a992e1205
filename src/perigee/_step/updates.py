"""Updates of variables: immediate or accumulated, conditional, with a loss scale."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._backends import Replicas
from perigee._errors import AccumulationError, OptimizerVariablesError, ScopeError
from perigee._step.averages import accumulation_dtype
from perigee._step.batch_means import BatchMeans
from perigee._step.frame import Frame, under_way
from perigee._step.gradients import Gradients
from perigee._step.state import INTERNALS, Holder, track
from perigee._typing import Tensor

_INITIAL_LOSS_SCALE = 2.0**15
_LOSS_SCALE_GROWTH_STEPS = 2000
_LEAST_WEIGHT = 1e-30


def inner_of(optimizer: Any) -> Any:
    """Return what makes the updates: the optimizer inside one with a loss scale, or itself."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def counter_of(optimizer: Any) -> keras.Variable:
    """Return the variable in which an optimizer counts its calls.

    `iterations` of one with `gradient_accumulation_steps` is a number computed from it.
    """
    inner = inner_of(optimizer)
    counter = inner.iterations
    return counter if isinstance(counter, keras.Variable) else inner.variables[0]


def update(
    step: Holder, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any], when: Any
) -> None:
    """Apply gradients now, unless `when` is false or, under a loss scale, one is not finite."""
    backend = _backends.current()
    scale = internals(step).loss_scale
    # Keras's `LossScaleOptimizer` divides by a scale that it expects in the loss; its other work is
    # done here.
    inner = inner_of(optimizer)
    if scale is not None or inner is not optimizer:
        finite = backend.all_finite(gradients)
        frame = under_way.get()
        if frame is not None:
            frame.finite.append(finite)
        when = finite if when is None else ops.logical_and(finite, when)
    seen = gradients
    if inner.loss_scale_factor is not None:
        gradients = [inner.scale_loss(backend.dense(g)) for g in gradients]
    gradients = backend.once(gradients)

    def run() -> None:
        try:
            inner.apply(gradients, variables)
        except ValueError as error:
            if "Unknown variable" not in str(error):
                raise
            tracked = track(step)
            raise OptimizerVariablesError(
                tracked.path_of(optimizer), tracked.names_of(_unknown(optimizer, variables))
            ) from error

    frame = under_way.get()
    watch = None if frame is None else frame.watch
    before = () if watch is None else watch.values(variables)
    if when is None:
        run()
    else:
        backend.update_if(when, run, [*variables, *optimizer.variables])
    if watch is not None:
        watch.updated(optimizer, seen, variables, before, when)


def can_wait(optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> bool:
    """Return whether a rehearsal can do without an update: Keras's own, in code that is not kept.

    Made op by op, it would take the memory of another model, which training does not need. One that
    would fail is made, and so is one of a user's own class that is built. A function that is
    compiled meanwhile would never make it.
    """
    kind = optimizer.__class__  # not its type, which of a weak reference is another
    is_own = (kind if optimizer.built else kind.apply).__module__.partition(".")[0] == "keras"
    if not is_own or _backends.current().compiler() is not None:
        return False
    inner = inner_of(optimizer)
    return not optimizer.built or (
        inner.__class__.__module__.partition(".")[0] == "keras"
        and not _unknown(optimizer, variables)
        and all(
            gradient is None or _shape_of(gradient) == tuple(variable.shape)
            for gradient, variable in zip(gradients, variables, strict=True)
        )
    )


def _shape_of(gradient: Any) -> tuple[int, ...] | None:
    return tuple(gradient.shape) if hasattr(gradient, "shape") else None


def _unknown(optimizer: Any, variables: Sequence[Any]) -> list[Any]:
    """Return the variables that an optimizer was not built for; Keras names only the first."""
    inner = inner_of(optimizer)
    known = {id(v) for v in getattr(inner, "_trainable_variables", ())}
    return [v for v in variables if id(v) not in known]


class Internals:
    """Perigee's own state on a Step: found and saved like the rest of its state."""

    def __init__(self) -> None:
        self.loss_scale: LossScale | None = None
        self.accumulators: dict[str, Accumulator] = {}
        self.accumulated: Any = None  # micro-batches since the last update; a variable
        self.programs: dict[Any, Any] = {}
        self.said: dict[str, Any] = {}  # by the path of a run, what the program said of the Step
        self.batch_means: BatchMeans = BatchMeans()
        self.replicas: Replicas | None = None
        self._has_averages = False
        self.runs_as_python = False  # on a framework that compiles steps otherwise
        self.recorded: set[str] = set()  # methods that take gradients themselves
        self.modules: list[Any] = []  # the framework's own, which `test_step` uses in inference
        self.apart: dict[str, Any] = {}  # by method, what finds functions compiled apart
        self._predicted: tuple[Any, int] = (None, 0)  # seeds, and how often they predicted

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy of the Step takes over: nothing that was compiled for this one."""
        fresh = vars(Internals())
        begun = ("programs", "said", "apart", "accumulators", "accumulated")
        return {**vars(self), **{name: fresh[name] for name in begun}}

    def count_prediction(self, seeds: Any) -> int:
        """Return how many predictions there were before this one, since seeds were drawn from.

        A training that draws begins the count again, so that a resumed one predicts the same.
        """
        known, count = self._predicted
        count = count + 1 if known == seeds else 0
        self._predicted = seeds, count
        return count

    def run_as_python(self, is_asked: bool = True) -> None:
        """Take note that steps run as Python code, so that attributes are state, or compiled."""
        self.runs_as_python = is_asked

    def begin_training(self) -> bool:
        """Return whether the training before this one ended by assigning averaged weights."""
        had_averages, self._has_averages = self._has_averages, False
        return had_averages

    def end_with_averages(self) -> None:
        """Take note that averaged weights are assigned."""
        self._has_averages = True

    def hold_modules(self, modules: Sequence[Any]) -> None:
        """Use these modules of the framework in inference mode where nothing is trained."""
        self.modules = list(modules)

    def scale_losses(self) -> None:
        """Keep a loss scale from now on."""
        self.loss_scale = self.loss_scale or LossScale()

    def count_micro_batches(self) -> None:
        """Count micro-batches from now on."""
        if self.accumulated is None:
            self.accumulated = _variable(0, "int32", "accumulated")

    @property
    def variables(self) -> dict[str, Any]:
        """Perigee's own variables, by name."""
        found: dict[str, Any] = {}
        if self.loss_scale is not None:
            found |= self.loss_scale.variables
        if self.accumulated is not None:
            found["accumulated"] = self.accumulated
        for path, accumulator in self.accumulators.items():
            found |= {f"accumulator/{path}/{k}": v for k, v in accumulator.variables.items()}
        own = self.batch_means.variables
        return {**found, **{f"batch_means/{name}": v for name, v in own.items()}}

    def accumulator(self, optimizer: Any) -> Accumulator:
        """Return the accumulator for the gradients of an optimizer."""
        for accumulator in self.accumulators.values():
            if accumulator.optimizer is optimizer:
                return accumulator
        raise AccumulationError(
            "an optimizer is applied that the rehearsal of the step did not see",
            "apply the same optimizers in every step.",
        )


def internals(step: Holder) -> Internals:
    """Return Perigee's own state on a Step, created at the first call."""
    return vars(step).setdefault(INTERNALS, Internals())


def reset_metrics(step: Holder) -> None:
    """Reset the metrics that a Step holds, and what is kept beside them."""
    for metric in track(step).metrics.values():
        metric.reset_state()
    internals(step).batch_means.reset()


def in_scope(step: Holder) -> AbstractContextManager[None]:
    """Run code once for all copies of a Step's variables, in the scope that it was created in.

    Raises:
        ScopeError: If it is called in the scope of other replicas.
    """
    refuse_other_scope(step)
    replicas = internals(step).replicas
    if replicas is not None:
        return replicas.scope()
    return _backends.current().as_one_device(track(step).variables)


def refuse_other_scope(step: Holder) -> None:
    """Refuse to use a Step in the scope of other replicas than those that it was created for.

    Raises:
        ScopeError: If that is so.
    """
    made, around = internals(step).replicas, _backends.current().replicas()
    if around is None or (made is not None and made.is_current()):
        return
    if around.splits or (made is not None and made.splits):
        raise ScopeError("no strategy" if made is None else made.name, used_under=around.name)


class LossScale:
    """A factor that keeps float16 gradients from vanishing, adapted to their range.

    It doubles after 2,000 finite updates in a row and halves at each update that is not finite,
    which is skipped (Micikevicius et al., 2018, section 3.2; Keras's own numbers).
    """

    def __init__(self) -> None:
        self._scale = _variable(_INITIAL_LOSS_SCALE, "float32", "loss_scale")
        self._good_steps = _variable(0, "int32", "loss_scale_good_steps")

    @property
    def variables(self) -> dict[str, Any]:
        """Its variables by name."""
        return {"loss_scale/scale": self._scale, "loss_scale/good_steps": self._good_steps}

    @property
    def value(self) -> Tensor:
        """The factor, shape `()`, float32."""
        return ops.convert_to_tensor(self._scale)

    def adapt(self, finite: Sequence[Tensor]) -> None:
        """Adapt to whether the updates of one step were finite."""
        is_finite = finite[0]
        for other in finite[1:]:
            is_finite = ops.logical_and(is_finite, other)
        scale, good = self.value, ops.convert_to_tensor(self._good_steps)
        grows = ops.equal(good, _LOSS_SCALE_GROWTH_STEPS - 1)
        grown = ops.where(grows, scale * 2.0, scale)
        self._scale.assign(ops.where(is_finite, grown, scale * 0.5))
        counted = ops.where(ops.logical_or(grows, ops.logical_not(is_finite)), 0, good + 1)
        self._good_steps.assign(ops.cast(counted, "int32"))


class Accumulator:
    """The weighted sum of the gradients of several micro-batches, for one optimizer."""

    def __init__(self, optimizer: Any, variables: Sequence[Any]) -> None:
        self.optimizer = optimizer
        self.targets = list(variables)
        dtypes = [accumulation_dtype(variable) for variable in variables]
        self._sums = [
            _variable(np.zeros(tuple(v.shape), dtype), dtype, f"sum_{i}")
            for i, (v, dtype) in enumerate(zip(variables, dtypes, strict=True))
        ]
        self._count = _variable(0.0, max(dtypes), "count")

    @property
    def variables(self) -> dict[str, Any]:
        """Its variables by name."""
        return {"count": self._count, **{f"sum_{i}": v for i, v in enumerate(self._sums)}}

    def add(self, gradients: Gradients, when: Any) -> None:
        """Add the gradients of a micro-batch, unless `when` is false."""
        weight = ops.cast(1.0 if gradients.weight is None else gradients.weight, self._count.dtype)
        # A batch whose weights are all 0 is one: alone it updates, by penalties if by nothing else.
        weight = ops.maximum(weight, _LEAST_WEIGHT)
        sums = {id(v): total for v, total in zip(self.targets, self._sums, strict=True)}
        dense = _backends.current().dense
        for value, variable in zip(gradients.values, gradients.variables, strict=True):
            total = sums[id(variable)]
            share = ops.cast(dense(value), total.dtype) * ops.cast(weight, total.dtype)
            if when is not None:  # not a product: a skipped gradient may be NaN
                share = ops.where(when, share, ops.zeros_like(share))
            total.assign_add(share)
        counted = weight if when is None else ops.where(when, weight, ops.zeros_like(weight))
        self._count.assign_add(counted)

    def flush(self, step: Holder) -> None:
        """Apply the mean of what was added, if anything, and reset."""
        count = ops.convert_to_tensor(self._count)
        divisor = ops.maximum(count, _LEAST_WEIGHT)
        means = [
            ops.cast(ops.convert_to_tensor(total) / ops.cast(divisor, total.dtype), variable.dtype)
            for total, variable in zip(self._sums, self.targets, strict=True)
        ]
        update(step, self.optimizer, means, self.targets, ops.greater(count, 0.0))
        for total in self._sums:
            total.assign(ops.zeros(total.shape, total.dtype))
        self._count.assign(0.0)


def flush_if_full(step: Holder, size: int) -> None:
    """Apply all accumulators of a Step if they hold `size` micro-batches."""
    own = internals(step)
    written = list(own.variables.values())
    for accumulator in own.accumulators.values():
        written += [*accumulator.targets, *accumulator.optimizer.variables]
    is_full = ops.equal(ops.convert_to_tensor(own.accumulated), size)
    _backends.current().update_if(is_full, lambda: flush_accumulators(step), written)


def flush_accumulators(step: Holder) -> None:
    """Apply all accumulators of a Step, and reset them."""
    frame = Frame(step, "train_step", None)
    token = under_way.set(frame)
    try:
        own = internals(step)
        for accumulator in own.accumulators.values():
            accumulator.flush(step)
        if own.loss_scale is not None and frame.finite:
            own.loss_scale.adapt(frame.finite)
        own.accumulated.assign(0)
    finally:
        under_way.reset(token)


def _variable(value: Any, dtype: str, name: str) -> Any:
    return keras.Variable(
        np.asarray(value, dtype), dtype=dtype, trainable=False, autocast=False, name=name
    )
