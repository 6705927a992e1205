"""What of a Keras callback survives a restart.

A callback's attributes are what its program says, and what training made of that. Only the latter
is stored: attributes that differ from those when `fit` was called, or from those that
`on_train_begin` sets. What the program says always holds: no argument of the class is restored,
nor text, which might name a file.
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import suppress
from pathlib import PurePath
from typing import Any

import numpy as np

from perigee import _backends
from perigee._events.stored_shapes import loading
from perigee._events.stored_values import (
    NotStorableError,
    Room,
    Tensors,
    digest,
    is_without_factory,
    rebuilt,
    stored,
)
from perigee._step.bytecode import instructions
from perigee._step.state import Tracked

_NOT_OF_THE_STEP = (
    "it has a state of its own, which is saved where the Step holds it: set it as an attribute of "
    "the Step, too"
)
_UNREADABLE = "what the checkpoint holds of it cannot be read"
_OF_EVERY_CALLBACK = ("_model", "params")
_CONTAINERS = (list, tuple, set, frozenset, deque, dict)
_NUMBERS = (int, float, complex, np.number, np.ndarray)
_NOT_USERS = frozenset(
    {"keras", "tensorflow", "torch", "jax", "jaxlib", "numpy", "perigee", *sys.stdlib_module_names}
) - {"abc", "typing"}


class KeptCallback:
    """What of one callback survives a restart.

    Args:
        callback: The callback, before training begins.
        tracked: Returns what the Step holds.
    """

    def __init__(self, callback: Any, tracked: Callable[[], Tracked] | None = None) -> None:
        self._callback, self._tracked = callback, tracked
        self.name = type(callback).__qualname__
        self._arguments = _arguments(type(callback))
        own = vars(callback)
        self._plain_arguments = {
            name: own[name]
            for name in sorted(self._arguments & own.keys())
            if type(own[name]) in (bool, int, float, str)
        }
        self._at_call = self._digests()
        self._at_begin: Mapping[str, str] = {}
        self._objects_at_begin: Mapping[str, bytes] = {}
        self._restored: set[str] = set()
        self.left_out: dict[str, str] = {}
        """Why an attribute, by name, begins afresh when the run is resumed."""

    @property
    def arguments(self) -> str:
        """A checksum of the arguments that the class was called with, of those that are plain."""
        return digest(self._plain_arguments)

    @property
    def stops(self) -> bool:
        """Whether its class has a method that may stop the training."""
        return "stop_training" in _assigned(type(self._callback))

    def begin(self) -> None:
        """Take note of what `on_train_begin` has just set."""
        self._at_begin = self._digests()
        self._objects_at_begin = self._objects()

    def state(self, room: Room) -> dict[str, Any]:
        """Return what must survive, as plain values and arrays.

        Args:
            room: How much text there may be.
        """
        said = {"class": self.name, "arguments": self.arguments}
        if self._has_state:
            try:
                tensors = _backends.current().tensors_to_store(())
                return {**said, "state": stored(self._callback.state(), room, tensors)}
            except NotStorableError as error:
                self.left_out["state()"] = f"it {error}"
                return said
        attributes = dict(self._changed(room))
        for name, now in self._objects().items():
            if now != self._objects_at_begin.get(name):
                self.left_out[name] = _NOT_OF_THE_STEP
        return {**said, "attributes": attributes}

    def _changed(self, room: Room) -> Generator[tuple[str, Any]]:
        """Yield the attributes that training has changed, and note those that cannot be kept."""
        tensors = self._tensors()
        for name, value in self._own():
            now, reason = self._digest(name, value, tensors), self._why_not(name, value)
            is_changed = now != self._at_begin.get(name)
            if not is_changed and now == self._at_call.get(name) and name not in self._restored:
                continue
            if reason is None:
                taken = room.taken
                try:
                    yield name, stored(value, room, tensors)
                except NotStorableError as error:
                    room.taken, reason = taken, f"it {error}"
            # What `on_train_begin` has made it makes again; so do Keras's own classes.
            if reason and is_changed and name not in _names_of_keras(type(self._callback)):
                self.left_out[name] = reason

    def _why_not(self, name: str, value: Any) -> str | None:
        """Return why an attribute is never restored; `None` where it is."""
        if name in self._arguments:
            return "it is an argument of the class, and those are what the program says"
        return "it is text, which might name a file" if _is_text(value) else None

    def restore(self, said: Any) -> None:
        """Restore what `state` returned, or what it returned before kinds were stored.

        Args:
            said: An entry of a checkpoint, of the same class.
        """
        if self._has_state:
            if "state" in said:
                try:
                    value = rebuilt(said["state"])
                except (ValueError, RecursionError):
                    self.left_out["state()"] = _UNREADABLE
                    return
                with loading(f"{self.name}.load_state"):
                    self._callback.load_state(value)
            return
        is_old = "arguments" not in said
        for name, value in said.get("attributes", {}).items():
            try:
                has_own_factory = not is_old and is_without_factory(value)
                self._restore(name, value if is_old else rebuilt(value), has_own_factory)
            except (ValueError, RecursionError):
                self.left_out[name] = _UNREADABLE

    def _restore(self, name: str, value: Any, needs_factory: bool) -> None:
        kind, own = type(self._callback), vars(self._callback)
        if name in _OF_EVERY_CALLBACK or self._why_not(name, value):
            return
        if name not in own and name not in _assigned(kind):
            return
        now = own[name] if name in own else inspect.getattr_static(kind, name, None)
        if not _fits(now, value, needs_factory):
            kinds = type(value).__name__, type(now).__name__
            self.left_out[name] = "it is of type {} in the checkpoint, and {} now".format(*kinds)
            return
        self._restored.add(name)
        own[name] = _like(now, value)

    @property
    def _has_state(self) -> bool:
        kind = type(self._callback)
        return all(callable(getattr(kind, name, None)) for name in ("state", "load_state"))

    def _own(self) -> list[tuple[str, Any]]:
        return [
            (k, v) for k, v in list(vars(self._callback).items()) if k not in _OF_EVERY_CALLBACK
        ]

    def _digests(self) -> dict[str, str]:
        own, tensors = [] if self._has_state else self._own(), self._tensors()
        return {name: self._digest(name, value, tensors) for name, value in own}

    def _tensors(self) -> Tensors:
        variables = () if self._tracked is None else self._tracked().variables
        return _backends.current().tensors_to_store(variables)

    def _objects(self) -> dict[str, bytes]:
        """Return the states of what has one, such as a scheduler of torch, and no Step holds."""
        backend = _backends.current()
        states = {name: backend.state_object(value) for name, value in self._own()}
        found = {name: state for name, state in states.items() if state is not None}
        if not found or self._tracked is None:
            return {}
        held = {id(state) for state in self._tracked().objects.values()}
        return {n: backend.read(s).tobytes() for n, s in found.items() if id(s) not in held}

    def _digest(self, name: str, value: Any, tensors: Tensors) -> str:
        """Return what tells whether an attribute has changed."""
        if name in self._arguments and not isinstance(value, (*_NUMBERS, str)):
            return _identity(value, is_own=False)
        try:
            return digest(stored(value, Room(), tensors))
        except NotStorableError:
            return _identity(value, is_own=True)


def matched(callbacks: Sequence[KeptCallback], entries: Any) -> list[tuple[KeptCallback, Any]]:
    """Return each callback with its entry in a checkpoint, for those that have one.

    They are matched by class: first those with the same arguments, and then by order.

    Args:
        callbacks: The callbacks.
        entries: What a checkpoint holds of callbacks.
    """
    saved = [entry for entry in map(_entry, entries) if entry is not None]
    pairs: list[tuple[KeptCallback, Any]] = []
    waiting = list(callbacks)
    for is_same in (
        lambda one, entry: entry.get("arguments") == one.arguments,
        lambda one, entry: True,
    ):
        for callback in list(waiting):
            for entry in saved:
                if entry["class"] == callback.name and is_same(callback, entry):
                    pairs.append((callback, entry))
                    saved.remove(entry)
                    waiting.remove(callback)
                    break
    return pairs


def _entry(said: Any) -> Any:
    """Return an entry of a checkpoint; `None` if it is none."""
    if isinstance(said, list) and len(said) == 2:  # as it was before kinds were stored
        return _entry({"class": said[0], "attributes": said[1]})
    if not isinstance(said, dict) or not isinstance(said.get("class"), str):
        return None
    return said if isinstance(said.get("attributes", {}), dict) else None


def _identity(value: Any, is_own: bool) -> str:
    """Return what tells whether a value that cannot be stored is still the same.

    A container is the same if it still holds the same objects.

    Args:
        value: The value.
        is_own: Whether its attributes tell as well, where it is of a user's own class.
    """
    inner: list[Any] = []
    if isinstance(value, Mapping):
        inner = [id(item) for pair in list(value.items()) for item in pair]
    elif isinstance(value, _CONTAINERS):
        inner = list(map(id, list(value)))
    elif is_own and _is_users(value):
        for name, held in list(vars(value).items()):
            try:
                inner.append([name, digest(stored(held, Room()))])
            except NotStorableError:
                inner.append([name, id(held)])
    return digest([type(value).__name__, id(value), inner])


def _is_users(value: Any) -> bool:
    """Tell whether an object with attributes is of a class that a user wrote."""
    names = {kind.__module__.partition(".")[0] for kind in type(value).__mro__[:-1]}
    return isinstance(getattr(value, "__dict__", None), dict) and not names & _NOT_USERS


def _is_text(value: Any) -> bool:
    return isinstance(value, str | bytes | bytearray | PurePath)


def _fits(now: Any, value: Any, needs_factory: bool) -> bool:
    """Tell whether a stored value may take the place of an attribute, by their types."""
    if needs_factory:
        return isinstance(now, defaultdict)
    if now is None or type(now) is type(value):
        return True
    if value is None:
        return _is_numeric(now) or isinstance(now, (np.bool_, *_CONTAINERS))
    if isinstance(now, bool | np.bool_) or isinstance(value, bool | np.bool_):
        return isinstance(now, bool | np.bool_) and isinstance(value, bool | np.bool_)
    if _is_numeric(now) and _is_numeric(value):
        return True
    return isinstance(now, dict) and type(value) is dict  # before kinds were stored


def _is_numeric(value: Any) -> bool:
    return isinstance(value, _NUMBERS) or _backends.current().is_tensor(value)


def _like(now: Any, value: Any) -> Any:
    """Return a stored value with what the program says of an attribute: factory, length, kind."""
    if isinstance(now, deque):
        return value if value is None else deque(value, now.maxlen)
    if isinstance(now, dict) and isinstance(value, dict):
        like = now.copy()
        like.clear()
        like.update(value)
        return like
    return value


# What is known of a class.


@functools.lru_cache(256)
def _arguments(kind: type) -> frozenset[str]:
    """Return the parameters of `__init__`, of the class and of those it derives from."""
    found: set[str] = set()
    for one in kind.__mro__[:-1]:
        if "__init__" in vars(one):
            with suppress(ValueError, TypeError):  # it has none that can be read
                found |= inspect.signature(vars(one)["__init__"]).parameters.keys()
    return frozenset(found)


@functools.lru_cache(256)
def _assigned(kind: type) -> frozenset[str]:
    """Return the attributes that the methods of a class assign, on whatever object."""
    return frozenset(name for one in kind.__mro__[:-1] for name in _assigned_in(one))


@functools.lru_cache(256)
def _names_of_keras(kind: type) -> frozenset[str]:
    """Return the attributes that Keras's own classes assign, or take as arguments."""
    kinds = [one for one in kind.__mro__[:-1] if one.__module__.partition(".")[0] == "keras"]
    assigned = frozenset(name for one in kinds for name in _assigned_in(one))
    return assigned.union(*(_arguments(one) for one in kinds))


def _assigned_in(kind: type) -> Generator[str]:
    for method in vars(kind).values():
        if isinstance(method, staticmethod | classmethod):
            method = method.__func__
        if isinstance(method, property):
            method = method.fget
        if inspect.isfunction(method):
            code = getattr(inspect.unwrap(method), "__code__", None)
            found = () if code is None else instructions(code)
            yield from (str(name) for operation, name in found if operation == "STORE_ATTR")
