"""`FunctionStep`: hand-written functions, unchanged, as a Step."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping, MutableMapping
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType
from typing import Any

import keras
import numpy as np

from perigee import _backends
from perigee._errors import (
    ArgumentError,
    FunctionBatchError,
    MissingMethodError,
    PerigeeError,
    StepReturnError,
    door,
)
from perigee._errors.advice import AS_STEP
from perigee._step.averages import Average
from perigee._step.bytecode import instructions
from perigee._step.frame import Method, current_frame
from perigee._step.losses import shown
from perigee._step.reached import Outside, Reach
from perigee._step.state import track
from perigee._step.step import Step
from perigee._typing import Batch, Tree

_plain = _backends.current().plain


class FunctionStep(Step):
    """The functions of a hand-written loop, unchanged, as a Step.

    `train_step` is the function that such a loop calls for each batch: with its gradient tape, and
    with `@tf.function` above it or not. Models, optimizers, metrics, variables and seeds that it
    uses are found by the names that its code reads: in closures, globals, defaults,
    `functools.partial`, the object of a method, and in the functions that it calls. They are saved
    under these names.

    A batch of several parts is passed as the arguments of the function, in order; a dict by name;
    a function of one argument gets the batch whole. What it returns may be nothing, a scalar or one
    value per example, shape `(batch,)` (logged as `"loss"`), a dict of values to log, or a tuple
    that begins with a scalar. Metrics are reset at each epoch, and read and logged at its end.
    Those named `val_...` get no second prefix.

    It is still callable as the function, so the old loop runs as before.

    >>> @tf.function
    ... def train_step(x, y):
    ...     with tf.GradientTape() as tape:
    ...         loss = loss_fn(y, model(x, training=True))
    ...     gradients = tape.gradient(loss, model.trainable_variables)
    ...     optimizer.apply_gradients(zip(gradients, model.trainable_variables))
    ...     return loss
    >>> history = pg.fit(pg.FunctionStep(train_step), (x, y), epochs=3)

    Args:
        train_step: Trains on one batch. Arguments that are not part of the batch are bound by
            `functools.partial(train_step, model=model, optimizer=optimizer)`.
        test_step: Measures on one batch, for validation and `pg.evaluate`; everything that it
            writes is undone.
        predict_step: Returns predictions for one batch.

    Raises:
        ArgumentError: If something other than a function is given.
        FunctionBatchError: When it runs, if a batch does not fit the arguments of a function.
    """

    @door
    def __init__(
        self,
        train_step: Callable[..., Any],
        test_step: Callable[..., Any] | None = None,
        predict_step: Callable[..., Any] | None = None,
    ) -> None:
        given: dict[Method, Any] = {
            "train_step": train_step,
            "test_step": test_step,
            "predict_step": predict_step,
        }
        for name, function in given.items():
            if function is not None or name == "train_step":
                _check_function(name, function)
        self._given: dict[Method, Any] = {
            name: function for name, function in given.items() if function is not None
        }
        self._reach = Reach(self._given.values())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function that trains, as it was given."""
        return self._given["train_step"](*args, **kwargs)

    @_plain
    def train_step(self, batch: Batch) -> dict[str, Any]:
        """Call the function that trains.

        Args:
            batch: One batch, in the structure of the data.

        Returns:
            What it returned, as a dict.
        """
        return _logs(self._called("train_step", batch))

    @_plain
    def test_step(self, batch: Batch) -> dict[str, Any]:
        """Call the function that measures.

        Args:
            batch: One batch, in the structure of the data.

        Returns:
            What it returned, as a dict.
        """
        return _logs(self._called("test_step", batch))

    @_plain
    def predict_step(self, batch: Batch) -> Tree:
        """Call the function that predicts.

        Args:
            batch: One batch, in the structure of the data.

        Returns:
            What it returned.
        """
        return self._called("predict_step", batch)

    @property
    def is_compiled_for_xla(self) -> bool:
        """Whether the function that trains is compiled by XLA, as its decorator says."""
        return _backends.current().is_for_xla(_inner(self._given["train_step"]))

    @property
    def read_in_python(self) -> str | None:
        """The name of a function that reads values of tensors, if it was not compiled."""
        given = _inner(self._given["train_step"])
        can_compile = _backends.current().capabilities.modes[0] != "eager"
        if not can_compile or _backends.current().inlined(given) is not given:
            return None
        read = (f.__name__ for f in self._reach.now().functions if _reads_values(f.__code__))
        return next(read, None)

    _is_as_written = True

    def _function(self, method: Method) -> Callable[..., Any] | None:
        return self._given.get(method)

    def _held(self) -> Mapping[str, Any]:
        """Return what the functions reach, and what was set on the Step, by name."""
        own = {name: v for name, v in vars(self).items() if name not in ("_given", "_reach")}
        return {**self._reach.now().values, **own}

    def _names(self) -> MutableMapping[str, Any]:
        """Return the globals and closures of the functions."""
        return Outside(self._reach.now().functions)

    def _called(self, method: Method, batch: Batch) -> Any:
        if method not in self._given:
            raise MissingMethodError(type(self).__name__, method)
        function = _uncompiled(self._given[method])
        args, kwargs = _bound(method, function, batch)
        called = _backends.current().user_code(function)
        frame = current_frame()
        is_rehearsed = frame is not None and frame.recorder is not None
        if is_rehearsed and method == "train_step" and _passes_state():
            return self._holding_state(called, args, kwargs)
        return called(*args, **kwargs)

    def _holding_state(self, function: Any, args: Any, kwargs: Any) -> Any:
        """Call a function, and refuse one that takes the state of the training and returns it.

        Raises:
            StepReturnError: If it returns a tuple and changes nothing.
        """
        before = [(variable, variable.value) for variable in track(self).variables]
        try:
            returned = function(*args, **kwargs)
        except Exception as error:
            if not isinstance(error, PerigeeError):
                call = _shown_call(function, args, kwargs)
                error.add_note(f"It was called as `{call}`; {AS_STEP}")
            raise
        is_pure = all(variable.value is value for variable, value in before)
        if is_pure and isinstance(returned, tuple) and len(returned) > 1:
            raise StepReturnError("train_step", _described(returned), "...", passes_state=True)
        return returned


