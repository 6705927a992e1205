"""The arguments of public functions, checked before anything is done with them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, ParamSpec, TypeVar

import keras
import numpy as np

from perigee import diagnostics
from perigee._errors import (
    ArgumentError,
    MissingMethodError,
    UnknownArgumentError,
    did_you_mean,
)
from perigee._events.events import Hook
from perigee._execution import WATCHES, Choice, Execution
from perigee._runs.run import Run
from perigee._step.frame import Method
from perigee._step.step import Step

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

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


def named(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Answer unknown arguments with the name that was probably meant."""
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        for name in kwargs:
            if name not in known:
                meant = _KERAS_WORDS.get(name) or did_you_mean(name, known)
                raise UnknownArgumentError(function.__name__, name, meant, known)
        return function(*args, **kwargs)

    return checked


def check_count(name: str, value: Any, is_optional: bool = True) -> None:
    """Reject anything but a positive integer."""
    if value is None and is_optional:
        return
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ArgumentError(name, repr(value), "a positive integer.", "count from 1.")


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


def check_step(step: Any, method: Method) -> None:
    """Reject anything but a Step that has the method."""
    if not isinstance(step, Step):
        raise ArgumentError(
            "step",
            type(step).__name__,
            "an instance of a subclass of `pg.Step`.",
            "pass `pg.KerasStep(model)` of a compiled model."
            if isinstance(step, keras.Model)
            else "subclass `pg.Step`, or use `pg.Supervised(model, optimizer, loss)`.",
        )
    if getattr(type(step), method) is getattr(Step, method) and method not in vars(step):
        raise MissingMethodError(type(step).__name__, method)


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
                type(other).__name__,
                "`keras.callbacks.Callback`s and `pg.Hook`s.",
                "subclass one of them.",
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


def one_data_set(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Answer a third positional argument, as in `fit(step, x, y)`, with the line to write."""
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        if len(args) > 2:
            is_data = hasattr(args[2], "shape") or isinstance(args[2], list | tuple)
            fix = (
                f"pass the arrays as one data set: `pg.{function.__name__}(step, (x, y))`."
                if is_data
                else f"pass it by its name, such as `{known[2]}=...`."
            )
            name = "y" if is_data else "number 3"
            raise UnknownArgumentError(function.__name__, name, fix, known)
        return function(*args, **kwargs)

    return checked
