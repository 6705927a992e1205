"""What Python code reads: names, and the attributes that follow them."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import Literal, cast

_Root = Literal["outside", "local", "import"]

_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_CELLS = ("LOAD_DEREF", "LOAD_CLASSDEREF", "LOAD_FROM_DICT_OR_DEREF")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD", "LOAD_SUPER_ATTR")
_STORES = ("STORE_GLOBAL", "STORE_NAME", "STORE_DEREF")


@dataclass(frozen=True, slots=True)
class Read:
    """A name that code reads, with the attributes that follow it.

    Attributes:
        root: Where the name comes from: a closure or global, a parameter, or an `import` inside.
        names: The name and the attributes, as `("self", "model")`.
        origin: For an `import`, the module, with a dot for each level if it is relative, and the
            name in it, if any.
    """

    root: _Root
    names: tuple[str, ...]
    origin: tuple[str, ...] = ()


@lru_cache(maxsize=1024)
def reads(code: CodeType) -> tuple[Read, ...]:
    """Return what code reads, functions inside it included, in the order of the code."""
    return tuple(_Reader({*code.co_varnames, *code.co_cellvars}, set(), {}).of(code))


class _Reader:
    """Reads code in order.

    Args:
        own: Names of the outermost function.
        hidden: Names of functions inside it, whose values are not known.
        imported: What names were imported; filled on the way.
    """

    def __init__(
        self, own: set[str], hidden: set[str], imported: dict[str, tuple[str, ...]]
    ) -> None:
        self._own, self._hidden, self._imported = own, hidden, imported

    def of(self, code: CodeType) -> Iterator[Read]:
        read: Read | None = None
        constants: list[object] = []
        module, is_named, origin = "", False, ()
        cells = {*code.co_cellvars, *code.co_freevars}
        for operation, argument in _instructions(code):
            if operation in _ATTRIBUTES and read is not None:
                read = Read(read.root, (*read.names, str(argument)), read.origin)
                continue
            if read is not None:
                yield read
                read = None
            # Newer versions of Python have instructions for two variables at once.
            names: list[object] = [argument]
            if isinstance(argument, tuple) and "_FAST" in operation:
                names = [*cast(tuple[object, ...], argument)]
            if operation.startswith("STORE_"):
                stored = str(names.pop(0))
                if origin:
                    self._imported[stored], origin = origin, ()
            if operation in ("LOAD_CONST", "LOAD_SMALL_INT"):
                constants.append(argument)
                if isinstance(argument, CodeType):
                    yield from self._inside(argument)
            elif operation == "IMPORT_NAME":
                level, parts = constants[-2:]
                module, is_named = "." * int(str(level)) + str(argument), bool(parts)
                # `import a.b` binds `a`.
                origin = (module if is_named else module.partition(".")[0],)
            elif operation == "IMPORT_FROM":
                # `import a.b as c` takes `b` out of `a`: the module is the one named.
                origin = (module, str(argument)) if is_named else (module,)
            elif operation in _GLOBALS:
                read = Read("outside", (str(argument),))
            elif operation in _CELLS:
                read = self._of_name(str(argument))
            elif "LOAD_FAST" in operation:
                for name in map(str, names):
                    if read is not None:
                        yield read
                    # A cell itself is loaded to be given to a function inside, not to be read.
                    read = None if name in cells else self._of_name(name)
        if read is not None:
            yield read

    def _inside(self, code: CodeType) -> Iterator[Read]:
        """Read a function inside, whose own names hide those around it."""
        names = {*code.co_varnames, *code.co_cellvars} - {*code.co_freevars}
        reader = _Reader(self._own - names, self._hidden | names, self._imported)
        yield from reader.of(code)

    def _of_name(self, name: str) -> Read | None:
        if name in self._imported:
            return Read("import", (name,), self._imported[name])
        if name in self._hidden:
            return None
        return Read("local" if name in self._own else "outside", (name,))


@dataclass(frozen=True, slots=True)
class Names:
    """The names in code, functions inside it included.

    Attributes:
        outside: Globals and closures that it reads.
        attributes: Attributes that it reads, and what may be their names in strings.
        stored: Globals and closures that it sets.
    """

    outside: frozenset[str]
    attributes: frozenset[str]
    stored: frozenset[str]


@lru_cache(maxsize=1024)
def names_in(code: CodeType) -> Names:
    """Return the names in code, functions inside it included."""
    found: dict[tuple[str, ...], set[str]] = {kind: set() for kind in _KINDS}
    for operation, argument in instructions(code):
        for kind, names in found.items():
            if operation in kind:
                names.add(str(argument))
        if operation == "LOAD_CONST" and isinstance(argument, str) and argument.isidentifier():
            found[_ATTRIBUTES].add(argument)  # as in `getattr(trainer, "model")`
    return Names(*map(frozenset, found.values()))


_KINDS = (_GLOBALS + _CELLS, _ATTRIBUTES, _STORES)


def unpacked(code: CodeType, name: str) -> Iterator[list[str]]:
    """Yield the names that code sets each time it unpacks a variable, as in `x, y = batch`."""
    names: list[str] | None = None
    is_read = False
    for operation, argument in _instructions(code):
        if operation.startswith("UNPACK_") and (is_read or names is not None):
            names = names or []
        elif operation.startswith("STORE_") and names is not None:
            stored = (
                cast(tuple[object, ...], argument) if isinstance(argument, tuple) else [argument]
            )
            names += map(str, stored[:1] if operation.endswith("LOAD_FAST") else stored)
        elif names is not None:
            yield names
            names = None
        is_read = operation.startswith("LOAD_") and argument == name


def instructions(code: CodeType) -> Iterator[tuple[str, object]]:
    """Yield the name and the argument of each instruction, functions inside code included."""
    for operation, argument in _instructions(code):
        yield operation, argument
        if isinstance(argument, CodeType):
            yield from instructions(argument)


def _instructions(code: CodeType) -> Iterator[tuple[str, object]]:
    for instruction in dis.get_instructions(code):
        if instruction.opname != "EXTENDED_ARG":
            yield instruction.opname, instruction.argval
