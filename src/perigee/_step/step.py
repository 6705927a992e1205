"""The Step: the class that users write, and its three verbs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, Self

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._errors import (
    AccumulationError,
    ArgumentError,
    LeakedStateError,
    MissingMethodError,
    OptimizerAccumulationError,
    StepAttributeError,
    StepSignatureError,
    UnusedVariablesError,
    VariablesArgumentError,
)
from perigee._listening import listening
from perigee._step.compiled_apart import CompiledApart
from perigee._step.frame import Frame, Method, Recorder, Watch, is_rehearsal, under_way
from perigee._step.gradients import Gradients, as_gradients, trainable_variables
from perigee._step.keras_names import instead_of
from perigee._step.losses import shown
from perigee._step.objective import ObjectiveCall, inner_scalar, measured
from perigee._step.rows import arrays_of_rows
from perigee._step.samples import Sample
from perigee._step.state import Holder, Tracked, nested_layers, track
from perigee._step.updates import inner_of, internals, update
from perigee._typing import Batch, Tensor, Tree

Objective = Callable[..., Any]
"""Returns a loss, or `(loss, aux)`; takes tensors only if it is differentiated for them."""

_plain = _backends.current().plain


class Step(Holder):
    """One training step, with its models, optimizers and other state.

    Hold models, layers, optimizers, metrics, seed generators, `keras.Variable`s and other Steps
    as attributes (also inside lists, tuples and dicts): they are found, named by their attribute
    path, compiled and saved. Write the methods that are needed:

    - `train_step(batch)` and `test_step(batch)` return a flat dict of what to log: scalars (the
      mean over the batch), vectors of one value per example, or `pg.mean(values, weights)`. Metrics
      that they update are logged automatically.
    - `predict_step(batch)` returns a tree of tensors with the examples on the first axis.

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

    Attributes:
        ignore_findings: Codes that `check` and `fit` do not report for this Step, such as
            `("PG233",)` if examples of a batch are compared with each other on purpose. It also
            turns off errors whose page says so, such as PG104.
    """

    ignore_findings: Sequence[str] = ()

    @property
    def _keras_model(self) -> keras.Model | None:
        """The model whose own steps run, if the Step stands for one."""
        return None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Replace methods that the user compiled by their plain functions: the step is compiled."""
        super().__init_subclass__(**kwargs)
        for base in reversed(cls.__mro__):
            for name, value in list(vars(base).items()):
                inlined = _backends.current().inlined(value)
                if inlined is not value and inspect.getattr_static(cls, name) is value:
                    setattr(cls, name, inlined)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; a function that the user compiled is replaced by its plain function."""
        super().__setattr__(name, _backends.current().inlined(value))

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Record the replicas in whose scope the Step is created."""
        del args, kwargs
        step = super().__new__(cls)
        replicas = _backends.current().replicas()
        if replicas is not None:
            internals(step).replicas = replicas
        return step

    def train_step(self, batch: Batch) -> dict[str, Any]:
        """Update the Step on one batch and return what to log.

        Args:
            batch: One batch, in the structure of the data.

        Returns:
            A flat dict of scalars (means over the batch), vectors `(batch,)` with one value per
            example, `pg.mean(...)` and `pg.sample(...)`. Metrics are logged automatically.

        Raises:
            MissingMethodError: Unless it is overridden.
        """
        raise MissingMethodError(type(self).__name__, "train_step")

    def test_step(self, batch: Batch) -> dict[str, Any]:
        """Measure the Step on one batch and return what to log; all its writes are undone.

        Args:
            batch: One batch, in the structure of the data.

        Returns:
            As in `train_step`.

        Raises:
            MissingMethodError: Unless it is overridden.
        """
        raise MissingMethodError(type(self).__name__, "test_step")

    def predict_step(self, batch: Batch) -> Tree:
        """Return predictions for one batch: a tree of tensors with the examples on axis 0.

        Args:
            batch: One batch, in the structure of the data.

        Raises:
            MissingMethodError: Unless it is overridden.
        """
        raise MissingMethodError(type(self).__name__, "predict_step")

    @_plain
    def num_examples(self, batch: Batch) -> Tensor | int | None:
        """Return the number of examples of a batch, by which its averages are weighted.

        Override it if the common first axis of all arrays is not the count. Texts, numbers and
        other objects in a batch do not count.

        Args:
            batch: One batch, in the structure of the data.

        Returns:
            A scalar; `None` if the arrays of the batch have no common first axis, so that each step
            has weight 1.
        """
        arrays = arrays_of_rows(batch)
        known = {array.shape[0] for array in arrays} - {None}
        return ops.shape(arrays[0])[0] if arrays and len(known) <= 1 else None

    @property
    def rehearsing(self) -> bool:
        """Whether the step runs only to be observed, before training: all its effects are undone.

        It tells a print or a breakpoint in the rehearsal, and in `check` (but for the trials of
        `level="full"`), from one while training: `if not self.rehearsing: breakpoint()`. Compiled
        code is traced with `False`.
        """
        return is_rehearsal()

    if not TYPE_CHECKING:  # to a type checker, a Step has no more attributes than are written

        def __getattr__(self, name: str) -> Any:
            """Answer the names of Keras's models, which a Step does not have."""
            fix = instead_of(name, vars(self))
            if fix is not None and not hasattr(type(self), name):
                raise StepAttributeError(type(self).__name__, name, fix)
            return object.__getattribute__(self, name)  # raises Python's own error

    def host_state(self) -> dict[str, Any]:
        """Return state outside variables that a checkpoint must hold: arrays, numbers, strings."""
        return {}

    def load_host_state(self, state: dict[str, Any]) -> None:
        """Restore what `host_state` returned.

        Args:
            state: The state at the checkpoint from which the training resumes.
        """

    _is_as_written: bool = False
    """Whether it does what its code says and no more.

    Metrics keep their names: none gets a second `val_`, and a returned value of the same name gives
    way. Averaged weights (`use_ema`) are assigned where the code does so, not at the end.
    """

    def _function(self, method: Method) -> Callable[..., Any] | None:
        """Return the function that the user wrote for a method, or `None`."""
        own = getattr(type(self), method) is getattr(Step, method) and method not in vars(self)
        return None if own else getattr(self, method)

    def _before_rehearsal(self, method: Method, batch: Batch) -> None:
        """Build what a method needs before its rehearsal, which builds the rest."""

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

        The loss is averaged over the batch exactly, weight penalties and `add_loss` terms are added
        once, the loss is scaled if the models compute in float16, and a gradient must reach every
        variable.

        Args:
            objective: Returns the loss (a scalar, one value per example, or `pg.mean(...)`), or
                `(loss, aux)` with any tree. It must call the model itself.
            optimizer: An optimizer that this Step holds.
            variables: The variables to update: a model, a layer, or a (nested) list of variables;
                `None` for the only model of the Step.
            add_losses: Whether to add the penalties of the variables' regularizers and the
                `add_loss` terms of layers called inside the objective.

        Returns:
            The objective's result, its loss including the added terms.

        Raises:
            ArgumentError: If the objective is not a function, or the optimizer not an optimizer.
            UnusedVariablesError: If no gradient reaches some variables.
            LossShapeError: If the loss is neither a scalar nor one value per example.
            LossTypeError: If the loss is not a floating tensor.
        """
        _refuse_other_than_optimizer(self, optimizer)
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
        a scalar, to build penalties and inner loops with (they can be differentiated again). On
        several replicas, gradients for variables are combined from all shares, as if the scalar
        were a mean over examples.

        Args:
            objective: Returns the loss, or `(loss, aux)`. For tensors it takes them as arguments
                and returns a scalar.
            variables: A model, a layer, or a (nested) list of variables; or tensors (one, or a
                list) to differentiate the objective with respect to its arguments.
            add_losses: As in `minimize`; never inside another objective, nor for tensors.

        Returns:
            `Gradients` for variables; for tensors one gradient, or a list like the tensors.

        Raises:
            UnusedVariablesError: If no gradient reaches some variables or tensors.
            InnerLossError: If an inner objective returns more than one value.
        """
        _refuse_other_than_function(objective)
        if _is_tensors(variables):
            return self._input_gradients(objective, variables)
        frame = under_way.get() or Frame(self, "train_step", None)
        if frame.recorder is not None:
            _refuse_parameters(objective)
        is_inner = frame.depth > 0
        chosen = _chosen_variables(self, variables, objective, frame)
        scale = None if is_inner else internals(self).loss_scale
        user_code = _backends.current().user_code
        metrics: list[str | None] = []

        def function() -> tuple[Tensor, Any]:
            with ObjectiveCall(frame, self, add_losses and not is_inner) as added:
                returned = user_code(objective)()
            if frame.recorder is not None:
                metrics.append(frame.recorder.metric_of(returned))
            factor = None if scale is None else scale.value
            return measured(returned, added.terms(chosen), frame, is_inner, factor, added.adds)

        (returned, weight, loss), values, read = _backends.current().differentiate(function, chosen)
        if frame.recorder is not None:
            frame.recorder.differentiated(read)
        _refuse_unused(self, chosen, values, next(iter(metrics), None))
        if frame.all_examples is not None:
            values = [_backends.current().dense(value) for value in values]
            if is_inner:
                values = _mean_over_shares(values, frame)
            else:
                loss, *values = _backends.current().sum_over_replicas(
                    [loss, *values], rows=frame.examples
                )
        if scale is not None:
            unscale = 1.0 / scale.value
            scaled = [_backends.current().dense(value) for value in values]
            values = [value * ops.cast(unscale, value.dtype) for value in scaled]
        found = Gradients(values, chosen, returned, weight, loss=loss)
        if frame.recorder is not None and not is_inner:
            frame.recorder.derived(found, add_losses)
        return found

    @_plain
    def apply(
        self, optimizer: keras.optimizers.Optimizer, gradients: Any, when: Any = None
    ) -> None:
        """Let `optimizer` update the variables of `gradients`.

        Args:
            optimizer: An optimizer that this Step holds.
            gradients: What `gradients` returned, changed or not; or (gradient, variable) pairs.
            when: Boolean scalar tensor; if it is false nothing changes, not even slots and
                counters. `None` always updates.

        Raises:
            OptimizerVariablesError: If the optimizer was built for other variables.
            OptimizerAccumulationError: If the optimizer accumulates gradients itself.
        """
        _refuse_other_than_optimizer(self, optimizer)
        gradients = as_gradients(gradients)
        _refuse_unused(self, gradients.variables, gradients.values)
        frame = under_way.get()
        own = internals(self)
        inner = inner_of(optimizer)
        if inner.gradient_accumulation_steps:
            name = track(self).path_of(optimizer)
            raise OptimizerAccumulationError(name, inner.gradient_accumulation_steps)
        if frame is not None and frame.recorder is not None:
            frame.recorder.applied(optimizer, gradients, when is not None)
            if not optimizer.built:
                return  # built for the union of its variables when the rehearsal is over
            if frame.recorder.leaves_out(optimizer, gradients, gradients.variables):
                return
        if frame is not None and frame.is_probed:
            return
        if not optimizer.built:
            optimizer.build(gradients.variables)
        if when is not None and frame is not None and frame.all_examples is not None:
            when = _everywhere(when, frame)
        if frame is not None and frame.is_accumulating:
            own.accumulator(optimizer).add(gradients, when)
            return
        if frame is not None:
            frame.is_applying = True
        try:
            update(self, optimizer, gradients.values, gradients.variables, when)
        finally:
            if frame is not None:
                frame.is_applying = False

    @_plain
    def blend(self, source: keras.Layer, target: keras.Layer, rate: Any) -> None:
        """Move the weights of one network toward those of another: an average, or a target network.

        Each weight, including statistics of layers such as BatchNorm, becomes
        `(1 - rate) * target + rate * source`; integers are copied. Seeds do not change. With a rate
        of 1 the target is an exact copy.

        >>> self.blend(self.model, self.average, 0.01)  # after `minimize`

        Args:
            source: The network that provides the weights; it does not change.
            target: The network that is changed, as made by `copy_of(source)`.
            rate: A number from 0 to 1, or a scalar tensor.

        Raises:
            ArgumentError: If the two do not have weights of the same shapes, in the same order.
            AccumulationError: With `accumulate`, since it would move with each micro-batch.
        """
        frame = under_way.get()
        if frame is not None and frame.is_accumulating:
            raise AccumulationError(
                "`blend` would move its target with each micro-batch, not with each update",
                "omit `accumulate`, or average in the optimizer with `use_ema=True`.",
            )
        if isinstance(rate, int | float) and not 0 <= rate <= 1:
            raise ArgumentError("rate", repr(rate), "a number from 0 to 1.", "1 copies all.")
        shapes = [[tuple(w.shape) for w in network.weights] for network in (source, target)]
        if source is target or shapes[0] != shapes[1] or not shapes[0]:
            raise ArgumentError(
                "target",
                f"<{target.name!r} with {len(shapes[1])} weights>",
                f"a network with weights like those of {source.name!r} ({len(shapes[0])}).",
                "create it by `pg.copy_of(source)`, once the source is built.",
            )
        for new, old in zip(source.weights, target.weights, strict=True):
            is_copy = isinstance(rate, int | float) and rate == 1
            if is_copy or not keras.backend.is_float_dtype(old.dtype):
                old.assign(new)
            else:
                share = ops.cast(rate, old.dtype)
                old.assign((1 - share) * old + share * ops.cast(new, old.dtype))

    def _input_gradients(self, objective: Objective, tensors: Any) -> Any:
        frame = under_way.get() or Frame(self, "train_step", None)
        flat = keras.tree.flatten(tensors)
        if frame.recorder is not None:
            _refuse_parameters(objective, len(flat))
        user_code = _backends.current().user_code

        def function(*arguments: Tensor) -> Tensor:
            with ObjectiveCall(frame, self, add_losses=False):
                returned = user_code(objective)(*arguments)
            return inner_scalar(returned)

        values = _backends.current().differentiate_inputs(function, flat)
        unused = [f"tensor {i} of shape {tuple(t.shape)}" for i, t in enumerate(flat)]
        unused = [name for name, value in zip(unused, values, strict=True) if value is None]
        if unused:
            raise UnusedVariablesError(unused, len(flat))
        return keras.tree.pack_sequence_as(tensors, values)


