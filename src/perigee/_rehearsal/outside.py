"""Values that the code of a method reads from outside: in compiled code they are constant."""

from __future__ import annotations

import dis
from collections import ChainMap
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

_OWN = "perigee."


def numbers_outside(holder: Any, method: str) -> dict[str, float]:
    """Return the current numbers that a method reads but does not set itself, by name.

    They include numbers read by functions that it calls by name: other methods, functions that are
    attributes, and functions of its own module.

    Args:
        holder: The object.
        method: The name of its method.
    """
    found: dict[str, float] = {}
    for function in _reached(holder, method):
        read, _, written = _names(function.__code__)
        around = _around(function)
        written |= {*function.__code__.co_cellvars}  # its own, for functions inside it
        found |= {
            f"{name} ({function.__qualname__})": around[name]
            for name in read - written
            if isinstance(around.get(name), int | float)
        }
    return found


def makes_unseeded_generators(holder: Any, method: str) -> bool:
    """Return whether a method, or a function that it calls, calls NumPy's `default_rng()` unseeded.

    Args:
        holder: The object.
        method: The name of its method.
    """
    return any(_calls_default_rng(function.__code__) for function in _reached(holder, method))


def _reached(holder: Any, method: str) -> Iterator[FunctionType]:
    """Yield a method and the functions that it calls by name, each once."""
    seen: set[int] = set()
    waiting = _functions(holder, [method])
    while waiting:
        function = waiting.pop()
        if id(function) in seen or (function.__module__ or "").startswith(_OWN):
            continue
        seen.add(id(function))
        yield function
        read, asked, _ = _names(function.__code__)
        around = _around(function)
        waiting += _functions(holder, asked)
        others = [around[name] for name in read if isinstance(around.get(name), FunctionType)]
        waiting += [other for other in others if other.__module__ == function.__module__]


@lru_cache(maxsize=256)
def _calls_default_rng(code: CodeType) -> bool:
    is_asked = False
    for instruction in _instructions(code):
        if instruction.opname == "CALL":
            if is_asked and instruction.arg == 0:
                return True
            is_asked = False
        elif instruction.opname not in ("CACHE", "PRECALL", "PUSH_NULL"):
            is_asked = instruction.argval == "default_rng"
    return False


def _functions(holder: Any, names: Iterable[str]) -> list[FunctionType]:
    """Return the functions that a holder has under these names, methods as plain functions."""
    own = vars(holder)
    held = [own[name] if name in own else getattr(type(holder), name, None) for name in names]
    return [function for function in held if isinstance(function, FunctionType)]


def _around(function: FunctionType) -> Mapping[str, Any]:
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    contents = {name: _content(cell) for name, cell in cells.items()}
    return ChainMap(contents, function.__globals__)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None


@lru_cache(maxsize=256)
def _names(code: CodeType) -> tuple[frozenset[str], ...]:
    """Return the names of globals and closures that code reads, of attributes, and of set names."""
    read: set[str] = set()
    asked: set[str] = set()
    written: set[str] = set()
    for instruction in _instructions(code):
        name = instruction.argval
        if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_DEREF", "LOAD_CLASSDEREF"):
            read.add(name)
        elif instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            asked.add(name)
        elif instruction.opname in ("STORE_GLOBAL", "STORE_NAME", "STORE_DEREF"):
            written.add(name)
    return frozenset(read), frozenset(asked), frozenset(written)


def _instructions(code: CodeType) -> Iterator[dis.Instruction]:
    yield from dis.get_instructions(code)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _instructions(constant)