_READING = ("numpy", "get_weights", "convert_to_numpy")
"""Methods and functions that return values of tensors."""


def _reads_values(code: CodeType) -> bool:
    return any(
        operation in ("LOAD_ATTR", "LOAD_METHOD") and name in _READING
        for operation, name in instructions(code)
    )


def is_function(value: Any) -> bool:
    """Return whether a value is a function that `FunctionStep` takes."""
    inner = _inner(value)
    if isinstance(inner, FunctionType | MethodType | BuiltinFunctionType):
        return True
    if isinstance(inner, type | keras.Layer | keras.losses.Loss | keras.Metric | Step):
        return False
    return _backends.current().inlined(inner) is not inner or callable(inner)


def _check_function(name: str, given: Any) -> None:
    if not is_function(given):
        raise ArgumentError(
            name,
            shown(given),
            "a function that takes one batch.",
            f"pass the function itself: `pg.FunctionStep({name})`.",
        )


def _inner(function: Any) -> Any:
    """Return the function inside partial functions."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _uncompiled(function: Any) -> Any:
    """Return a function as plain Python: the Step is compiled as a whole."""
    if isinstance(function, functools.partial):
        return functools.partial(_uncompiled(function.func), *function.args, **function.keywords)
    return _backends.current().inlined(function)


def _bound(method: str, function: Any, batch: Batch) -> tuple[list[Any], dict[str, Any]]:
    """Return the arguments with which a function is called for a batch.

    Raises:
        FunctionBatchError: If the batch does not fit them.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # written in C, for instance
        return [batch], {}
    bound = set(function.keywords) if isinstance(function, functools.partial) else set()
    free = [
        p
        for p in parameters
        if p.name not in bound and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    needed = [p for p in free if p.default is p.empty]
    # Like `sample_weight=None`: there if the batch has one more part. Other defaults are settings.
    optional = [p for p in free if p.default is None]
    takes_more = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    takes_names = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if len(needed) == 1 and not optional and not takes_more and not takes_names:
        return _arguments(needed, [batch])
    if isinstance(batch, Mapping):
        names = {p.name for p in needed + optional}
        is_all = {p.name for p in needed} <= batch.keys()
        if is_all and (takes_names or batch.keys() <= names):
            return [], dict(batch)
    elif isinstance(batch, tuple | list):
        taken = (needed + optional)[: len(batch)]
        if len(needed) <= len(batch) <= len(taken):
            return _arguments(taken, batch)
        if takes_more and len(batch) >= len(needed):
            return list(batch), {}
    elif len(needed) == 1 or (takes_more and not needed):
        return _arguments(needed, [batch]) if needed else ([batch], {})
    raise FunctionBatchError(
        method,
        getattr(_inner(function), "__name__", type(function).__name__),
        [str(p.replace(annotation=p.empty)) for p in free],
        [p.name for p in needed],
        _described(batch),
        _passes_state(),
    )


def _passes_state() -> bool:
    return _backends.current().capabilities.passes_state


def _shown_call(function: Any, args: Any, kwargs: Any) -> str:
    given = inspect.signature(function).bind(*args, **kwargs).arguments
    shown = [f"{name}={_described(value)}" for name, value in given.items()]
    return f"{getattr(_inner(function), '__name__', 'train_step')}({', '.join(shown)})"


def _arguments(parameters: Any, values: Any) -> tuple[list[Any], dict[str, Any]]:
    """Return values by position, and by name those that have none."""
    pairs = list(zip(parameters, values, strict=True))
    args = [value for p, value in pairs if p.kind is not p.KEYWORD_ONLY]
    return args, {p.name: value for p, value in pairs if p.kind is p.KEYWORD_ONLY}


def _described(batch: Batch) -> str:
    """Describe the parts of a batch at its outermost level."""

    def part(value: Any) -> str:
        shape = getattr(value, "shape", None)
        return type(value).__name__ if shape is None else f"array {tuple(shape)}"

    if isinstance(batch, Mapping):
        return "{" + ", ".join(f"{name!r}: {part(value)}" for name, value in batch.items()) + "}"
    if isinstance(batch, tuple | list):
        return "(" + ", ".join(part(value) for value in batch) + ")"
    return part(batch)


def _logs(returned: Any) -> Any:
    """Return what a function returned as a dict to log; anything unknown as it is."""
    if returned is None:
        return {}
    if isinstance(returned, Mapping):
        return dict(returned)
    first = returned[0] if isinstance(returned, tuple) and returned else returned
    if _is_scalar(first):
        return {"loss": first}
    shape = getattr(first, "shape", ())
    if shape and all(size == 1 for size in shape):  # as `float(loss)` takes it
        return {"loss": keras.ops.reshape(first, ())}
    return {"loss": returned} if first is returned and len(shape) == 1 else returned


def _is_scalar(value: Any) -> bool:
    if isinstance(value, Average | int | float | np.generic):
        return True
    shape = getattr(value, "shape", None)
    return shape is not None and not isinstance(value, str) and len(shape) == 0