def call(
    step: Step,
    method: Method,
    batch: Batch,
    *,
    recorder: Recorder | None = None,
    is_accumulating: bool = False,
    counts_examples: bool = True,
    rows: Tensor | None = None,
    is_probed: bool = False,
    keep: Callable[[str, Sample], None] | None = None,
    watch: Watch | None = None,
) -> tuple[Any, Tensor]:
    """Run one method of a Step on a batch of tensors.

    Args:
        step: The Step.
        method: The name of the method.
        batch: Tensors.
        recorder: Receives what the step does.
        is_accumulating: Whether `apply` collects gradients for a later update.
        counts_examples: Whether the batch has a number of examples. Compiled code with undefined
            sizes cannot see it, so it is passed.
        rows: Rows of the whole batch, if this is the share of one replica.
        is_probed: Whether the step runs only for its result, and updates nothing.
        keep: Stores a sample for the host.
        watch: Receives the updates.

    Returns:
        The method's result, and the number of examples, shape `()`, float32 (1 if unknown).
    """
    examples = step.num_examples(batch) if counts_examples else None
    frame = Frame(step, method, examples, recorder, is_accumulating, is_probed=is_probed, keep=keep)
    frame.watch = watch
    if rows is not None:
        frame.all_rows = rows
        frame.all_examples = _all_examples(step, examples, rows)
    backend, own = _backends.current(), internals(step)
    modules = own.modules if method != "train_step" else ()
    mode = backend.in_inference(listening, modules) if modules else nullcontext()
    apart = _compiled_apart(step, method)
    if apart is not None:
        apart.renew()
    token = under_way.set(frame)
    try:
        with own.batch_means.listening(examples), mode, backend.naming_layers(listening):
            function = backend.user_code(getattr(step, method))
            is_recorded = method in own.recorded
            returned = backend.recorded(function, batch) if is_recorded else function(batch)
        scale = own.loss_scale
        if scale is not None and frame.finite:
            scale.adapt(frame.finite)
    except Exception as error:
        if apart is not None and _backends.current().is_leak(error) and apart.now():
            raise LeakedStateError(functions=[*apart.now()]) from error
        raise
    finally:
        under_way.reset(token)
    return returned, ops.cast(1 if examples is None else examples, "float32")


