# pyright: basic
"""State of a step outside variables: of objects that say what it is, and in attributes of objects.

It is state where steps run as Python code.
"""

from __future__ import annotations

import random
import weakref
from collections import deque
from collections.abc import Callable, Collection, Generator, Mapping, MutableMapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import keras
import numpy as np

from perigee import _backends
from perigee._backends._plain_state import NotPlainError, digest, from_plain, to_plain
from perigee._errors import CheckpointContentError

_W = TypeVar("_W")
_Names = Callable[[Any], MutableMapping[str, Any]]

_INTERNALS = "_perigee"
_FOUND = (
    keras.Variable,
    keras.random.SeedGenerator,
    keras.losses.Loss,
    keras.metrics.Metric,
    keras.optimizers.Optimizer,
    keras.Layer,
)
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_GENERATORS = (np.random.Generator, random.Random)
_SCALARS = (bool, int, float, complex, str, bytes, type(None), np.generic)

_found: dict[tuple[int, str], tuple[Any, Any]] = {}
"""By the `id` of an object, and a name in it: a reference to the object, and what stands for it."""


def kept(owner: Any, name: str, make: Callable[[Callable[[], Any]], _W]) -> _W:
    """Return what stands for an object, or for a name in it: the same each time."""
    key = id(owner), name
    found = _found.get(key)
    if found is None or found[0]() is not owner:
        try:
            refer: Any = weakref.ref(owner, lambda _: _found.pop(key, None))
        except TypeError:  # of a class with slots: it is kept
            refer = lambda: owner  # noqa: E731
        found = refer, make(refer)
        _found[key] = found
    return found[1]


class _Snapshot(np.ndarray):
    """A value that was read, with what is needed to restore it."""

    held: Any = None


def snapshot_of(value: np.ndarray, held: Any) -> _Snapshot:
    """Return a value that was read, with what is needed to restore it."""
    found = np.ndarray.__new__(_Snapshot, value.shape, value.dtype)
    found[...] = value
    found.held = held
    return found


class StateObject:
    """An object that says itself what its state is, in the interface of a variable.

    Its value is a digest, which tells whether the state has changed; a value that was read holds
    the state.

    Args:
        refer: Returns the object.
    """

    dtype, shape, trainable, value = "uint8", (32,), False, None
    name = path = "state"
    is_optional = False

    def __init__(self, refer: Callable[[], Any]) -> None:
        self._refer = refer

    @property
    def owner(self) -> Any:
        """The object."""
        return self._refer()

    def read(self) -> _Snapshot:
        """Return the digest of its state, with the state."""
        held = self._held()
        return snapshot_of(np.frombuffer(digest(held), np.uint8), held)

    def assign(self, value: Any) -> None:
        """Restore a state that was read; one that it still has is left alone."""
        if self.read().tobytes() != value.tobytes():
            self.load(value.held, {})

    def saved(self, path: str, keys: Mapping[int, str], only_tensors: bool = False) -> Any:
        """See the contract."""
        del keys, only_tensors
        with _named(path):
            return to_plain(self._state(), "", is_found)

    def of_tensors(self) -> Any:
        """See the contract: all of it."""
        return self

    def load(self, said: Any, keys: Mapping[int, str]) -> None:
        """See the contract."""
        del keys
        self._load(from_plain(said, self._state()))

    def _held(self) -> Any:
        return to_plain(self._state(), "", lambda value: not _is_plain(value))

    def _state(self) -> Any:
        return self.owner.state_dict()

    def _load(self, state: Any) -> None:
        self.owner.load_state_dict(state)


@dataclass(frozen=True, slots=True)
class _Held:
    """The attributes of an object.

    Attributes:
        plain: Those that are state, as plain values.
        others: Copies of containers that hold other objects.
        objects: All of them as they are.
    """

    plain: Mapping[str, Any]
    others: Mapping[str, Any]
    objects: Mapping[str, Any]


