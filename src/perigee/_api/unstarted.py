"""Generators that have not started: others like them, which leave them as they are."""

from __future__ import annotations

import copy
import inspect
import random
from collections.abc import Callable, Generator, Iterator
from types import CellType, FunctionType, GeneratorType
from typing import Any

import numpy as np

_DRAWING = np.random.Generator, np.random.RandomState, random.Random
_COPIED = tuple(type(iter(each)) for each in ([], (), range(0)))
"""Iterators of Python that a copy leaves alone: of lists, tuples and ranges."""


def beginning(data: Any) -> Callable[[], Generator[Any]] | None:
    """Return a function that makes generators like one that has not started.

    Each begins with what the given one will begin with, and takes nothing from it: random
    generators among what its code holds are copied.

    Returns:
        `None` where that is not possible: for other iterators, a generator that has started, and
        one that reads from an iterator.
    """
    if not isinstance(data, GeneratorType):
        return None
    if inspect.getgeneratorstate(data) != inspect.GEN_CREATED:
        return None
    code, frame = data.gi_code, data.gi_frame
    if frame is None:  # of one that has ended
        return None
    held = dict(frame.f_locals)
    given, around = inspect.getargs(code), frame.f_globals
    names = [*given.args, *filter(None, (given.varargs, given.varkw)), *code.co_freevars]
    reads = [each for each in held.values() if isinstance(each, Iterator)]
    if not all(isinstance(each, _COPIED) for each in reads) or not held.keys() >= set(names):
        return None

    def begin() -> Generator[Any]:
        own = {name: _apart(value) for name, value in held.items()}
        cells = tuple(CellType(own[name]) for name in code.co_freevars)
        function = FunctionType(code, around, code.co_name, None, cells)
        plain, named = given.args[: code.co_argcount], given.args[code.co_argcount :]
        further = own[given.varargs] if given.varargs else ()
        options = {name: own[name] for name in named} | (own[given.varkw] if given.varkw else {})
        return function(*(own[name] for name in plain), *further, **options)

    return begin


def _apart(value: Any) -> Any:
    if isinstance(value, _DRAWING):
        return copy.deepcopy(value)
    return copy.copy(value) if isinstance(value, _COPIED) else value