def _compiled_apart(step: Step, method: Method) -> CompiledApart | None:
    """Return what finds functions compiled apart; `None` where these read variables as they run."""
    if not _backends.current().capabilities.keeps_values:
        return None
    known = internals(step).apart
    if method not in known:
        known[method] = CompiledApart(step._function(method) or getattr(step, method))
    return known[method]


def _all_examples(step: Step, examples: Any, rows: Tensor) -> Tensor:
    """Return the number of examples of the whole batch, of which this replica has a share."""
    if type(step).num_examples is Step.num_examples:
        return ops.cast(rows, "float32")
    (counted,) = _backends.current().sum_over_replicas([ops.cast(examples, "float32")])
    return counted


def _mean_over_shares(values: Sequence[Tensor], frame: Frame) -> list[Tensor]:
    """Return the mean over all replicas, weighted by share; gradients flow back to all of them."""

    def kept(value: Tensor) -> Tensor:
        # A mean over no examples is NaN: neither it nor its gradient may reach the others.
        return ops.where(ops.greater(frame.examples, 0), value, ops.zeros_like(value))

    parts = [kept(value) * ops.cast(frame.share, value.dtype) for value in values]
    return [kept(total) for total in _backends.current().sum_over_replicas(parts)]


def _everywhere(condition: Any, frame: Frame) -> Tensor:
    """Return whether a condition is true on every replica that has examples."""
    against = ops.cast(ops.logical_not(condition), "float32")
    (votes,) = _backends.current().sum_over_replicas([against], rows=frame.examples)
    return ops.equal(votes, 0.0)


