"""Which code is the user's own, and the functions in it."""

from __future__ import annotations

import functools
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

from perigee import _backends


@cache
def is_own_class(kind: type) -> bool:
    """Return whether a class is neither Python's nor from an installed package."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    if file is not None:
        return is_own_file(file)
    # It is of a script, or of code that ran without a module; Python's own has no functions.
    codes = [value.__code__ for value in vars(kind).values() if isinstance(value, FunctionType)]
    return kind.__module__ == "__main__" or any(is_own_file(code.co_filename) for code in codes)


@cache
def is_own_file(file: str) -> bool:
    """Return whether code is neither Python's nor from an installed package, by its file."""
    path = Path(file)
    is_installed = not {"site-packages", "dist-packages"}.isdisjoint(path.parts)
    is_known = path.is_relative_to(_PYTHONS) or path.is_relative_to(_PERIGEES)
    return not is_installed and not is_known and not file.startswith("<frozen ")


_PYTHONS = sysconfig.get_path("stdlib")
_PERIGEES = Path(__file__).parents[1]


def functions_of(member: Any) -> Iterator[tuple[FunctionType, bool]]:
    """Yield the functions of a member of a class, and whether they get its object."""
    member = _backends.current().inlined(member)
    if isinstance(member, staticmethod | classmethod):
        for function, _ in functions_of(member.__func__):
            yield function, isinstance(member, classmethod)
    elif isinstance(member, property):
        for function in (member.fget, member.fset):
            yield from functions_of(function)
    elif isinstance(member, functools.cached_property | functools.partialmethod):
        yield from functions_of(member.func)
    elif isinstance(member, functools.singledispatchmethod):
        yield from functions_of(member.func)
        for function in member.dispatcher.registry.values():
            yield from functions_of(function)
    elif isinstance(member, FunctionType):
        yield member, True
    elif not is_own_class(member.__class__) and not isinstance(member, type):
        wrapped = getattr(member, "__wrapped__", None)
        yield from () if wrapped is None else functions_of(wrapped)


@cache
def names_of(kind: type) -> Mapping[str, Any]:
    """Return the members of a class: the same mapping each time."""
    return vars(kind)


@cache
def called_by_bases(kind: type) -> frozenset[str]:
    """Return the members of a class that Python calls, or a base of an installed package."""
    own = {name for base in kind.__mro__ if is_own_class(base) for name in vars(base)}
    installed = {name for b in kind.__mro__ if not is_own_class(b) for name in vars(b)}
    return frozenset(name for name in own if name in installed or name.startswith("__"))


def is_users(value: Any) -> bool:
    """Return whether a module or a class is of the user's own code; a class may be Python's."""
    if isinstance(value, ModuleType):
        file = getattr(value, "__file__", None)
        return value.__name__ not in sys.builtin_module_names and (
            file is None or is_own_file(file)
        )
    return is_own_class(value) or value.__module__.partition(".")[0] in sys.stdlib_module_names


def leads_home(function: Any) -> bool:
    """Return whether a function is the user's own, or wraps one: most in a Keras object are not."""
    while not isinstance(function, functools.partial):
        function = getattr(function, "__func__", function)
        if isinstance(function, FunctionType) and is_own_file(function.__code__.co_filename):
            return True
        function = getattr(function, "__wrapped__", None)
        if function is None:
            return False
    return True


def positional(function: Any) -> Sequence[str]:
    """Return the names of the parameters that are given by position."""
    if isinstance(function, MethodType):
        return positional(function.__func__)[1:]
    function = _backends.current().inlined(function)
    code = getattr(function, "__code__", None)
    return () if code is None else code.co_varnames[: code.co_argcount]


def content_of(cell: CellType) -> Any:
    """Return the value of a variable of a closure; `None` if it has none yet."""
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
