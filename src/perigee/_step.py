"""The Step: what the user writes, and the three verbs that it is written with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import keras
import numpy as np
from keras import ops

from perigee import _backends, _state
from perigee._averages import Average, Term, as_average, total_mean
from perigee._errors import (
    AccumulationError,
    GradientCountError,
    InnerLossError,
    LossShapeError,
    LossTypeError,
    MissingMethodError,
    OptimizerAccumulationError,
    OptimizerVariablesError,
    UnusedVariablesError,
    VariablesArgumentError,
)
from perigee._state import Holder, Tracked
from perigee._typing import Batch, Tensor, Tree

Method = Literal["train_step", "test_step", "predict_step"]

Objective = Callable[..., Any]
"""Returns a loss, or `(loss, aux)`; takes tensors only where it is differentiated for them."""

_plain = _backends.current().plain

_INITIAL_LOSS_SCALE = 2.0**15
_LOSS_SCALE_GROWTH_STEPS = 2000


class Step(Holder):
    """One training step, and what it works on.

    Hold models, layers, optimizers, metrics, seed generators, `keras.Variable`s and other Steps
    as attributes (also inside lists, tuples and dicts): they are found, named by their attribute
    path, compiled over and saved. Write the methods that are needed:

    - `train_step(batch)` and `test_step(batch)` return a flat dict of what to log: scalars (the
      mean over the batch), vectors of one value an example, or `pg.mean(values, weights)`.
      Metrics that they update are logged by themselves.
    - `predict_step(batch)` returns a tree of tensors whose first axis counts the examples.

    A batch is what the data yields, as tensors.

    >>> class Regression(pg.Step):
    ...     def __init__(self, model):
    ...         self.model = model
    ...         self.optimizer = keras.optimizers.Adam(1e-3)
    ...
    ...     def train_step(self, batch):
    ...         x, y = batch
    ...         objective = lambda: ops.square(y - self.model(x, training=True))[:, 0]
    ...         return {"loss": self.minimize(objective, self.optimizer, self.model)}
    """

    def train_step(self, batch: Batch) -> dict[str, Any]:
        """Update the Step on one batch and return what to log.

        Args:
            batch: One batch, in the structure of the data.
        """
        raise MissingMethodError(type(self).__name__, "train_step")

    def test_step(self, batch: Batch) -> dict[str, Any]:
        """Measure the Step on one batch and return what to log; whatever it writes is undone.

        Args:
            batch: One batch, in the structure of the data.
        """
        raise MissingMethodError(type(self).__name__, "test_step")

    def predict_step(self, batch: Batch) -> Tree:
        """Return predictions for one batch: a tree of tensors with the examples on axis 0.

        Args:
            batch: One batch, in the structure of the data.
        """
        raise MissingMethodError(type(self).__name__, "predict_step")

    @_plain
    def num_examples(self, batch: Batch) -> Tensor | int | None:
        """Return how many examples a batch holds, which is what its averages weigh.

        Override it where the common first axis of all arrays is not the count.

        Args:
            batch: One batch, in the structure of the data.

        Returns:
            A scalar; `None` where the arrays of the batch have no common first axis, so that each
            step weighs 1.
        """
        sizes, static = [], set()
        for leaf in keras.tree.flatten(batch):
            if leaf is None:
                continue
            if len(getattr(leaf, "shape", ())) == 0:
                return None
            static.add(leaf.shape[0])
            sizes.append(ops.shape(leaf)[0])
        known = {size for size in static if size is not None}
        return sizes[0] if sizes and len(known) <= 1 else None

    def host_state(self) -> dict[str, Any]:
        """Return state outside variables that a checkpoint must hold: arrays, numbers, strings."""
        return {}

    def load_host_state(self, state: dict[str, Any]) -> None:
        """Take back what `host_state` returned."""

    @_plain
    def minimize(
        self,
        objective: Objective,
        optimizer: keras.optimizers.Optimizer,
        variables: Any = None,
        *,
        add_losses: bool = True,
    ) -> Any:
        """Take one step of `optimizer` towards a smaller `objective()`.

        The loss is averaged over the batch exactly, weight penalties and `add_loss` terms are
        added once, the loss is scaled where the models compute in float16, and every variable
        must be reached by a gradient.

        Args:
            objective: Returns the loss (a scalar, one value an example, or `pg.mean(...)`), or
                `(loss, aux)` with any tree. It must call the model itself.
            optimizer: Held by this Step.
            variables: What to update: a model, a layer, or a (nested) list of variables; `None`
                for the only model of the Step.
            add_losses: Whether to add the penalties of the variables' regularizers and the
                `add_loss` terms of layers called inside the objective.

        Returns:
            What the objective returned, its loss with the added terms.

        Raises:
            UnusedVariablesError: If no gradient reaches some variables.
            LossShapeError: If the loss is neither a scalar nor one value an example.
            LossTypeError: If the loss is no floating tensor.
        """
        gradients = self.gradients(objective, variables, add_losses=add_losses)
        self.apply(optimizer, gradients)
        return gradients.returned

    @_plain
    def gradients(
        self, objective: Objective, variables: Any = None, *, add_losses: bool = True
    ) -> Any:
        """Differentiate an objective; `apply` takes the result.

        For variables, outside any other objective: the gradients of the mean over the batch,
        unscaled, as `Gradients`. Inside another objective, or for tensors: the plain gradients of
        a scalar, to build penalties and inner loops with (they can be differentiated again).

        Args:
            objective: Returns the loss, or `(loss, aux)`. For tensors it takes them as arguments
                and returns a scalar.
            variables: A model, a layer, or a (nested) list of variables; or tensors (one, or a
                list) to differentiate the objective for its arguments.
            add_losses: As in `minimize`; never inside another objective, nor for tensors.

        Returns:
            `Gradients` for variables; for tensors one gradient, or a list like the tensors.

        Raises:
            UnusedVariablesError: If no gradient reaches some variables or tensors.
            InnerLossError: If an inner objective returns more than one value.
        """
        if _is_tensors(variables):
            return self._input_gradients(objective, variables)
        frame = _frame.get() or Frame(self, "train_step", None)
        is_inner = frame.depth > 0
        chosen = _chosen_variables(self, variables, objective, frame)
        scale = None if is_inner else internals(self).loss_scale
        user_code = _backends.current().user_code

        def function() -> tuple[Tensor, Any]:
            with _Objective(frame, self, add_losses and not is_inner) as added:
                returned = user_code(objective)()
            return _measured(returned, added.terms(chosen), frame, is_inner, scale)

        (returned, weight), values, read = _backends.current().differentiate(function, chosen)
        if frame.recorder is not None:
            frame.recorder.differentiated(chosen, read)
        _refuse_unused(self, chosen, values)
        if scale is not None:
            unscale = 1.0 / scale.value
            scaled = [_backends.current().dense(value) for value in values]
            values = [value * ops.cast(unscale, value.dtype) for value in scaled]
        return Gradients(values, chosen, returned, weight)

    @_plain
    def apply(
        self, optimizer: keras.optimizers.Optimizer, gradients: Any, when: Any = None
    ) -> None:
        """Let `optimizer` update the variables of `gradients`.

        Args:
            optimizer: Held by this Step.
            gradients: What `gradients` returned, changed or not; or (gradient, variable) pairs.
            when: Boolean scalar tensor; where it is false nothing at all changes, slots and
                counters included. `None` always updates.

        Raises:
            OptimizerVariablesError: If the optimizer was built on other variables.
            OptimizerAccumulationError: If the optimizer accumulates gradients by itself.
        """
        gradients = _as_gradients(gradients)
        _refuse_unused(self, gradients.variables, gradients.values)
        frame = _frame.get()
        own = internals(self)
        inner = getattr(optimizer, "inner_optimizer", optimizer)
        if inner.gradient_accumulation_steps:
            name = _state.track(self).path_of(optimizer)
            raise OptimizerAccumulationError(name, inner.gradient_accumulation_steps)
        if frame is not None and frame.recorder is not None:
            frame.recorder.applied(optimizer, gradients)
            if not optimizer.built:
                return  # built on the union of its variables when the rehearsal is over
        if not optimizer.built:
            optimizer.build(gradients.variables)
        if frame is not None and frame.is_accumulating:
            own.accumulator(optimizer, gradients.variables).add(gradients, when)
            return
        update(self, optimizer, gradients.values, gradients.variables, when)

    def _input_gradients(self, objective: Objective, tensors: Any) -> Any:
        frame = _frame.get() or Frame(self, "train_step", None)
        flat = keras.tree.flatten(tensors)
        user_code = _backends.current().user_code

        def function(*arguments: Tensor) -> Tensor:
            with _Objective(frame, self, add_losses=False):
                returned = user_code(objective)(*arguments)
            return _inner_scalar(returned)

        values = _backends.current().differentiate_inputs(function, flat)
        unused = [f"tensor {i} of shape {tuple(t.shape)}" for i, t in enumerate(flat)]
        unused = [name for name, value in zip(unused, values, strict=True) if value is None]
        if unused:
            raise UnusedVariablesError(unused, len(flat))
        return keras.tree.pack_sequence_as(tensors, values)


@dataclass(frozen=True, slots=True)
class Gradients(Sequence[Any]):
    """Gradients with the variables that they belong to; a sequence of the gradients.

    Attributes:
        values: One tensor for each variable, of its shape.
        variables: The variables.
        returned: What the objective returned, its loss with the added terms.
        weight: How much this batch counts among others, shape `()`: its number of examples, or
            the count of the loss.
        is_altered: Whether the values were replaced after they were computed.
    """

    values: Sequence[Any]
    variables: Sequence[Any]
    returned: Any = None
    weight: Any = None
    is_altered: bool = False

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: Any) -> Any:
        return self.values[index]

    @_plain
    def replaced(self, values: Iterable[Any]) -> Gradients:
        """Return the same with other values, in the same order.

        Raises:
            GradientCountError: If their number differs.
        """
        values = list(values)
        if len(values) != len(self.variables):
            raise GradientCountError(len(values), len(self.variables))
        return Gradients(values, self.variables, self.returned, self.weight, is_altered=True)

    @_plain
    def of(self, variables: Sequence[Any]) -> Gradients:
        """Return the part that belongs to some of the variables, unaltered.

        Args:
            variables: Any of `self.variables`, in any order.
        """
        values = {id(v): value for v, value in zip(self.variables, self.values, strict=True)}
        part = [values[id(v)] for v in variables]
        return Gradients(part, list(variables), self.returned, self.weight, self.is_altered)


@_plain
def clip_by_value(gradients: Gradients, limit: float) -> Gradients:
    """Limit each element of each gradient to `[-limit, limit]`, `limit` greater than 0."""
    dense = _backends.current().dense
    return gradients.replaced(ops.clip(dense(g), -limit, limit) for g in gradients)


@_plain
def clip_by_norm(gradients: Gradients, max_norm: float) -> Gradients:
    """Scale each gradient by itself so that its own L2 norm is at most `max_norm`."""
    dense = _backends.current().dense
    return gradients.replaced(
        g * _shrink(ops.sqrt(ops.sum(ops.square(g))), max_norm) for g in map(dense, gradients)
    )


@_plain
def clip_by_global_norm(gradients: Gradients, max_norm: float) -> tuple[Gradients, Tensor]:
    """Scale all gradients by one factor so that their joint L2 norm is at most `max_norm`.

    Directions are kept, unlike clipping each by itself (Pascanu et al., 2013, algorithm 1).

    Args:
        gradients: What `Step.gradients` returned.
        max_norm: Upper bound, greater than 0, in the units of the gradients.

    Returns:
        The scaled gradients, and the joint norm before scaling, shape `()`.
    """
    dense = _backends.current().dense
    values = [dense(g) for g in gradients]
    norm = ops.sqrt(sum((ops.sum(ops.square(g)) for g in values), start=0.0))
    factor = _shrink(norm, max_norm)
    return gradients.replaced(g * ops.cast(factor, g.dtype) for g in values), norm


def _shrink(norm: Tensor, max_norm: float) -> Tensor:
    # A norm of 0 must not be divided by; an infinite one makes the factor 0 and the gradients
    # NaN, which the finite check sees.
    return max_norm / ops.maximum(norm, max_norm)


# What a running step knows about its surroundings.


class Recorder(Protocol):
    """Somebody who learns what a step does while it is rehearsed."""

    def differentiated(self, variables: Sequence[Any], read: Sequence[Any]) -> None:
        """Gradients were taken for `variables`; `read` are raw variables of the framework."""
        ...

    def applied(self, optimizer: Any, gradients: Gradients) -> None:
        """An optimizer is asked to apply `gradients`."""
        ...

    def measured(self, terms: Sequence[Term], adds_terms: bool) -> None:
        """A loss made of `terms` was taken in; layers added terms of their own to it or not."""
        ...

    def names(self, metric: keras.Metric, name: str) -> None:
        """A metric that the step updates is to be logged as `name`, not under its own name."""
        ...


@dataclass(slots=True)
class Frame:
    """The call of a step under way.

    Attributes:
        step: The Step whose method runs.
        method: Which method.
        examples: Number of examples of the batch, shape `()`, or `None` where it is not known.
        recorder: Who listens, during a rehearsal.
        is_accumulating: Whether `apply` collects gradients for a later update.
        depth: How many objectives are being differentiated around the code that runs.
        adds_losses: Whether the innermost of them has losses added by itself.
        finite: Whether the gradients of each update so far were finite, under a loss scale.
    """

    step: Step
    method: Method
    examples: Any
    recorder: Recorder | None = None
    is_accumulating: bool = False
    depth: int = 0
    adds_losses: bool = False
    finite: list[Any] = field(default_factory=list)


_frame: ContextVar[Frame | None] = ContextVar("perigee_frame", default=None)


def current_frame() -> Frame | None:
    """Return the call of a step under way, or `None` outside any."""
    return _frame.get()


def call(
    step: Step,
    method: Method,
    batch: Batch,
    *,
    recorder: Recorder | None = None,
    is_accumulating: bool = False,
    counts_examples: bool = True,
) -> tuple[Any, Tensor]:
    """Run one method of a Step on a batch of tensors.

    Args:
        step: The Step.
        method: Which of its methods.
        batch: Tensors.
        recorder: Who listens.
        is_accumulating: Whether `apply` collects gradients for a later update.
        counts_examples: Whether the batch has a number of examples. Compiled code does not see it
            where the sizes are left open, so it is told.

    Returns:
        What the method returned, and the number of examples, shape `()`, float32 (1 where it is
        not known).
    """
    examples = step.num_examples(batch) if counts_examples else None
    frame = Frame(step, method, examples, recorder, is_accumulating)
    token = _frame.set(frame)
    try:
        returned = _backends.current().user_code(getattr(step, method))(batch)
        scale = internals(step).loss_scale
        if scale is not None and frame.finite:
            scale.adapt(frame.finite)
    finally:
        _frame.reset(token)
    return returned, ops.cast(1 if examples is None else examples, "float32")


def update(
    step: Step, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any], when: Any
) -> None:
    """Apply gradients now, unless `when` is false or, under a loss scale, one is not finite."""
    backend = _backends.current()
    scale = internals(step).loss_scale
    # Keras's `LossScaleOptimizer` divides by a scale that it expects the loss to carry; what it
    # adds to the optimizer inside it is done here.
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    if scale is not None or inner is not optimizer:
        finite = backend.all_finite(gradients)
        frame = _frame.get()
        if frame is not None:
            frame.finite.append(finite)
        when = finite if when is None else ops.logical_and(finite, when)
    if inner.loss_scale_factor is not None:
        gradients = [inner.scale_loss(backend.dense(g)) for g in gradients]

    def run() -> None:
        try:
            inner.apply(gradients, variables)
        except ValueError as error:
            if "Unknown variable" not in str(error):
                raise
            tracked = _state.track(step)
            raise OptimizerVariablesError(
                tracked.path_of(optimizer), tracked.names_of(_unknown(optimizer, variables))
            ) from error

    if when is None:
        run()
    else:
        backend.update_if(when, run, [*variables, *optimizer.variables])


def _unknown(optimizer: Any, variables: Sequence[Any]) -> list[Any]:
    """Return the variables that an optimizer was not built with; Keras names only the first."""
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    known = {id(v) for v in getattr(inner, "_trainable_variables", ())}
    return [v for v in variables if id(v) not in known]


# What Perigee keeps on a Step.


class Internals:
    """What Perigee itself keeps on a Step: part of its state, found like the rest of it."""

    def __init__(self) -> None:
        self.loss_scale: LossScale | None = None
        self.accumulators: dict[str, Accumulator] = {}
        self.programs: dict[Any, Any] = {}

    @property
    def variables(self) -> dict[str, Any]:
        """Every variable of Perigee's own, by name."""
        found: dict[str, Any] = {}
        if self.loss_scale is not None:
            found |= self.loss_scale.variables
        for path, accumulator in self.accumulators.items():
            found |= {f"accumulator/{path}/{k}": v for k, v in accumulator.variables.items()}
        return found

    def accumulator(self, optimizer: Any, variables: Sequence[Any]) -> Accumulator:
        """Return what collects the gradients of an optimizer."""
        for accumulator in self.accumulators.values():
            if accumulator.optimizer is optimizer:
                return accumulator
        raise AccumulationError(
            "an optimizer is applied that the rehearsal of the step did not see",
            "apply the same optimizers in every step.",
        )


