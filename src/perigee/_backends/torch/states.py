# pyright: basic
"""torch's own state: parameters, buffers, optimizers, schedulers, and attributes of objects."""

from __future__ import annotations

import random
import weakref
from collections import deque
from collections.abc import Callable, Generator, Mapping, MutableMapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any, TypeVar

import keras
import numpy as np
import torch

from perigee._backends import _alone
from perigee._backends.torch.plain_state import (
    NotPlainError,
    array_of,
    digest,
    from_plain,
    tensor_of,
    to_plain,
)
from perigee._errors import CheckpointContentError
from perigee._typing import Batch, Tensor

_W = TypeVar("_W")
_Names = Callable[[Any], MutableMapping[str, Any]]

_INTERNALS = "_perigee"
OF_MODULES = frozenset(vars(torch.nn.Module())) - {"training"}
"""What every module holds."""
_FOUND = (
    torch.nn.Module,
    torch.nn.Parameter,
    keras.Variable,
    keras.random.SeedGenerator,
    keras.losses.Loss,
    keras.metrics.Metric,
    keras.optimizers.Optimizer,
)
_CONTAINERS = (list, tuple, dict, set, frozenset, deque)
_GENERATORS = (np.random.Generator, random.Random)
_SCALARS = (bool, int, float, complex, str, bytes, type(None), np.generic)

_found: dict[tuple[int, str], tuple[Any, Any]] = {}
"""By the `id` of an object, and a name in it: a reference to the object, and what stands for it."""


def _kept(owner: Any, name: str, make: Callable[[Callable[[], Any]], _W]) -> _W:
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


def _snapshot(value: np.ndarray, held: Any) -> _Snapshot:
    found = np.ndarray.__new__(_Snapshot, value.shape, value.dtype)
    found[...] = value
    found.held = held
    return found