def check_signature(step: Step, method: str) -> None:
    """Reject a method that cannot be called with one batch.

    Raises:
        StepSignatureError: If it cannot.
    """
    function = getattr(step, method)
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, for instance
        return
    try:
        signature.bind(None)
    except TypeError:
        whole = getattr(function, "__func__", function)
        is_bound = whole is not function
        names = list(inspect.signature(whole).parameters)
        raise StepSignatureError(method, names, is_bound) from None


def _refuse_other_than_optimizer(step: Step, given: Any) -> None:
    if isinstance(given, keras.optimizers.Optimizer):
        return
    if hasattr(given, "param_groups"):  # an optimizer of torch's
        names = (name for name, value in vars(step).items() if value is given)
        name = next((f"self.{name}" for name in names), "optimizer")
        kinds = {kind.lower(): kind for kind in dir(keras.optimizers)}
        like = kinds.get(type(given).__name__.lower(), "Adam")
        raise ArgumentError(
            "optimizer",
            shown(given),
            "an optimizer of Keras's that the Step holds.",
            f"write `{name}.zero_grad()`, `loss.backward()` and `{name}.step()` in place of this "
            f"line, or make it `keras.optimizers.{like}({given.param_groups[0]['lr']})`.",
        )
    if getattr(given, "_fields", ())[:2] == ("init", "update"):  # a transformation of Optax's
        raise ArgumentError("optimizer", shown(given), "an optimizer of Keras's.", _AS_OPTAX_IS)
    if isinstance(given, str):
        fix = f"make it in `__init__`: `self.optimizer = keras.optimizers.get({given!r})`."
    elif isinstance(given, type):
        fix = f"make it in `__init__`: `self.optimizer = keras.optimizers.{given.__name__}()`."
    elif isinstance(given, keras.Layer) or not callable(getattr(given, "apply", None)):
        fix = "the order is `self.minimize(objective, optimizer, model)` and "
        fix += "`self.apply(optimizer, gradients)`."
    else:
        return
    raise ArgumentError("optimizer", shown(given), "an optimizer that the Step holds.", fix)


