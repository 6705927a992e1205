"""What functions reach: the objects behind the names that their code reads."""

from __future__ import annotations

import dis
import functools
import inspect
import sys
import types
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any, Literal

import keras

from perigee import _backends
from perigee._step.state import attributes_of, is_own_class, is_own_file, nested_layers

_OWN = "perigee."

_Root = Literal["outside", "local", "import"]


@dataclass(frozen=True, slots=True)
class Read:
    """A name that code reads, with the attributes that follow it.

    Attributes:
        root: Where the name comes from: a closure or global, a parameter, or an `import` inside.
        names: The name and the attributes, as `("self", "model")`.
    """

    root: _Root
    names: tuple[str, ...]


@lru_cache(maxsize=1024)
def reads(code: CodeType) -> tuple[Read, ...]:
    """Return what code reads, functions inside it included, in the order of the code."""
    return tuple(_reads(code, frozenset(code.co_varnames + code.co_cellvars), True))


def _reads(code: CodeType, own: frozenset[str], is_outermost: bool) -> Iterator[Read]:
    root: _Root | None = None
    names: tuple[str, ...] = ()
    imported = ""
    for instruction in dis.get_instructions(code):
        operation, name = instruction.opname, instruction.argval
        if operation == "EXTENDED_ARG":
            continue
        if operation in ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR") and root is not None:
            names = (*names, str(name))
            continue
        if root is not None:
            yield Read(root, names)
            root = None
        if operation in ("LOAD_GLOBAL", "LOAD_NAME"):
            root, names = "outside", (name,)
        elif operation in ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF"):
            # Free in the outermost function; or one of its parameters, read by a function inside.
            root, names = ("local" if name in own else "outside"), (name,)
        elif is_outermost and "LOAD_FAST" in operation:
            # Newer versions of Python have instructions for two variables at once.
            *others, last = name if isinstance(name, tuple) else (name,)
            if operation.startswith("LOAD_FAST"):
                yield from (Read("local", (other,)) for other in others)
            root, names = "local", (last,)
        elif operation == "IMPORT_NAME":
            imported = str(name)
            yield Read("import", (imported,))
        elif operation == "IMPORT_FROM":
            yield Read("import", (imported, str(name)))
        elif isinstance(name, CodeType):
            inside = frozenset(name.co_varnames + name.co_cellvars) - frozenset(name.co_freevars)
            yield from _reads(name, own - inside, False)
    if root is not None:
        yield Read(root, names)


@lru_cache(maxsize=1024)
def attributes_read(code: CodeType) -> frozenset[str]:
    """Return the names of all attributes that code reads, functions inside it included."""
    found = {
        str(instruction.argval)
        for instruction in dis.get_instructions(code)
        if instruction.opname in ("LOAD_ATTR", "LOAD_METHOD")
    }
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            found |= attributes_read(constant)
    return frozenset(found)


@dataclass(slots=True)
class Reached:
    """What functions reach.

    Attributes:
        values: Objects and plain values by name: the name in the outermost function that uses one,
            first in code order, with attributes after slashes. One object has one name.
        functions: The users' own functions that may run, each once.
    """

    values: dict[str, Any] = field(default_factory=dict)
    functions: list[FunctionType] = field(default_factory=list)


def reached(functions: Sequence[Callable[..., Any]]) -> Reached:
    """Find what functions, and the functions that they call, reach outside themselves.

    Searched are closures, globals, defaults, `functools.partial`, the object of a method, what
    decorators wrap, attributes of the users' own modules and classes, lists, tuples and dicts. Code
    of installed packages is not searched.

    Args:
        functions: The outermost functions, in order.
    """
    search = _Search()
    for function in functions:
        search.follow(function, ())
    search.run()
    return search.found


