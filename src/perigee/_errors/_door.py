"""Public functions as doors: what the user sees of an error ends at the user's own lines."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, overload

from perigee._errors._frames import cut
from perigee._errors._meant import did_you_mean
from perigee._errors._tree import PerigeeError
from perigee._errors.runs import UnknownArgumentError

_Target = TypeVar("_Target", bound=Callable[..., Any])


@overload
def door(target: _Target, /) -> _Target: ...


@overload
def door(*, words: Mapping[str, str]) -> Callable[[_Target], _Target]: ...


def door(target: Any = None, /, *, words: Mapping[str, str] | None = None) -> Any:
    """Make a function, or the constructor of a class, a door between users and Perigee.

    The traceback of a `PerigeeError` that leaves it has only frames of user code: the line that
    called it and, where user code was running, its lines. `PERIGEE_FULL_TRACEBACK=1` keeps the
    others. Any other exception stays as it is.

    Args:
        target: The function; or the class, where it has no `__init__` of its own to decorate.
        words: For unknown arguments, by name, what to write instead. If given, an unknown argument
            is answered with the name that was probably meant, and one too many without a name
            with how to pass it.
    """
    return functools.partial(_door, words=words) if target is None else _door(target, None)


def _door(target: Any, words: Mapping[str, str] | None) -> Any:
    if isinstance(target, type):
        setattr(target, "__init__", _door(target.__init__, words))  # noqa: B010
        return target
    import inspect  # slow to import, and `perigee` itself has no door

    known = list(inspect.signature(target).parameters)
    most = sum(p.kind is not p.KEYWORD_ONLY for p in inspect.signature(target).parameters.values())

    @functools.wraps(target)
    def entered(*args: Any, **kwargs: Any) -> Any:
        try:
            if words is not None:
                _refuse_unknown(target, kwargs, known, words)
                _refuse_more(target, args[most:], known, most)
            return target(*args, **kwargs)
        except PerigeeError as error:
            cut(error)
            raise  # without an argument: the traceback is the error's own, without this frame

    return entered


def _refuse_unknown(
    target: Callable[..., Any],
    given: Mapping[str, Any],
    known: list[str],
    words: Mapping[str, str],
) -> None:
    for name in given:
        if name not in known:
            meant = words.get(name) or did_you_mean(name, known)
            called = target.__qualname__.removesuffix(".__init__").rpartition(".")[2]
            raise UnknownArgumentError(called, name, meant, [n for n in known if n != "self"])


def _refuse_more(
    target: Callable[..., Any], more: Sequence[Any], known: list[str], most: int
) -> None:
    """Answer one argument too many without a name, as in `fit(step, x, y)`."""
    if not more:
        return
    called = target.__qualname__.removesuffix(".__init__").rpartition(".")[2]
    is_data = hasattr(more[0], "shape") or isinstance(more[0], list | tuple)
    if is_data and known[most - 1] == "data":
        fix = f"pass the arrays as one data set: `pg.{called}(step, (x, y))`."
        raise UnknownArgumentError(called, "y", fix, known)
    if most < len(known):
        fix = f"pass it by its name, such as `{known[most]}=...`."
        raise UnknownArgumentError(called, f"number {most + 1}", fix, known)
