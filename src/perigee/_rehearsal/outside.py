"""Values that the code of a method reads from outside: in compiled code they are constant."""

from __future__ import annotations

from collections import ChainMap, Counter
from collections.abc import Collection, Mapping
from functools import lru_cache
from types import CodeType, FunctionType
from typing import Any

from perigee._step.bytecode import instructions, names_in
from perigee._step.own_code import content_of
from perigee._step.reached import Reach


class NumbersOutside:
    """The numbers that a method reads but does not set itself.

    They include numbers read by functions that it calls: other methods, and functions that are
    attributes or have a name.

    Args:
        holder: The object.
        method: The name of its method.
    """

    def __init__(self, holder: Any, method: str) -> None:
        self._reach = Reach([getattr(holder, method)])

    def now(self) -> dict[str, float]:
        """Return the current numbers by name."""
        found: dict[str, float] = {}
        for function in self._reach.now().functions:
            names = names_in(function.__code__)
            around = _around(function)
            own = {*names.stored, *function.__code__.co_cellvars}  # also for functions inside it
            found |= {
                f"{name} ({function.__qualname__})": around[name]
                for name in names.outside - own
                if isinstance(around.get(name), int | float)
            }
        return found


def used_attributes(holder: Any, method: str, names: Collection[str]) -> list[str]:
    """Return the attributes that a method, or a function that it calls, reads for more than `+=`.

    Args:
        holder: The object.
        method: The name of its method.
        names: The attributes in question.
    """
    uses: Counter[str] = Counter()
    for function in Reach([getattr(holder, method)]).now().functions:
        for operation, argument in instructions(function.__code__):
            if argument in names and operation in ("LOAD_ATTR", "STORE_ATTR"):
                uses[str(argument)] += 1 if operation == "LOAD_ATTR" else -1
    return sorted(name for name, count in uses.items() if count > 0)


def makes_unseeded_generators(holder: Any, method: str) -> bool:
    """Return whether a method, or a function that it calls, calls NumPy's `default_rng()` unseeded.

    Args:
        holder: The object.
        method: The name of its method.
    """
    functions = Reach([getattr(holder, method)]).now().functions
    return any(_calls_default_rng(function.__code__) for function in functions)


@lru_cache(maxsize=256)
def _calls_default_rng(code: CodeType) -> bool:
    is_asked = False
    for operation, argument in instructions(code):
        if operation == "CALL":
            if is_asked and argument == 0:
                return True
            is_asked = False
        elif operation not in ("CACHE", "PRECALL", "PUSH_NULL"):
            is_asked = argument == "default_rng"
    return False


def _around(function: FunctionType) -> Mapping[str, Any]:
    cells = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True))
    contents = {name: content_of(cell) for name, cell in cells.items()}
    return ChainMap(contents, function.__globals__)