def internals(step: Step) -> Internals:
    """Return what Perigee keeps on a Step, made at the first call."""
    return vars(step).setdefault(_state.INTERNALS, Internals())


class LossScale:
    """A factor that keeps float16 gradients from vanishing, adapted to what they bear.

    It doubles after 2,000 finite updates in a row and halves at each one that is not, which is
    left out (Micikevicius et al., 2018, section 3.2; Keras's own numbers).
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
        """Take in whether the updates of one step were finite."""
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
        self._targets = list(variables)
        self._sums = [
            _variable(np.zeros(tuple(v.shape), "float32"), "float32", f"sum_{i}")
            for i, v in enumerate(variables)
        ]
        self._count = _variable(0.0, "float32", "count")

    @property
    def variables(self) -> dict[str, Any]:
        """Its variables by name."""
        return {"count": self._count, **{f"sum_{i}": v for i, v in enumerate(self._sums)}}

    def add(self, gradients: Gradients, when: Any) -> None:
        """Add the gradients of a micro-batch, unless `when` is false."""
        weight = ops.cast(1.0 if gradients.weight is None else gradients.weight, "float32")
        sums = {id(v): total for v, total in zip(self._targets, self._sums, strict=True)}
        dense = _backends.current().dense
        for value, variable in zip(gradients.values, gradients.variables, strict=True):
            share = ops.cast(dense(value), "float32") * weight
            if when is not None:  # not a product: a gradient that is left out may be NaN
                share = ops.where(when, share, ops.zeros_like(share))
            sums[id(variable)].assign_add(share)
        self._count.assign_add(weight if when is None else ops.where(when, weight, 0.0))

    def flush(self, step: Step) -> None:
        """Apply the mean of what was added, if anything, and begin anew."""
        count = ops.convert_to_tensor(self._count)
        divisor = ops.maximum(count, 1e-30)
        means = [
            ops.cast(ops.convert_to_tensor(total) / divisor, variable.dtype)
            for total, variable in zip(self._sums, self._targets, strict=True)
        ]
        update(step, self.optimizer, means, self._targets, ops.greater(count, 0.0))
        for total in self._sums:
            total.assign(ops.zeros(total.shape, total.dtype))
        self._count.assign(0.0)


def flush_accumulators(step: Step) -> None:
    """Apply what all accumulators of a Step hold."""
    frame = Frame(step, "train_step", None)
    token = _frame.set(frame)
    try:
        own = internals(step)
        for accumulator in own.accumulators.values():
            accumulator.flush(step)
        if own.loss_scale is not None and frame.finite:
            own.loss_scale.adapt(frame.finite)
    finally:
        _frame.reset(token)


def _variable(value: Any, dtype: str, name: str) -> Any:
    return keras.Variable(
        np.asarray(value, dtype), dtype=dtype, trainable=False, autocast=False, name=name
    )


# The objective.


class _Objective:
    """The call of an objective: collects what layers add to the loss while it runs."""

    def __init__(self, frame: Frame, step: Step, add_losses: bool) -> None:
        self._frame, self._step, self._add_losses = frame, step, add_losses
        self._added: list[Tensor] = []

    def __enter__(self) -> _Objective:
        self._frame.depth += 1
        self._outer_adds_losses = self._frame.adds_losses
        self._frame.adds_losses = self._add_losses
        self._was_set = _frame.get() is None
        if self._was_set:
            self._token = _frame.set(self._frame)
        self._add_loss = keras.Layer.add_loss
        # Inner objectives keep what they add to themselves: on some frameworks their tensors
        # mean nothing outside.
        original = getattr(keras.Layer.add_loss, "perigee_original", keras.Layer.add_loss)
        added = self._added

        def add_loss(layer: keras.Layer, loss: Any) -> None:
            original(layer, loss)
            added.extend(keras.tree.flatten(loss))

        add_loss.perigee_original = original  # type: ignore[attr-defined]
        keras.Layer.add_loss = add_loss
        return self

    def __exit__(self, *_: Any) -> None:
        keras.Layer.add_loss = self._add_loss
        self._frame.adds_losses = self._outer_adds_losses
        self._frame.depth -= 1
        if self._was_set:
            _frame.reset(self._token)

    def terms(self, variables: Sequence[Any]) -> list[Tensor]:
        """Return what is added to the loss: `add_loss` terms and penalties of `variables`."""
        if not self._add_losses:
            return []
        penalties = [v.regularizer(v) for v in variables if getattr(v, "regularizer", None)]
        return [ops.cast(ops.sum(term), "float32") for term in (*self._added, *penalties)]


def _measured(
    returned: Any, added: Sequence[Tensor], frame: Frame, is_inner: bool, scale: LossScale | None
) -> tuple[Tensor, Any]:
    """Return the scalar to differentiate, and what is handed back: (returned, weight)."""
    if is_inner:
        return _inner_scalar(returned), (returned, None)
    loss, has_aux = (returned[0], True) if _has_aux(returned) else (returned, False)
    _check_loss(loss, frame.examples)
    average = as_average(loss, frame.examples)
    if frame.recorder is not None:
        frame.recorder.measured(average.terms, adds_terms=bool(added))
    examples = 1 if frame.examples is None else frame.examples
    pairs = average.pairs(examples)
    scalar, reported = total_mean(pairs), loss
    if added:
        extra = sum(added[1:], start=added[0])
        scalar = scalar + ops.cast(extra, scalar.dtype)
        reported = loss + (extra if isinstance(loss, Average) else ops.cast(extra, loss.dtype))
    if scale is not None:
        scalar = scalar * scale.value
    weight = pairs[0][1]
    return scalar, ((reported, returned[1]) if has_aux else reported, weight)


def _has_aux(returned: Any) -> bool:
    return isinstance(returned, tuple) and len(returned) == 2


def _inner_scalar(returned: Any) -> Tensor:
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
        raise LossTypeError(f"{type(loss).__name__} ({loss!r:.60})")
    dtype = keras.backend.standardize_dtype(loss.dtype)
    if "float" not in dtype:
        raise LossTypeError(f"a tensor of {dtype}")
    batch = _static_int(examples)
    if len(loss.shape) > 1 or (
        len(loss.shape) == 1 and None not in (batch, loss.shape[0]) and loss.shape[0] != batch
    ):
        raise LossShapeError(loss.shape, batch)


def _static_int(value: Any) -> int | None:
    """Return a number that is known now, as it is outside compiled code."""
    try:
        return None if value is None else int(value)
    except Exception:  # a symbolic tensor; each framework raises its own type
        return None


def _refuse_unused(step: Step, variables: Sequence[Any], values: Sequence[Any]) -> None:
    unused = [v for v, value in zip(variables, values, strict=True) if value is None]
    if unused:
        raise UnusedVariablesError(_state.track(step).names_of(unused), len(variables))


# Which variables are meant.


def _is_tensors(variables: Any) -> bool:
    flat = keras.tree.flatten(variables)
    is_tensor = _backends.current().is_tensor
    return bool(flat) and all(is_tensor(v) or isinstance(v, np.ndarray) for v in flat)


def _chosen_variables(step: Step, given: Any, objective: Objective, frame: Frame) -> list[Any]:
    """Return the trainable variables that `given` names, building lazy layers for it."""
    targets = _targets(step, given)
    if frame.recorder is not None and any(
        isinstance(t, keras.Layer) and not _is_built(t) for t in targets
    ):
        # Layers that are built at their first call have no variables before it. The rehearsal
        # undoes whatever else the call changes.
        objective()
    chosen: dict[int, Any] = {}
    for target in targets:
        found = target.trainable_variables if isinstance(target, keras.Layer) else [target]
        chosen |= {id(v): v for v in found}
    if not chosen:
        raise VariablesArgumentError(
            "no trainable variable is there (the model is not built, or all of it is frozen)"
        )
    return list(chosen.values())


def _targets(step: Step, given: Any) -> list[Any]:
    if given is None:
        models: dict[str, Any] = _models(step, _state.track(step))
        if len(models) != 1:
            raise VariablesArgumentError(
                f"`variables=` was left out and the Step holds {len(models)} models", list(models)
            )
        return list(models.values())
    flat = keras.tree.flatten(given)
    for item in flat:
        if not isinstance(item, keras.Layer | keras.Variable):
            raise VariablesArgumentError(f"{type(item).__name__} was given")
    return flat


def _models(step: Step, tracked: Tracked) -> dict[str, Any]:
    """Return the models of a Step; its layers where it holds no model."""
    models = {k: m for k, m in tracked.models.items() if isinstance(m, keras.Model)}
    return models or dict(tracked.models)


def _is_built(layer: keras.Layer) -> bool:
    return layer.built and all(inner.built for inner in _state.nested_layers(layer))


def _as_gradients(given: Any) -> Gradients:
    if isinstance(given, Gradients):
        return given
    pairs = list(given)
    values, variables = [g for g, _ in pairs], [v for _, v in pairs]
    return Gradients(values, variables, is_altered=True)


def only_model(step: Step) -> keras.Model | None:
    """Return the one model of a Step, or `None` where it holds none or several."""
    models = _models(step, _state.track(step))
    return next(iter(models.values())) if len(models) == 1 else None


def layers_of(tracked: Tracked) -> Iterator[keras.Layer]:
    """Yield every layer that a Step holds, nested ones included."""
    for model in tracked.models.values():
        yield from _state.nested_layers(model)
