"""What stored values must look like: checked when they are read, before anything is made of them.

A shape is a function that takes a value and its path, and raises a `ValueError` that says what is
wrong with it. A file may hold anything under the right checksums, so nothing that was read is used
before its shape is known.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any

from perigee._errors import PerigeeError, StoredStateError

Shape = Callable[[Any, str], None]

MOST_STEPS = 2**50
"""More steps than any training has made: a million a second would take 35 years."""

_MOST_LEVELS = 64
_MOST_INTEGER = 2**1024
_MOST_FLOAT = 2**1023
_MOST_SHOWN = 60


def anything(value: Any, path: str) -> None:
    """Accept what can be written again: not too deep, and no huge integer."""
    waiting = [(value, 0)]
    while waiting:
        each, level = waiting.pop()
        if type(each) is int and abs(each) >= _MOST_INTEGER:
            raise _not(each, path, "a possible number")
        if isinstance(each, dict | list):
            if level == _MOST_LEVELS:
                raise ValueError(f"{path} has more than {_MOST_LEVELS} levels")
            inner = each.values() if isinstance(each, dict) else each
            waiting += [(item, level + 1) for item in inner]


def boolean(value: Any, path: str) -> None:
    """Accept `true` and `false`."""
    if not isinstance(value, bool):
        raise _not(value, path, "true or false")


def number(value: Any, path: str) -> None:
    """Accept a number, also one that is not finite."""
    if type(value) is not float and not (type(value) is int and abs(value) < _MOST_FLOAT):
        raise _not(value, path, "a number")


def duration(value: Any, path: str) -> None:
    """Accept a number of seconds."""
    number(value, path)
    if not 0 <= value < math.inf:
        raise _not(value, path, "a duration")


def text(value: Any, path: str) -> None:
    """Accept a string."""
    if not isinstance(value, str):
        raise _not(value, path, "text")


def count(below: int = MOST_STEPS, least: int = 0) -> Shape:
    """Return the shape of an integer that counts something."""

    def check(value: Any, path: str) -> None:
        if type(value) is not int or not least <= value < below:
            raise _not(value, path, "a possible count")

    return check


def one_of(*values: str) -> Shape:
    """Return the shape of one of some words."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, str) or value not in values:
            raise _not(value, path, f"one of {', '.join(values)}")

    return check


def optional(shape: Shape) -> Shape:
    """Return a shape that accepts `None`, too."""
    return lambda value, path: None if value is None else shape(value, path)


def list_of(shape: Shape, least: int = 0) -> Shape:
    """Return the shape of a list of such values, at least so many."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, list) or len(value) < least:
            raise _not(value, path, f"a list of {least} or more" if least else "a list")
        for index, item in enumerate(value):
            shape(item, f"{path}/{index}")

    return check


def dict_of(shape: Shape) -> Shape:
    """Return the shape of a dict with any names and such values."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise _not(value, path, "an object")
        for name, item in value.items():
            shape(item, f"{path}/{name[:_MOST_SHOWN]}")

    return check


def row(*shapes: Shape) -> Shape:
    """Return the shape of a list of given length."""

    def check(value: Any, path: str) -> None:
        if not isinstance(value, list) or len(value) != len(shapes):
            raise _not(value, path, f"a list of {len(shapes)}")
        for index, (item, shape) in enumerate(zip(value, shapes, strict=True)):
            shape(item, f"{path}/{index}")

    return check


def fields(needed: Mapping[str, Shape], more: Mapping[str, Shape] | None = None) -> Shape:
    """Return the shape of a dict with given names; others may be there, too.

    Args:
        needed: The shapes of those that must be there.
        more: The shapes of those that may be there.
    """
    known = {**needed, **(more or {})}

    def check(value: Any, path: str) -> None:
        if not isinstance(value, dict):
            raise _not(value, path, "an object")
        missing = [name for name in needed if name not in value]
        if missing:
            raise ValueError(f"{path} has no {', '.join(missing)}")
        for name, item in value.items():
            known.get(name, anything)(item, f"{path}/{name[:_MOST_SHOWN]}")

    return check


@contextmanager
def loading(what: str) -> Generator[None]:
    """Say which object could not take back what was stored of it.

    Args:
        what: What is called with it, such as `"MyHook.load_state"`.

    Raises:
        StoredStateError: If anything is raised but an error of Perigee's.
    """
    try:
        yield
    except PerigeeError:
        raise
    except Exception as error:
        raise StoredStateError(what, f"{type(error).__name__}: {error}"[:1000]) from error


def _not(value: Any, path: str, expected: str) -> ValueError:
    shown = f"of type {type(value).__name__}"
    if isinstance(value, str | float | bool) or (type(value) is int and abs(value) < 2**80):
        shown = ascii(value)[:_MOST_SHOWN]
    return ValueError(f"{path} is {shown} instead of {expected}")