class Attributes(StateObject):
    """The attributes of an object that are its state: numbers, tensors, and containers of them.

    Those that no step has changed are not saved: they are as the program says.

    Args:
        refer: Returns the object.
        names: Returns, given the object, the mapping in which its attributes are stored.
        skipped: Names of attributes that are the framework's.
    """

    name = path = "attributes"
    is_optional = True

    def __init__(
        self, refer: Callable[[], Any], names: _Names, skipped: Collection[str] = ()
    ) -> None:
        super().__init__(refer)
        self._stored, self._skipped = names, skipped
        self._refused: dict[str, NotPlainError] = {}
        self._first = {name: _mark(value) for name, value in self._items().items()}
        self._first_objects = self._objects()
        self._changed: set[str] = set()

    def read(self) -> _Snapshot:
        """See `StateObject.read`."""
        now, plain, others = self._items(), {}, {}
        self._note_changed(now)
        for name, value in now.items():
            try:
                plain[name] = to_plain(value, name, is_found)
            except NotPlainError as error:
                others[name] = copy(value) if isinstance(value, _CONTAINERS) else value
                if name in self._changed:
                    self._refused[name] = error
        marks = {name: _mark(value) for name, value in others.items()}
        found = digest([plain, repr(marks)])
        return snapshot_of(np.frombuffer(found, np.uint8), _Held(plain, others, dict(self.stored)))

    def of_tensors(self) -> Any:
        """See `StateObject.of_tensors`."""
        return _OfTensors(self)

    def assign(self, value: Any) -> None:
        """Restore attributes that were read; not where an object was built beside them."""
        for name, old in self._replaced(value.held.objects).items():
            self.stored[name] = old
        now, held = self.read(), value.held
        if now.tobytes() == value.tobytes():
            return
        names, before = self.stored, held.objects
        built = [n for n, v in names.items() if not _is_plain(v) and before.get(n) is None]
        if any(name != _INTERNALS for name in built):
            return
        here = self._items()
        for name in here.keys() - before.keys():
            if not _has_built(here[name], None):
                del names[name]
        for name, plain in held.plain.items():
            is_same = name in here and digest(now.held.plain.get(name, _OBJECTS)) == digest(plain)
            if not is_same and not _has_built(here.get(name), before[name]):
                _set(names, name, from_plain(plain, before[name]), before[name])
        for name, other in held.others.items():
            is_same = _mark(here.get(name)) == _mark(other)
            if not is_same and not _has_built(here.get(name), other):
                _set(names, name, other, before[name])

    def saved(self, path: str, keys: Mapping[int, str], only_tensors: bool = False) -> Any:
        """See `StateObject.saved`."""
        del keys
        now = self._items()
        self._note_changed(now)
        for name in self._replaced(self._first_objects):  # as the step says, not the program
            attributes(self.stored[name], vars).note_all_changed()
        changed = [name for name in now if name in self._changed]
        if only_tensors:
            changed = [name for name in changed if _backends.current().is_tensor(now[name])]
        found: dict[str, Any] = {}
        refused: list[NotPlainError] = []
        for name in changed:
            try:
                if name in self._refused:
                    raise self._refused[name]
                found[name] = to_plain(now[name], name, is_found)
            except NotPlainError as error:
                refused.append(error)
        for error in refused:
            with _named(path, found or None):
                raise error
        return found or None

    def load(self, said: Any, keys: Mapping[int, str]) -> None:
        """See `StateObject.load`."""
        del keys
        if not isinstance(said, dict):
            raise ValueError("it is no state")
        names = self.stored
        for name, plain in said.items():
            if name in self._items() or (name not in names and not hasattr(self.owner, name)):
                known = names.get(name)
                _set(names, name, from_plain(plain, known), known)
                self._changed.add(name)

    def _objects(self) -> dict[str, Any]:
        return {n: v for n, v in self.stored.items() if not _is_plain(v) and hasattr(v, "__dict__")}

    def _replaced(self, before: Mapping[str, Any]) -> dict[str, Any]:
        """Return the objects of before whose places others of their class have, with no variables.

        Such as a frozen dataclass of tensors.
        """
        names = self.stored
        return {
            name: old
            for name, old in before.items()
            if names.get(name) is not old
            and not _is_plain(old)
            and type(names.get(name)) is type(old)
            and not _holds_variables(names[name])
        }

    def note_all_changed(self) -> None:
        """Take note that no attribute is as the program says."""
        self._changed.update(self._items())

    def _note_changed(self, now: Mapping[str, Any]) -> None:
        for name in now.keys() - self._changed:
            if name not in self._first or self._first[name] != _mark(now[name]):
                self._changed.add(name)

    @property
    def stored(self) -> MutableMapping[str, Any]:
        """Where the attributes are stored."""
        return self._stored(self.owner)

    def _items(self) -> dict[str, Any]:
        held = self.stored.items()
        return {n: value for n, value in held if _is_plain(value) and n not in self._skipped}


