"""Values that were looked up, and where: to notice that one has been replaced."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any


class Lookups:
    """Looks values up, and tells later whether all of them are still the same objects."""

    def __init__(self) -> None:
        self._named: dict[tuple[int, str], tuple[Mapping[str, Any], str, Any]] = {}
        self._called: list[tuple[Callable[[], Any], Any]] = []
        self._held: list[tuple[Callable[[], Collection[Any]], list[int], list[Any]]] = []

    def named(self, holder: Mapping[str, Any], name: str) -> Any:
        """Return the value of a name; `None` if there is none."""
        key = id(holder), name
        if key not in self._named:
            self._named[key] = holder, name, holder.get(name)
        return self._named[key][2]

    def called(self, read: Callable[[], Any]) -> Any:
        """Return what a function without effects returns."""
        value = read()
        self._called.append((read, value))
        return value

    def held(self, read: Callable[[], Collection[Any]]) -> list[Any]:
        """Return all values in the collection that a function returns."""
        values = [*read()]
        self._held.append((read, [*map(id, values)], values))
        return values

    def are_same(self) -> bool:
        """Return whether the same lookups would give the same objects."""
        for holder, name, value in self._named.values():
            if holder.get(name) is not value:
                return False
        for read, value in self._called:
            if read() is not value:
                return False
        # Their identities are compared, since arrays and tensors have an equality of their own.
        return all([*map(id, read())] == ids for read, ids, _ in self._held)