def _refuse_other_than_function(given: Any) -> None:
    if callable(given):
        return
    raise ArgumentError(
        "objective",
        shown(given),
        "a function that calls the model and returns the loss; it is differentiated while it runs.",
        "define `def objective():` around the call of the model and the loss, and pass `objective` "
        "itself, without calling it.",
    )


def _refuse_parameters(objective: Objective, count: int = 0) -> None:
    """Refuse an objective that cannot be called with what it gets: so many tensors."""
    try:
        signature = inspect.signature(objective)
    except (TypeError, ValueError):
        return
    try:
        signature.bind(*range(count))
    except TypeError:
        names = ", ".join(signature.parameters)
        given = f"<a function of {names or 'no arguments'}>"
        expected = "a function without arguments."
        fix = f"pass `lambda: objective({names})`."
        if count:
            expected = f"a function of what it is differentiated for: {count} tensor(s)."
            fix = "compute the loss from arguments, as in `self.gradients(lambda x: loss(x), x)`."
        raise ArgumentError("objective", given, expected, fix) from None


def _refuse_unused(
    step: Step, variables: Sequence[Any], values: Sequence[Any], metric: str | None = None
) -> None:
    unused = [v for v, value in zip(variables, values, strict=True) if value is None]
    if unused:
        frame = under_way.get()
        apart = None if frame is None else _compiled_apart(step, frame.method)
        compiled = () if apart is None else [*apart.now()]
        raise UnusedVariablesError(track(step).names_of(unused), len(variables), metric, compiled)