class _OfTensors(StateObject):
    """Tensors and random generators in attributes, in the interface of a variable."""

    def __init__(self, attributes: Attributes) -> None:
        super().__init__(lambda: attributes.owner)
        self.attributes = attributes

    def read(self) -> _Snapshot:
        return self.attributes.read()

    def assign(self, value: Any) -> None:
        now, held = self.attributes.read().held, value.held
        names = self.attributes.stored
        for name, plain in held.plain.items():
            before = held.objects[name]
            is_state = _backends.current().is_tensor(before) or isinstance(before, _GENERATORS)
            if is_state and digest(now.plain.get(name, _OBJECTS)) != digest(plain):
                _set(names, name, from_plain(plain, before), before)


_OBJECTS = {"~kept": None}
"""What stands for a container of objects."""


def _has_built(now: Any, before: Any) -> bool:
    """Return whether a container has an object with variables that it had not: that stays."""
    known = {id(item) for item in _inside(before)}
    return any(_holds_variables(item) for item in _inside(now) if id(item) not in known)


def _holds_variables(value: Any, levels: int = 4) -> bool:
    if is_found(value) or type(value).__module__.partition(".")[0] == "perigee":
        return True
    return levels > 0 and any(_holds_variables(item, levels - 1) for item in _inside(value))


def _inside(value: Any) -> list[Any]:
    """Return what a container or an object holds."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, _CONTAINERS):
        return list(value)
    is_object = not _backends.current().is_tensor(value) and hasattr(value, "__dict__")
    return list(vars(value).values()) if is_object else []


def _set(names: MutableMapping[str, Any], name: str, value: Any, known: Any) -> None:
    """Set an attribute to a value: in the object that was there, which others may hold."""
    if _backends.current().is_tensor(value):
        known = _backends.current().put(known, value)
    elif isinstance(value, np.ndarray) and _alike(known, value) and known.flags.writeable:
        known[...] = value
    elif isinstance(value, list | deque) and type(known) is type(value):
        known.clear()
        known.extend(value)
    elif isinstance(value, dict | set) and type(known) is type(value):
        known.clear()
        known.update(value)
    else:
        known = value
    names[name] = known


def _alike(one: Any, other: Any) -> bool:
    return type(one) is type(other) and all(
        getattr(one, name, None) == getattr(other, name, None) for name in ("shape", "dtype")
    )


@contextmanager
def _named(path: str, rest: Any = None) -> Generator[None]:
    try:
        yield
    except NotPlainError as error:
        whole = "/".join(part for part in (path, error.path) if part)
        fix = (
            "return the numbers from which it can be rebuilt from `host_state(self)` of the Step, "
            "and rebuild it in `load_host_state(self, state)`; of an object with `state_dict`, "
            "return them from there."
        )
        raise CheckpointContentError(whole, f"is a {error.kind}", fix, rest) from error


def _is_plain(value: Any) -> bool:
    """Return whether a value may be a state itself: not a model, nor another object."""
    plain = (*_SCALARS, *_CONTAINERS, *_GENERATORS, np.ndarray)
    return isinstance(value, plain) or _backends.current().is_tensor(value)


def is_found(value: Any) -> bool:
    """Return whether the state of an object is found by itself, wherever it is."""
    return isinstance(value, _FOUND) or _backends.current().is_found(value) or has_state(value)


def has_state(value: Any) -> bool:
    """Return whether an object says what its state is, and takes it back."""
    kind = type(value)
    return all(callable(getattr(kind, name, None)) for name in ("state_dict", "load_state_dict"))


def _mark(value: Any) -> Any:
    """Return what tells whether a value has changed, without copying tensors."""
    if _backends.current().is_tensor(value):
        return _backends.current().mark(value)
    try:
        return digest(to_plain(value, "", is_found))
    except NotPlainError:
        return tuple(map(id, value.values() if isinstance(value, dict) else value))


# The contract.


def state_object(value: Any) -> StateObject | None:
    """See `Backend.state_object`."""
    return kept(value, "", StateObject) if has_state(value) else None


def attributes(owner: Any, names: _Names) -> Attributes:
    """See `Backend.attributes`."""
    return kept(owner, "", lambda refer: Attributes(refer, names))