class TensorVariable:
    """The interface of a Keras variable for a parameter.

    Args:
        refer: Returns the parameter.
    """

    def __init__(self, refer: Callable[[], Any]) -> None:
        self.name = self.path = "parameter"
        self._refer = refer

    @property
    def value(self) -> Tensor:
        """The tensor."""
        return self._refer()

    @property
    def kind(self) -> str:
        """Its role in a Step."""
        return "trainable" if self.trainable else "non_trainable"

    @property
    def trainable(self) -> bool:
        """Whether gradients are computed for it."""
        return self.value.requires_grad

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.value.shape)

    @property
    def dtype(self) -> str:
        """The name of its dtype."""
        return keras.backend.standardize_dtype(self.value.dtype)

    def assign(self, value: Any) -> Any:
        """Assign a value, in place."""
        value = value if isinstance(value, torch.Tensor) else tensor_of(np.asarray(value))
        with torch.no_grad():
            self.value.copy_(value)
        return value

    def read(self) -> np.ndarray:
        """Return its value on the host."""
        return array_of(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(array_of(self.value), dtype=dtype, copy=copy or None)


class BufferVariable(TensorVariable):
    """The interface of a Keras variable for a buffer: any tensor that is in its place.

    Args:
        refer: Returns the module.
        name: The name of the buffer.
    """

    def __init__(self, refer: Callable[[], Any], name: str) -> None:
        super().__init__(refer)
        self.name = self.path = name

    @property
    def trainable(self) -> bool:
        """Whether gradients are computed for it: a buffer is no parameter."""
        return False

    @property
    def value(self) -> Tensor:
        """The tensor."""
        return self._refer()._buffers[self.name]

    def assign(self, value: Any) -> Any:
        """Assign a value: in the tensor that it was read from, which is again in its place."""
        known = getattr(value, "held", None)
        if known is not None and known is not self.value:
            self._refer()._buffers[self.name] = known
        return super().assign(value)

    def read(self) -> np.ndarray:
        """Return its value on the host, with the tensor."""
        return _snapshot(super().read(), self.value)


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
        return _snapshot(np.frombuffer(digest(held), np.uint8), held)

    def assign(self, value: Any) -> None:
        """Restore a state that was read; one that it still has is left alone."""
        if self.read().tobytes() != value.tobytes():
            self.load(value.held)

    def saved(self, path: str, only_tensors: bool = False) -> Any:
        """Return the state as plain values and arrays; `None` if there is nothing to save.

        Args:
            path: The attribute path of the object, for errors.
            only_tensors: Whether the user saves the Python values in attributes.

        Raises:
            CheckpointContentError: If it holds other objects.
        """
        del only_tensors
        with _named(path):
            return to_plain(self._state(), "", _is_found)

    def of_tensors(self) -> Any:
        """See the contract: all of it."""
        return self

    def load(self, said: Any) -> None:
        """Restore what `saved` returned, here or in another process.

        Raises:
            ValueError: If it is no such state.
        """
        state, owner = from_plain(said, self._state()), self.owner
        if not isinstance(owner, torch.Generator):
            owner.load_state_dict(state)

    def _held(self) -> Any:
        return to_plain(self._state(), "", lambda value: not _is_plain(value))

    def _state(self) -> Any:
        owner = self.owner
        return owner if isinstance(owner, torch.Generator) else owner.state_dict()


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
    """

    name = path = "attributes"
    is_optional = True

    def __init__(self, refer: Callable[[], Any], names: _Names) -> None:
        super().__init__(refer)
        self._stored = names
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
                plain[name] = to_plain(value, name, _is_found)
            except NotPlainError as error:
                others[name] = copy(value)
                if name in self._changed:
                    self._refused[name] = error
        marks = {name: _mark(value) for name, value in others.items()}
        found = digest([plain, marks])
        return _snapshot(np.frombuffer(found, np.uint8), _Held(plain, others, dict(self.stored)))

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

    def saved(self, path: str, only_tensors: bool = False) -> Any:
        """See `StateObject.saved`."""
        now = self._items()
        self._note_changed(now)
        for name in self._replaced(self._first_objects):  # as the step says, not the program
            attributes(self.stored[name], vars)._note_all_changed()
        changed = [name for name in now if name in self._changed]
        if only_tensors:
            changed = [name for name in changed if isinstance(now[name], torch.Tensor)]
        found: dict[str, Any] = {}
        refused: list[NotPlainError] = []
        for name in changed:
            try:
                if name in self._refused:
                    raise self._refused[name]
                found[name] = to_plain(now[name], name, _is_found)
            except NotPlainError as error:
                refused.append(error)
        for error in refused:
            with _named(path, found or None):
                raise error
        return found or None

    def load(self, said: Any) -> None:
        """See `StateObject.load`."""
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

    def _note_all_changed(self) -> None:
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
        owner = self.owner
        skipped = OF_MODULES if isinstance(owner, torch.nn.Module) else ()
        held = self.stored.items()
        return {name: value for name, value in held if _is_plain(value) and name not in skipped}


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
            is_state = isinstance(before, (torch.Tensor, *_GENERATORS))
            if is_state and digest(now.plain.get(name, _OBJECTS)) != digest(plain):
                _set(names, name, from_plain(plain, before), before)


_OBJECTS = {"~kept": None}
"""What stands for a container of objects."""


def _has_built(now: Any, before: Any) -> bool:
    """Return whether a container has an object with variables that it had not: that stays."""
    known = {id(item) for item in _inside(before)}
    return any(_holds_variables(item) for item in _inside(now) if id(item) not in known)


def _holds_variables(value: Any, levels: int = 4) -> bool:
    if _is_found(value) or type(value).__module__.partition(".")[0] == "perigee":
        return True
    return levels > 0 and any(_holds_variables(item, levels - 1) for item in _inside(value))


def _inside(value: Any) -> list[Any]:
    """Return what a container or an object holds."""
    if isinstance(value, dict):
        return list(value.values())
    if isinstance(value, _CONTAINERS):
        return list(value)
    is_object = not isinstance(value, torch.Tensor) and hasattr(value, "__dict__")
    return list(vars(value).values()) if is_object else []


def _set(names: MutableMapping[str, Any], name: str, value: Any, known: Any) -> None:
    """Set an attribute to a value: in the object that was there, which others may hold."""
    if isinstance(value, torch.Tensor) and _alike(known, value):
        with torch.no_grad():
            known.copy_(value)
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
        getattr(one, name, None) == getattr(other, name, None)
        for name in ("shape", "dtype", "device")
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
    if isinstance(value, torch.Tensor):
        return not isinstance(value, torch.nn.Parameter)
    return isinstance(value, (*_SCALARS, *_CONTAINERS, *_GENERATORS, np.ndarray))


def _is_found(value: Any) -> bool:
    """Return whether the state of an object is found by itself, wherever it is."""
    return isinstance(value, _FOUND) or _has_state(value)


def _has_state(value: Any) -> bool:
    kind = type(value)
    return all(callable(getattr(kind, name, None)) for name in ("state_dict", "load_state_dict"))


def _mark(value: Any) -> Any:
    """Return what tells whether a value has changed, without copying tensors."""
    if isinstance(value, torch.Tensor):
        return id(value), value._version
    try:
        return digest(to_plain(value, "", _is_found))
    except NotPlainError:
        return tuple(map(id, value.values() if isinstance(value, dict) else value))


# The contract.


def as_keras_variable(value: Any) -> TensorVariable | None:
    """See `Backend.as_keras_variable`: parameters, and buffers as `content` returns them."""
    if isinstance(value, TensorVariable):
        return value
    if not isinstance(value, torch.nn.Parameter) or torch.nn.parameter.is_lazy(value):
        return None
    return _kept(value, "", TensorVariable)


def is_container(kind: type) -> bool:
    """See `Backend.is_container`."""
    return issubclass(kind, torch.nn.Module)


def content(value: Any) -> Mapping[str, Any]:
    """See `Backend.content`."""
    modules = dict(value._modules)
    if isinstance(value, keras.Layer):
        modules.pop("_torch_params", None)  # what its variables are made of, or once were
    return {
        **value._parameters,
        **_buffers(value),
        **modules,
        **{k: v for k, v in vars(value).items() if k not in OF_MODULES},
    }


def _buffers(module: Any) -> dict[str, BufferVariable]:
    """Return what stands for the buffers of a module; those of lazy ones have no values yet."""
    held = module._buffers.items()
    names = [k for k, v in held if v is not None and not torch.nn.parameter.is_lazy(v)]
    return {k: _kept(module, k, lambda refer, k=k: BufferVariable(refer, k)) for k in names}


def variables_of(module: Any) -> list[TensorVariable]:
    """Return what stands for the parameters and buffers of a module itself."""
    parameters = map(as_keras_variable, module._parameters.values())
    return [v for v in parameters if v is not None] + list(_buffers(module).values())


def read(variable: Any) -> np.ndarray:
    """See `Backend.read`."""
    if isinstance(variable, TensorVariable | StateObject):
        return variable.read()
    return _alone.read(variable)


def state_object(value: Any) -> StateObject | None:
    """See `Backend.state_object`."""
    if isinstance(value, torch.Generator) or (
        not isinstance(value, torch.nn.Module) and _has_state(value)
    ):
        return _kept(value, "", StateObject)
    return None


def attributes(owner: Any, names: _Names) -> Attributes:
    """See `Backend.attributes`."""
    return _kept(owner, "", lambda refer: Attributes(refer, names))


def objects_in(value: Any) -> Mapping[str, Any]:
    """See `Backend.objects_in`: parameters in optimizers, and what schedulers refer to."""
    if isinstance(value, torch.optim.Optimizer):
        groups = value.param_groups
        return {f"{i}/{j}": p for i, g in enumerate(groups) for j, p in enumerate(g["params"])}
    if isinstance(value, torch.nn.Module) or not _has_state(value):
        return {}
    held = getattr(value, "__dict__", {})
    return {name: v for name, v in held.items() if _is_found(v) or _holds_found(v)}


def _holds_found(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(map(_is_found, value))


def copied(batch: Batch) -> Batch:
    """See `Backend.copied`: steps may change a tensor in place, which a loader may still hold."""
    return keras.tree.map_structure(
        lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, batch
    )