def _is_tensors(variables: Any) -> bool:
    flat = keras.tree.flatten(variables)
    is_tensor = _backends.current().is_tensor
    return bool(flat) and all(is_tensor(v) or isinstance(v, np.ndarray) for v in flat)


def _chosen_variables(step: Step, given: Any, objective: Objective, frame: Frame) -> list[Any]:
    """Return the trainable variables that `given` names, building layers as needed."""
    targets = _targets(step, given)
    if frame.recorder is not None and any(
        isinstance(t, keras.Layer) and not _is_built(t) for t in targets
    ):
        # Layers that are built at their first call have no variables before it. The rehearsal
        # undoes all other changes of the call.
        objective()
    return trainable_variables(targets)


def _targets(step: Step, given: Any) -> list[Any]:
    if given is None:
        models: dict[str, Any] = _models(track(step))
        if len(models) != 1:
            raise VariablesArgumentError(
                f"`variables=` was omitted and the Step holds {len(models)} models", list(models)
            )
        return list(models.values())
    return keras.tree.flatten(given)


def _models(tracked: Tracked) -> dict[str, Any]:
    """Return the models of a Step; its layers if it holds no model."""
    models = {k: m for k, m in tracked.models.items() if isinstance(m, keras.Model)}
    return models or dict(tracked.models)


def _is_built(layer: keras.Layer) -> bool:
    return layer.built and all(inner.built for inner in nested_layers(layer))


def only_model(step: Step) -> keras.Model | None:
    """Return the only model of a Step, or `None` if it holds none or several."""
    models = _models(track(step))
    return next(iter(models.values())) if len(models) == 1 else None


def layers_of(tracked: Tracked) -> Iterator[keras.Layer]:
    """Yield every layer that a Step holds, including nested ones."""
    for model in tracked.models.values():
        yield from nested_layers(model)


_AS_OPTAX_IS = """hold the state of one of Optax by variables, at the end of `__init__`:
  weights = [v.value for v in self.model.trainable_variables]
  slots = self.optimizer.init(weights)
  self.slots = jax.tree.map(lambda x: keras.Variable(x, trainable=False), slots)
and update with it in place of this line:
  gradients = self.gradients(objective, self.model)
  weights = [v.value for v in gradients.variables]
  slots = jax.tree.map(lambda v: v.value, self.slots)
  updates, slots = self.optimizer.update(list(gradients), slots, weights)
  jax.tree.map(lambda v, new: v.assign(new), self.slots, slots)
  for variable, update in zip(gradients.variables, updates):
      variable.assign_add(update)
  loss = gradients.loss"""
