"""What functions reach: the objects behind the names that their code reads."""

from __future__ import annotations

import importlib.util
import sys
import weakref
from collections import deque
from collections.abc import (
    Callable,
    Collection,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import EnumType
from functools import partial
from types import (
    BuiltinFunctionType,
    CellType,
    FunctionType,
    MethodType,
    MethodWrapperType,
    ModuleType,
)
from typing import Any

import keras

from perigee import _backends
from perigee._step.bytecode import Read, names_in, reads
from perigee._step.kinds import (
    holds_more,
    is_part_of_layer,
    is_replaceable,
    kind_of,
    lasting,
    members_of,
)
from perigee._step.lookups import Lookups
from perigee._step.own_code import (
    called_by_bases,
    content_of,
    functions_of,
    is_own_class,
    is_own_file,
    is_users,
    leads_home,
    names_of,
    positional,
)
from perigee._step.state import PLAIN, attributes_of

_Bound = Sequence[tuple[str, Any]]
"""Values of parameters, by name."""


@dataclass(slots=True)
class Reached:
    """What functions reach.

    Attributes:
        values: Objects and plain values by name: the name in the outermost function that uses one,
            first in code order, with attributes after slashes. One object has one name.
        functions: The users' own functions that may run, each once.
        compiled: Functions that the user compiled apart from the step, by name.
    """

    values: dict[str, Any] = field(default_factory=dict)
    functions: list[FunctionType] = field(default_factory=list)
    compiled: dict[str, Any] = field(default_factory=dict)


class Reach:
    """Finds what functions, and the functions that they call, reach outside themselves.

    Searched are closures, globals, defaults, `functools.partial`, the object of a method, what
    decorators wrap, imports, the users' own modules, classes and objects, lists, tuples, dicts, and
    functions inside Keras objects. Code of installed packages is not searched.

    Args:
        functions: The outermost functions, in order.
        skipped: Names of methods that are not called.
    """

    def __init__(
        self, functions: Iterable[Callable[..., Any]], skipped: Collection[str] = ()
    ) -> None:
        self._functions, self._skipped = [*functions], skipped
        self._search: _Search | None = None

    def now(self) -> Reached:
        """Return what they reach; searched again only if something on the way was replaced."""
        if self._search is None or not self._search.lookups.are_same():
            self._search = _Search(self._functions, self._skipped)
        return self._search.found


class Outside(MutableMapping[str, Any]):
    """The values of globals and closures of functions, by name: the first of a name.

    Args:
        functions: The functions, outer ones first.
    """

    def __init__(self, functions: Sequence[FunctionType]) -> None:
        self._cells: dict[str, CellType] = {}
        self._globals: dict[str, dict[str, Any]] = {}
        for function in functions:
            names, cells = function.__code__.co_freevars, function.__closure__ or ()
            for name, cell in zip(names, cells, strict=True):
                self._cells.setdefault(name, cell)
            for name in function.__code__.co_names:
                self._globals.setdefault(name, function.__globals__)

    def __getitem__(self, name: str) -> Any:
        if name in self._cells:
            return self._cells[name].cell_contents
        return self._globals[name][name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name in self._cells:
            self._cells[name].cell_contents = value
        else:
            self._globals[name][name] = value

    def __delitem__(self, name: str) -> None:
        if name in self._cells:
            del self._cells[name].cell_contents
        else:
            del self._globals[name][name]

    def __iter__(self) -> Iterator[str]:
        yield from (name for name, cell in self._cells.items() if cell != CellType())  # not filled
        yield from (n for n, held in self._globals.items() if n in held and n not in self._cells)

    def __len__(self) -> int:
        return sum(1 for _ in self)


class _Search:
    def __init__(self, functions: Iterable[Callable[..., Any]], skipped: Collection[str]) -> None:
        self.found = Reached()
        self._skipped = skipped
        self.lookups = Lookups()
        self._waiting: deque[tuple[FunctionType, _Bound]] = deque()
        self._begun: set[tuple[int, tuple[tuple[str, int], ...]]] = set()
        self._places: dict[int, str] = {}  # of what is named, or held by something named
        self._owners: dict[int, tuple[Any, str]] = {}
        self._searched: set[int] = set()
        self._attributes: set[str] = set()
        self._scope = ""
        self._kept: list[Any] = []  # so that no other value reuses an id
        for function in functions:
            self._begin(function)
        self._run()

    def _begin(self, function: Callable[..., Any]) -> None:
        """Search one of the outermost functions, or an object that is called like one."""
        if not self._follow(function, getattr(function, "__name__", "function")):
            self._take(_backends.current().inlined(function), "self")

    def _run(self) -> None:
        """Search functions, outer ones first, then methods of the objects that they reach."""
        while True:
            while self._waiting:
                self._function(*self._waiting.popleft())
            for owner, place in [*self._owners.values()]:
                self._members(owner, place)
            if not self._waiting:
                return

    def _follow(self, value: Any, place: str, bound: _Bound = ()) -> bool:
        """Search a function, or what stands for one; returns whether it is one."""
        if _backends.current().is_compiled_apart(value):
            self.found.compiled.setdefault(place, value)
        value = _backends.current().inlined(value)
        if isinstance(value, partial):
            names = [*positional(value.func)]
            names += [str(index) for index in range(len(names), len(value.args))]
            given = [*zip(names, value.args, strict=False), *value.keywords.items()]
            if not self._follow(value.func, place, [*given, *bound]):
                self._take(value.func, f"{place}/func")
                self._take_all(given, place)
        elif isinstance(value, MethodType):
            first = next(iter(positional(value.__func__)), "self")
            self._follow(value.__func__, place, [(first, value.__self__), *bound])
        elif isinstance(value, BuiltinFunctionType | MethodWrapperType):
            if not isinstance(value.__self__, ModuleType | None):
                self._take(value.__self__, f"{place}/__self__")
        elif isinstance(value, staticmethod | classmethod):
            self._follow(value.__func__, place, bound)
        elif isinstance(value, FunctionType):
            self._wait_for(value, place, bound)
            self._follow_wrapped(value, place, bound)
        else:
            return self._follow_wrapped(value, place, bound)
        return True

    def _follow_wrapped(self, value: Any, place: str, bound: _Bound) -> bool:
        is_own = not isinstance(value, FunctionType) and is_own_class(value.__class__)
        wrapped = None if is_own else getattr(value, "__wrapped__", None)
        if wrapped is None or wrapped is value:
            return False
        return self._follow(wrapped, place, bound)

    def _wait_for(self, function: FunctionType, place: str, bound: _Bound) -> None:
        key = id(function), tuple((name, id(value)) for name, value in bound)
        if key in self._begun:
            return
        self._begun.add(key)
        self._kept += [function, bound]
        if is_own_file(function.__code__.co_filename):
            self._waiting.append((function, bound))
            return
        first = next(iter(positional(function)), "")
        for name, value in bound:  # a method of Keras, for instance
            self._take(value, f"{place}/{'__self__' if name == first else name}")
        names = function.__code__.co_freevars
        for name, cell in zip(names, function.__closure__ or (), strict=True):
            content = self.lookups.called(partial(content_of, cell))
            self._within(content, f"{place}/{name}")

    def _function(self, function: FunctionType, bound: _Bound) -> None:
        if function not in self.found.functions:
            self.found.functions.append(function)
        self._scope = function.__name__
        code = self.lookups.called(lambda: function.__code__)
        self._attributes |= names_in(code).attributes
        cells = dict(zip(code.co_freevars, function.__closure__ or (), strict=True))
        values = {**self._defaults(function), **dict(bound)}
        for read in reads(code):
            self._read(self._root(read, function, cells, values), read)
        self._take_all(bound)

    def _root(
        self,
        read: Read,
        function: FunctionType,
        cells: Mapping[str, CellType],
        values: Mapping[str, Any],
    ) -> Any:
        """Return the value of the name with which a read begins."""
        name = read.names[0]
        if read.origin:
            module, *names = read.origin
            if module.startswith("."):
                package = str(function.__globals__.get("__package__"))
                module = importlib.util.resolve_name(module, package)
            value = self.lookups.named(sys.modules, module)
            return self._attribute(value, names[0]) if names else value
        if read.root == "local":
            return values.get(name)
        if name in cells:
            return self.lookups.called(partial(content_of, cells[name]))
        return self.lookups.named(function.__globals__, name)

    def _defaults(self, function: FunctionType) -> dict[str, Any]:
        code = function.__code__
        by_place = self.lookups.called(lambda: function.__defaults__) or ()
        by_name = self.lookups.called(lambda: function.__kwdefaults__) or {}
        names = code.co_varnames[code.co_argcount - len(by_place) : code.co_argcount]
        return {**dict(zip(names, by_place, strict=True)), **by_name}

    def _read(self, value: Any, read: Read) -> None:
        """Take in the value of a name, and follow the attributes that are read from it."""
        place, *names = self._places.get(id(value), read.names[0]), *read.names[1:]
        is_of_layer = False
        for name in names:
            if not isinstance(value, ModuleType) and not is_of_layer:
                self._take(value, place)
            owner, value, place = value, self._attribute(value, name), f"{place}/{name}"
            is_of_layer = isinstance(owner, keras.Layer) and is_part_of_layer(value)
        if not is_of_layer:
            self._take(value, place)

    def _attribute(self, value: Any, name: str) -> Any:
        """Return an attribute that is simply there, without running code; else `None`."""
        if value is None:
            return None
        if isinstance(value, ModuleType):
            return self.lookups.named(vars(value), name) if is_users(value) else None
        kind: type = value if isinstance(value, type) else value.__class__
        if isinstance(kind, EnumType) and name in kind.__members__:
            return self.lookups.called(lambda: kind.__members__.get(name))
        if kind is not value:
            found = self.lookups.named(getattr(value, "__dict__", {}), name)
            if found is None and name in attributes_of(value):  # a slot
                found = self.lookups.called(lambda: getattr(value, name, None))
            if found is not None:
                is_setting = isinstance(found, PLAIN) and not is_users(kind)
                return None if is_setting else found
        for base in filter(is_own_class, kind.__mro__):
            found = self.lookups.named(names_of(base), name)
            if found is not None:
                return None if [*functions_of(found)] else found
        return None

    def _take_all(self, values: Iterable[tuple[str, Any]], place: str = "") -> None:
        for name, value in values:
            self._take(value, f"{place}/{name}" if place else name)

    def _take(self, value: Any, place: str) -> None:
        """Name a value, and search what it holds."""
        if isinstance(value, weakref.ref):
            value = self.lookups.called(value)
        elif isinstance(value, ContextVar):
            value = self.lookups.called(partial(value.get, None))
        if value is None or id(value) in self._places:
            return
        kind = kind_of(value.__class__)
        if kind in ("module", "class"):
            if is_users(value):
                self._own(value, place)
            if isinstance(value, EnumType):
                self._take(value.__members__, place)
            return
        if self.found.values.get(place, value) is not value:
            place = f"{self._scope}/{place}"
            while self.found.values.get(place, value) is not value:
                place = f"{place}~"
        self._kept.append(value)
        self.found.values[place] = value
        if kind != "plain":  # plain values may be one object by chance
            self._places[id(value)] = place
            self._search(value, place, is_named=True)

    def _within(self, value: Any, place: str) -> None:
        """Take in what an object of an installed package holds of the user's."""
        kind = kind_of(value.__class__)
        if kind == "function" or _backends.current().inlined(value) is not value:
            self._follow(value, place)
        elif kind in ("layer", "keras", "variable", "own"):
            self._take(value, place)
        elif kind in ("mapping", "sequence"):
            self._search(value, place)

    def _search(self, value: Any, place: str, is_named: bool = False) -> None:
        """Search an object for functions, and for objects with methods that may be called."""
        kind = kind_of(value.__class__)
        if kind in ("plain", "module", "class", "variable") or id(value) in self._searched:
            return
        if kind == "other" and _backends.current().as_keras_variable(value) is not None:
            return
        self._searched.add(id(value))
        self._kept.append(value)
        if is_own_class(value.__class__):
            self._own(value, place)
        if kind in ("mapping", "sequence", "own"):
            if not isinstance(value, tuple):  # what is in a tuple stays there
                self.lookups.held(partial(lasting, value, kind))
            for name, member in members_of(value, kind):
                self._search(member, f"{place}/{name}")
        elif kind in ("layer", "keras"):
            self._keras(value, place)
        elif kind in ("function", "other") and not self._follow(value, place) and is_named:
            for name, member in [*getattr(value, "__dict__", {}).items()]:
                self._within(member, f"{place}/{name}")

    def _keras(self, value: Any, place: str) -> None:
        """Search a Keras object: public attributes first, for the names."""
        is_layer, is_loss = isinstance(value, keras.Layer), isinstance(value, keras.losses.Loss)
        # What a layer holds is tracked with it, and the variables of an object within a loss.
        tracked = ("layer", "own") if is_layer else ("own",) if is_loss else ()
        held = vars(value)
        members = sorted(held.items(), key=lambda item: item[0][0] == "_")
        is_own = is_own_class(value.__class__)
        watched = [n for n, v in members if is_own or is_replaceable(n, v)]
        self.lookups.held(lambda: [*map(held.get, watched)])
        for name, member in members:
            kind = kind_of(member.__class__)
            if kind in ("layer", "own") and kind not in tracked:
                self._take(member, f"{place}/{name}")
            elif kind in ("mapping", "sequence"):
                if name[0] != "_" or holds_more(member):
                    self._search(member, f"{place}/{name}")
            elif kind in ("layer", "keras", "own") or (kind == "function" and leads_home(member)):
                self._search(member, f"{place}/{name}")

    def _own(self, owner: Any, place: str) -> None:
        self._places.setdefault(id(owner), place)
        self._owners.setdefault(id(owner), (owner, place))

    def _members(self, owner: Any, place: str) -> None:
        """Search what code may use of a module, class or object without naming its owner.

        They are methods that Python or a base class calls, and whatever has the name of an
        attribute that is read anywhere.
        """
        if isinstance(owner, ModuleType):
            for name in sorted(self._attributes & vars(owner).keys()):
                self._take(self.lookups.named(vars(owner), name), f"{place}/{name}")
            return
        kind: type = owner if isinstance(owner, type) else owner.__class__
        for base in filter(is_own_class, kind.__mro__):
            for name in sorted(vars(base).keys() & (self._attributes | called_by_bases(kind))):
                is_made = owner is not kind and name in ("__init__", "__new__")
                if is_made or name in self._skipped:
                    continue
                member = self.lookups.named(names_of(base), name)
                for method, is_bound in functions_of(member):
                    first = next(iter(positional(method)), "self")
                    first_value = kind if isinstance(member, classmethod) else owner
                    self._follow(method, place, [(first, first_value)] if is_bound else ())
                if not name.startswith("__") and not [*functions_of(member)]:
                    self._take(member, f"{place}/{name}")
