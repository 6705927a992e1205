"""An experiment: a Step with its data and how it is trained, for the command line to find."""

from __future__ import annotations

import ast
import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

from perigee._api.fit import fit as run_fit
from perigee._errors import ArgumentError, did_you_mean, door
from perigee._step.step import Step

PARTS = ("step", "data", "validation")


@door
@dataclass(frozen=True, slots=True)
class Experiment:
    """A Step with its data and how it is trained, as `perigee fit FILE` finds it in a file.

    >>> experiment = pg.Experiment(
    ...     step=make_step, data=load_train, validation=load_valid, fit={"epochs": 5}
    ... )

    Nothing is made before it is needed, so importing the file is cheap; each training makes its
    own.

    Args:
        step: A class or function that returns the Step. What its arguments are by default is
            replaced by `--set step.NAME=VALUE`.
        data: What `fit` takes, or a function that returns it; `--set data.NAME=VALUE` as above.
            A generator function is data itself.
        validation: The same for `validation`; `None` for none.
        fit: Arguments of `fit`, by name; options of the command line replace them.

    Raises:
        ArgumentError: If `step` cannot be called, or `fit` has no such argument.
    """

    step: Callable[..., Step]
    data: Any
    validation: Any = None
    fit: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if isinstance(self.step, Step) or not callable(self.step):
            raise ArgumentError(
                "step",
                type(self.step).__name__,
                "a class or function that returns the Step: each training makes its own.",
                "pass `step=make_step`, or `step=lambda: Distill(make_model())`.",
            )
        known = [n for n in inspect.signature(run_fit).parameters if n not in PARTS]
        for name in self.fit:
            if name not in known:
                raise ArgumentError(
                    "fit",
                    repr(dict(self.fit)),
                    f"arguments of `pg.fit` but {', '.join(PARTS)}, such as `epochs` and `run`.",
                    did_you_mean(name, known) or f"leave {name!r} out.",
                )

    def settings(
        self, given: Mapping[str, Mapping[str, str]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what `--set` means, by name such as `step.temperature`, and the usual values.

        Args:
            given: For each part, values of arguments as they are written on the command line.

        Raises:
            ArgumentError: As in `make_step`.
        """
        meant: dict[str, Any] = {}
        usual: dict[str, Any] = {}
        for part in PARTS:
            made, texts = getattr(self, part), given.get(part, {})
            if part != "step" and not _is_function(made):
                continue
            meant |= {f"{part}.{k}": v for k, v in _arguments(part, made, texts).items()}
            usual |= {
                f"{part}.{name}": parameter.default
                for name, parameter in inspect.signature(made).parameters.items()
                if parameter.default is not parameter.empty and name not in texts
            }
        return meant, usual

    def make_step(self, settings: Mapping[str, str] | None = None) -> Step:
        """Return a new Step.

        Args:
            settings: Values of arguments as they are written on the command line.

        Raises:
            ArgumentError: If there is no such argument, or the value is of another kind; if what
                is made is no Step.
        """
        step = _called("step", self.step, settings or {})
        if not isinstance(step, Step):
            raise ArgumentError(
                "step",
                f"a function that returned {type(step).__name__}",
                "one that returns a `pg.Step`.",
                "return the Step at its end.",
            )
        return step

    def make_data(self, part: str = "data", settings: Mapping[str, str] | None = None) -> Any:
        """Return the data, or that of validations.

        Args:
            part: `"data"` or `"validation"`.
            settings: As in `make_step`.

        Raises:
            ArgumentError: If there is no such argument, or the value is of another kind; if there
                are settings and the data is not made by a function.
        """
        value = getattr(self, part)
        if inspect.isgeneratorfunction(value):
            given = _arguments(part, value, settings or {})
            return functools.partial(value, **given) if given else value
        if _is_function(value):
            return _called(part, value, settings or {})
        if settings:
            raise ArgumentError(
                f"--set {part}.{next(iter(settings))}",
                repr(next(iter(settings.values()))),
                f"a function as `{part}` of the experiment, whose arguments can be set.",
                f"pass a function that returns the data as `{part}`.",
            )
        return value


def _is_function(value: Any) -> bool:
    return inspect.isfunction(value) or isinstance(value, functools.partial | MethodType)


def _called(part: str, function: Callable[..., Any], settings: Mapping[str, str]) -> Any:
    return function(**_arguments(part, function, settings))


def _arguments(
    part: str, function: Callable[..., Any], settings: Mapping[str, str]
) -> dict[str, Any]:
    """Return the arguments that settings mean, of the kinds that the function's own are of."""
    parameters = inspect.signature(function).parameters
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    known = {name: p for name, p in parameters.items() if p.kind in named}
    missing = [n for n, p in known.items() if p.default is p.empty and n not in settings]
    if missing:
        raise ArgumentError(
            part,
            f"a function that needs {', '.join(missing)}",
            "default values for all of its arguments.",
            f"give them default values, or pass `--set {part}.{missing[0]}=...`.",
        )
    given: dict[str, Any] = {}
    for name, text in settings.items():
        if name not in known:
            raise ArgumentError(
                f"--set {part}.{name}",
                repr(text),
                f"one of {', '.join(known)}." if known else f"no settings: `{part}` takes none.",
                did_you_mean(name, known, form=f"`{part}.{{}}`")
                or "see the arguments in the file.",
            )
        given[name] = _value(f"--set {part}.{name}", text, known[name])
    return given


def _value(name: str, text: str, parameter: inspect.Parameter) -> Any:
    """Return what a text means for an argument: of the kind of its default, where that is plain."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    default = parameter.default
    if isinstance(default, str) and not isinstance(value, str) and value is not None:
        return text
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    is_plain = isinstance(default, bool | int | float | str | tuple | list | dict)
    if default is parameter.empty or not is_plain or value is None or type(value) is type(default):
        return value
    raise ArgumentError(
        name,
        repr(text),
        f"{type(default).__name__}, as its default {default!r} is.",
        f"write it like {default!r}.",
    )
