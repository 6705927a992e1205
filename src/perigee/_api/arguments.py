"""The arguments of public functions, checked before anything is done with them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, TypeVar

import keras
import numpy as np

from perigee import _backends, diagnostics
from perigee._errors import (
    ArgumentError,
    CompiledCallError,
    MissingMethodError,
    did_you_mean,
    door,
    near_names,
)
from perigee._events.events import Hook
from perigee._execution import WATCHES, Choice, Execution
from perigee._runs.run import Run
from perigee._step.frame import Method
from perigee._step.losses import shown
from perigee._step.step import Step, check_signature
from perigee.steps.function_step import FunctionStep, is_function

_F = TypeVar("_F", bound=Callable[..., Any])

_KERAS_WORDS = {
    "x": "pass the arrays as one data set: `data=(x, y)`.",
    "y": "pass the arrays as one data set: `data=(x, y)`.",
    "validation_data": "it is called `validation`.",
    "validation_split": "split the arrays yourself and pass `validation=(x, y)`.",
    "validation_freq": "pass `validate_every=pg.Every(epochs=...)`.",
    "validation_batch_size": "`batch_size` is used for validation arrays too.",
    "sample_weight": "make it part of the batch: `data=(x, y, sample_weight)`.",
    "class_weight": "it is an argument of `pg.Supervised` and of `pg.KerasStep`.",
    "verbose": 'it is called `progress`: "auto", "bar", "lines" or "off".',
    "initial_epoch": "leave it out: `epochs` count from this call.",
}


def named(function: _F) -> _F:
    """Make a function a door that answers unknown arguments, by their names in Keras too.

    A framework that rewrites the code of compiled functions does not rewrite it.
    """
    entered = door(words=_KERAS_WORDS)(function)
    # The mark is an attribute; a function around it would show in tracebacks and warnings.
    vars(entered).update(vars(_backends.current().plain(function)) | vars(entered))
    return entered


def check_count(name: str, value: Any, is_optional: bool = True) -> None:
    """Reject anything but a positive integer."""
    if value is None and is_optional:
        return
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ArgumentError(name, repr(value), "a positive integer.", "count from 1.")


def check_seed(value: Any) -> None:
    """Reject anything but `None` and an integer from 0."""
    if value is None or (isinstance(value, int | np.integer) and value >= 0):
        return
    raise ArgumentError("seed", repr(value), "an integer from 0, or None.", "pass `seed=0`.")


def check_nonfinite(given: Any) -> None:
    """Reject an unknown policy for NaN and infinite values."""
    if given not in ("raise", "skip", "stop"):
        raise ArgumentError(
            "nonfinite",
            repr(given),
            '"raise", "skip" or "stop".',
            'pass "raise", which stops with an error.',
        )


def check_codes(name: str, given: Any) -> list[str]:
    """Return codes of errors and findings as a list.

    Raises:
        ArgumentError: If one is unknown; the nearest are named.
    """
    if isinstance(given, str) or not isinstance(given, Sequence):
        raise ArgumentError(
            name, repr(given), 'a list of codes, such as `["PG220"]`.', "pass a list."
        )
    known = sorted(diagnostics.known_codes())
    for code in given:
        if code not in known:
            meant = did_you_mean(code, known, most=3, form="{}")
            raise ArgumentError(
                name,
                repr(list(given)),
                'codes of errors and findings, such as `["PG220"]`.',
                " ".join(filter(None, [meant, "`perigee explain` lists all codes."])),
            )
    return list(given)


def as_guards(given: Any) -> frozenset[str]:
    """Return the codes of the requested guards.

    Raises:
        ArgumentError: If one is unknown; the nearest are named.
    """
    known = diagnostics.GUARDS
    if given == "default":
        return frozenset(known)
    if given == "off":
        return frozenset()
    by_name = {name: code for code, name in known.items()}
    expected = f'"default", "off", or a list of some of {", ".join(by_name)}, or of their codes.'
    if isinstance(given, str) or not isinstance(given, Sequence):
        fix = did_you_mean(given, ["default", "off"], form="{!r}") or "pass a list."
        raise ArgumentError("guards", repr(given), expected, fix)
    for guard in given:
        if guard not in known and guard not in by_name:
            meant = did_you_mean(guard, [*known, *by_name], most=3, form="{}")
            fix = meant or "choose some of them."
            raise ArgumentError("guards", repr(list(given)), expected, fix)
    names: Sequence[str] = given
    return frozenset(by_name.get(guard, guard) for guard in names)


def as_run(given: Any) -> Run | None:
    """Return a `Run` for a path."""
    if given is None or isinstance(given, Run):
        return given
    if not isinstance(given, str | PathLike):
        raise ArgumentError("run", repr(given), "a path or a `pg.Run`.", 'pass `run="runs/first"`.')
    return Run(given)


def as_step(given: Any, method: Method) -> Step:
    """Return a Step that has the method; a function that trains becomes one.

    Raises:
        PerigeeError: If it is neither, or the Step has no such method.
    """
    step: Any = given
    is_of_step = isinstance(getattr(given, "__self__", None), Step)
    if is_function(given) and not is_of_step:
        step = FunctionStep(given)
    check_step(step, method)
    return step


def check_step(step: Any, method: Method) -> None:
    """Reject anything but a Step that has the method."""
    called = _DOORS[method]
    compiler = _backends.current().compiler()
    if compiler is not None:
        raise CompiledCallError(called, compiler)
    if not isinstance(step, Step):
        raise ArgumentError(
            "step", shown(step), "an instance of a subclass of `pg.Step`.", _meant(step, called)
        )
    if step._function(method) is None:
        if isinstance(step, FunctionStep):
            raise MissingMethodError(type(step).__name__, method, is_of_functions=True)
        raise MissingMethodError(type(step).__name__, method, _renamed(step, method))
    check_signature(step, method)


_DOORS = {"train_step": "pg.fit", "test_step": "pg.evaluate", "predict_step": "pg.predict"}


def _meant(given: Any, called: str) -> str:
    """Return what to pass instead of something that is not a Step."""
    if isinstance(given, type) and issubclass(given, Step):
        return f"pass an instance: `{called}({_made(given)}, data)`."
    if isinstance(getattr(given, "__self__", None), Step):
        return f"pass the Step itself: `{called}(step, data)`."
    if isinstance(given, keras.Model):
        first = "write" if given.compiled else "compile it and write"
        return f"{first} `{called}(pg.KerasStep(model), data)`."
    if isinstance(given, keras.Layer):
        return "make a Step of it: `pg.Supervised(model, optimizer, loss)`."
    if any(kind.__module__.startswith("torch.nn.") for kind in inspect.getmro(type(given))):
        return (
            "make a layer of it, `keras.layers.TorchModuleWrapper(module)`, with "
            "KERAS_BACKEND=torch; then a Step: `pg.Supervised(layer, optimizer, loss)`."
        )
    return "subclass `pg.Step`, or use `pg.Supervised(model, optimizer, loss)`."


def _made(kind: type) -> str:
    """Return the line that makes an instance of a class."""
    try:
        inspect.signature(kind).bind()
    except (TypeError, ValueError):
        return f"{kind.__name__}(...)"
    return f"{kind.__name__}()"


_OTHER_NAMES = {
    "train_step": ("training_step", "train", "step"),
    "test_step": ("validation_step", "valid_step", "val_step", "eval_step", "evaluate_step"),
    "predict_step": ("prediction_step", "inference_step"),
}
"""The names of these methods in other libraries."""


def _renamed(step: Step, method: Method) -> str | None:
    """Return the method of a Step that is probably meant."""
    own = {n for kind in type(step).__mro__ if issubclass(kind, Step) for n in vars(kind)}
    own = {name for name in own if not hasattr(Step, name)}
    known = [name for name in _OTHER_NAMES[method] if name in own]
    return next(iter([*known, *near_names(method, own)]), None)


def as_execution(given: Execution | Choice) -> Execution:
    """Return an `Execution` for its mode."""
    return given if isinstance(given, Execution) else Execution(given)


def sorted_callbacks(callbacks: Any) -> tuple[list[Hook], list[Any]]:
    """Return hooks and Keras callbacks apart; `None` means none, as in Keras."""
    if callbacks is None:
        return [], []
    given = list(callbacks) if isinstance(callbacks, Sequence) else [callbacks]
    hooks = [c for c in given if isinstance(c, Hook)]
    others = [c for c in given if not isinstance(c, Hook)]
    for other in others:
        if not isinstance(other, keras.callbacks.Callback):
            raise ArgumentError(
                "callbacks",
                shown(other),
                "`keras.callbacks.Callback`s and `pg.Hook`s.",
                f"pass an instance: `callbacks=[{_made(other)}]`."
                if isinstance(other, type)
                else "subclass one of them, or pass "
                "`keras.callbacks.LambdaCallback(on_epoch_end=...)`.",
            )
    return hooks, others


def watched_by(hooks: Sequence[Hook]) -> frozenset[str]:
    """Return what hooks want to know of the updates.

    Raises:
        ArgumentError: If one of them wants something else.
    """
    watches = frozenset(name for hook in hooks for name in hook.watches)
    unknown = sorted(watches - {*WATCHES})
    if unknown:
        raise ArgumentError(
            "watches", repr(unknown[0]), f"some of {', '.join(WATCHES)}.", "choose among them."
        )
    return watches