@dataclass(slots=True)
class _Search:
    found: Reached = field(default_factory=Reached)
    _waiting: deque[tuple[FunctionType, Mapping[str, Any]]] = field(default_factory=deque)
    _begun: set[tuple[int, tuple[tuple[str, int], ...]]] = field(default_factory=set)
    _ids: set[int] = field(default_factory=set)
    _owners: dict[int, Any] = field(default_factory=dict)
    _attributes: set[str] = field(default_factory=set)
    _kept: list[Any] = field(default_factory=list)  # so that no other value reuses an id

    def run(self) -> None:
        """Search functions, outer ones first, then methods of the objects that they reach."""
        while True:
            while self._waiting:
                self._function(*self._waiting.popleft())
            for owner in list(self._owners.values()):
                self._methods(owner)
            if not self._waiting:
                return

    def follow(self, value: Any, bound: Sequence[tuple[str, Any]]) -> bool:
        """Search a function, or what stands for one; returns whether it is one."""
        value = _backends.current().inlined(value)
        if isinstance(value, functools.partial):
            names = _positional(value.func)
            given = [*zip(names, value.args, strict=False), *value.keywords.items()]
            return self.follow(value.func, [*bound, *given])
        if isinstance(value, MethodType):
            first = next(iter(_positional(value.__func__)), "self")
            return self.follow(value.__func__, [*bound, (first, value.__self__)])
        if isinstance(value, staticmethod | classmethod):
            return self.follow(value.__func__, bound)
        wrapped = getattr(value, "__wrapped__", None)
        if isinstance(value, FunctionType):
            self._wait_for(value, dict(bound))
        elif wrapped is None:
            return False
        if wrapped is not None and wrapped is not value:
            self.follow(wrapped, bound)
        return True

    def _wait_for(self, function: FunctionType, bound: Mapping[str, Any]) -> None:
        key = id(function), tuple((name, id(value)) for name, value in bound.items())
        if key in self._begun or _is_perigees(function):
            return
        self._begun.add(key)
        self._kept += [function, bound]
        if is_own_file(function.__code__.co_filename):
            self._waiting.append((function, bound))
            return
        for cell in function.__closure__ or ():  # a decorator of an installed package
            self.follow(_content(cell), ())

    def _function(self, function: FunctionType, bound: Mapping[str, Any]) -> None:
        if function not in self.found.functions:
            self.found.functions.append(function)
        code = function.__code__
        self._attributes |= attributes_read(code)
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        parameters = {**_defaults(function), **bound}
        for read in reads(code):
            name = read.names[0]
            if read.root == "import":
                value: Any = sys.modules.get(name)
            elif read.root == "local":
                value = parameters.get(name)
            else:
                value = _content(cells[name]) if name in cells else function.__globals__.get(name)
            if value is not None:
                self._read(value, read.names, function)

    def _read(self, value: Any, names: tuple[str, ...], function: FunctionType) -> None:
        """Take in the value of a name, and follow the attributes that are read from it."""
        path = [names[0]]
        self._take(value, path, function)
        for name in names[1:]:
            if not _is_users(value):
                return
            value, is_known = _attribute(value, name)
            if not is_known:
                return
            path.append(name)
            self._take(value, path, function)

    def _take(self, value: Any, path: Sequence[str], function: FunctionType) -> None:
        value = _backends.current().inlined(value)
        if isinstance(value, ModuleType) or value is None:
            return
        if isinstance(value, weakref.ReferenceType):
            value = value()
        elif isinstance(value, ContextVar):
            value = value.get(None)
        if isinstance(value, type):
            if is_own_class(value):
                self._owners.setdefault(id(value), value)
            return
        if isinstance(value, types.BuiltinFunctionType) or id(value) in self._ids:
            return
        name = "/".join(path)
        is_function = self.follow(value, ())
        if is_function and not isinstance(value, FunctionType):
            return  # a method, or a partial function, whose parts are searched
        if self.found.values.get(name, value) is not value:
            name = f"{function.__name__}/{name}"
            while name in self.found.values:
                name = f"{name}~"
        if not isinstance(value, int | float | str | bytes):  # these may be one object by chance
            self._ids.add(id(value))
        self._kept.append(value)
        self.found.values[name] = value
        self._inside(value, set())

    def _inside(self, value: Any, seen: set[int]) -> None:
        """Search containers, objects of users' classes and layers for functions and methods."""
        if id(value) in seen or isinstance(value, int | float | str | bytes | None):
            return
        seen.add(id(value))
        if isinstance(value, keras.Layer):
            for layer in nested_layers(value):
                if is_own_class(type(layer)):
                    self._owners.setdefault(id(layer), layer)
        elif isinstance(value, Mapping):
            for item in value.values():
                self._inside(item, seen)
        elif isinstance(value, list | tuple | deque | set | frozenset):
            for item in value:
                self._inside(item, seen)
        elif isinstance(value, FunctionType | MethodType | functools.partial):
            self.follow(value, ())
        elif not isinstance(value, type) and is_own_class(type(value)):
            self._owners.setdefault(id(value), value)
            for member in attributes_of(value).values():
                self._inside(member, seen)

    def _methods(self, owner: Any) -> None:
        """Search the methods of an object that code may call: by name, or by calling it."""
        kind = owner if isinstance(owner, type) else type(owner)
        called = {"call", "__call__", "__init__", "update_state", "result", *self._attributes}
        for base in kind.__mro__:
            if not is_own_class(base) or _is_perigees(base):
                continue
            for name in called & vars(base).keys():
                method = _backends.current().inlined(vars(base)[name])
                if isinstance(method, property):
                    method = method.fget
                elif isinstance(method, functools.cached_property):
                    method = method.func
                if isinstance(method, staticmethod | classmethod | FunctionType):
                    plain = getattr(method, "__func__", method)
                    is_static = isinstance(method, staticmethod)
                    first = next(iter(_positional(plain)), "self")
                    self.follow(plain, () if is_static else [(first, owner)])


def _is_users(value: Any) -> bool:
    """Return whether a module, a class or an object is of the user's own code."""
    if isinstance(value, ModuleType):
        file = getattr(value, "__file__", None)
        return value.__name__ not in sys.builtin_module_names and (
            file is None or is_own_file(file)
        )
    return is_own_class(value if isinstance(value, type) else type(value))


def _is_perigees(value: Any) -> bool:
    return (value.__module__ or "").startswith(_OWN)


def _attribute(value: Any, name: str) -> tuple[Any, bool]:
    """Return an attribute that is simply there, without running code; and whether it is."""
    if not isinstance(value, type) and name in attributes_of(value):
        return attributes_of(value)[name], True
    if isinstance(value, type):
        found = inspect.getattr_static(value, name, None)
        is_code = isinstance(found, property | functools.cached_property | FunctionType)
        return found, found is not None and not is_code
    return None, False


def _positional(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # written in C, for instance
        return []


def _defaults(function: FunctionType) -> dict[str, Any]:
    code, values = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    own = dict(zip(names[len(names) - len(values) :], values, strict=True))
    return {**own, **(function.__kwdefaults__ or {})}


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not filled yet
        return None
