"""Python values as lists, strings, numbers and arrays, with what it takes to rebuild them exactly.

JSON knows neither tuples nor sets, nor dicts with other keys than strings. Such a value is written
as a dict with its kind: `{"is": "tuple", "of": [1, 2]}`. Nothing is imported or called by a name
that was stored: kinds, and the factories of a `defaultdict`, are looked up in the tables here.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import ml_dtypes
import numpy as np
import xxhash

from perigee import _backends

_MOST_LEVELS = 24
_MOST_INTEGER = 2**1024
_PACKED = 100  # longer lists of numbers are arrays
_OWN_FACTORY = "its own"
_EACH = 16  # characters that a number takes, about

_LISTS: Mapping[str, Callable[[list[Any]], Any]] = {
    kind.__name__: kind for kind in (list, tuple, set, frozenset, deque)
}
_DICTS: Mapping[str, Callable[[Any], Any]] = {
    kind.__name__: kind for kind in (dict, OrderedDict, Counter)
}
_FACTORIES: Mapping[str, Callable[[], Any]] = {
    kind.__name__: kind
    for kind in (
        *(int, float, complex, bool, str, bytes),
        *(list, tuple, set, frozenset, deque, dict, OrderedDict, Counter),
    )
}
_PLAIN_DTYPES = frozenset(
    np.dtype(kind)
    for kind in (
        *("?", "<f2", "<f4", "<f8", "<i1", "<i2", "<i4", "<i8", "<u1", "<u2", "<u4", "<u8"),
        *(ml_dtypes.bfloat16, ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2),
    )
)
_OTHER_DTYPE = re.compile(r"[<>|][biufcSUmM]\d{1,9}(\[\d{0,9}\w{1,2}\])?")


class NotStorableError(Exception):
    """A value cannot be stored; the message says why, after "it"."""


class Room:
    """How much text may still be stored.

    Args:
        characters: The most characters.

    Attributes:
        taken: How many have been taken.
    """

    def __init__(self, characters: int = 2**25) -> None:
        self._most = characters
        self.taken = 0

    def take(self, characters: int) -> None:
        """Take some of it.

        Raises:
            NotStorableError: If there is not enough left.
        """
        if self.taken + characters > self._most:
            raise NotStorableError("holds too much that is not in arrays")
        self.taken += characters


Tensors = Callable[[Any], tuple[np.ndarray, str] | None]
"""See `Backend.tensors_to_store`."""


def stored(value: Any, room: Room, tensors: Tensors = lambda _: None) -> Any:
    """Return a value as plain values and arrays, from which `rebuilt` makes an equal one.

    Arrays are not copied.

    Args:
        value: `None`, booleans, numbers, strings, bytes, paths, NumPy's arrays and scalars,
            tensors; and lists, tuples, sets, deques and dicts of these. A subclass of theirs is
            something else.
        room: How much text there may be.
        tensors: Returns the values of tensors.

    Raises:
        NotStorableError: If it holds anything else, or itself, or too much.
    """
    return _stored(value, room, tensors, ())


def _stored(value: Any, room: Room, tensors: Tensors, outer: tuple[int, ...]) -> Any:
    kind: type[Any] = type(value)
    room.take(len(json.dumps(value)) if kind is str else _EACH)
    if value is None or kind in (bool, float, str):
        return value
    if kind is int:
        if abs(value) >= _MOST_INTEGER:
            raise NotStorableError("holds an integer of more than 1024 bits")
        return value
    if kind is complex:
        return {"is": "complex", "of": [value.real, value.imag]}
    if kind in (bytes, bytearray):
        return {"is": kind.__name__, "of": np.frombuffer(bytes(value), np.uint8)}
    if kind is type(Path()):
        return {"is": "path", "of": _stored(str(value), room, tensors, outer)}
    if kind is np.ndarray:
        return {"is": "array", **_array(value)}
    if isinstance(value, np.generic):
        array = np.asarray(value)
        if type(array[()]) is kind:
            return {"is": "scalar", **_array(array)}
    if (tensor := tensors(value)) is not None:
        return {"is": "tensor", **_array(tensor[0]), "device": tensor[1]}
    if id(value) in outer:
        raise NotStorableError("holds itself")
    if len(outer) == _MOST_LEVELS:
        raise NotStorableError(f"has more than {_MOST_LEVELS} levels")
    inner, held = (*outer, id(value)), cast("Any", value)
    if kind in _LISTS.values():
        items = list(held)  # in one go: other threads may add to it
        more = {"maxlen": held.maxlen} if kind is deque else {}
        packed = _packed(items)
        return {
            "is": kind.__name__,
            "of": [_stored(item, room, tensors, inner) for item in items]
            if packed is None
            else packed,
            **more,
        }
    if kind in _DICTS.values() or kind is defaultdict:
        items = list(held.items())
        more = {"factory": _factory(held, is_outermost=not outer)} if kind is defaultdict else {}
        return {
            "is": kind.__name__,
            "keys": _stored([key for key, _ in items], room, tensors, inner),
            "of": _stored([item for _, item in items], room, tensors, inner),
            **more,
        }
    raise NotStorableError(f"holds an object of type {kind.__name__}")


def _packed(items: list[Any]) -> np.ndarray | None:
    """Return a long list of numbers of one type as an array: histories are long."""
    kinds = set(map(type, items)) if len(items) > _PACKED else set[type]()
    if kinds == {float}:
        return np.array(items, np.float64)
    if kinds == {int} and min(items) >= -(2**63) and max(items) < 2**63:
        return np.array(items, np.int64)
    return None


def _array(array: np.ndarray) -> dict[str, Any]:
    if array.dtype in _PLAIN_DTYPES:
        return {"of": array}
    if not _OTHER_DTYPE.fullmatch(array.dtype.str) or (array.size and not array.itemsize):
        raise NotStorableError(f"holds an array of {array.dtype}")
    content = np.frombuffer(array.tobytes(), np.uint8)
    return {"of": content, "dtype": array.dtype.str, "shape": list(array.shape)}


def _factory(value: defaultdict[Any, Any], is_outermost: bool) -> str | None:
    if value.default_factory is None:
        return None
    for name, factory in _FACTORIES.items():
        if value.default_factory is factory:
            return name
    if is_outermost:
        return _OWN_FACTORY
    raise NotStorableError("holds a defaultdict within another value, with a factory of its own")


def rebuilt(said: Any) -> Any:
    """Return the value that `stored` was given, as new objects.

    An outermost `defaultdict` has no factory where it had another than a builtin one.

    Raises:
        ValueError: If `stored` returns nothing like this.
        RecursionError: If it is nested deeply.
    """
    try:
        return _rebuilt(said)
    except (KeyError, TypeError, OverflowError, AttributeError) as error:
        raise ValueError(f"it does not describe a value: {error!r}") from error


def _rebuilt(said: Any) -> Any:
    if said is None or type(said) in (bool, int, float, str):
        return said
    kind, of = said["is"], said["of"]
    if kind in _LISTS:
        items = of.tolist() if isinstance(of, np.ndarray) else [_rebuilt(item) for item in of]
        return deque(items, said["maxlen"]) if kind == "deque" else _LISTS[kind](items)
    if kind in _DICTS or kind == "defaultdict":
        made = dict(zip(_rebuilt(said["keys"]), _rebuilt(of), strict=True))
        if kind == "defaultdict":
            return defaultdict(_FACTORIES.get(said["factory"]), made)
        return _DICTS[kind](made)
    if kind in ("bytes", "bytearray"):
        return (bytes if kind == "bytes" else bytearray)(_bytes(of))
    if kind == "complex":
        return complex(*of)
    if kind == "path":
        return Path(of)
    if kind in ("array", "scalar"):
        array = _rebuilt_array(said)
        return array if kind == "array" else array[()]
    if kind == "tensor":
        return _backends.current().stored_tensor(_rebuilt_array(said), said["device"])
    raise ValueError(f"it is of the unknown kind {kind!r}")


def _rebuilt_array(said: Mapping[str, Any]) -> np.ndarray:
    if "dtype" not in said:
        return np.array(said["of"]) if isinstance(said["of"], np.ndarray) else _refuse()
    if not _OTHER_DTYPE.fullmatch(said["dtype"]):
        _refuse()
    dtype, shape, content = np.dtype(said["dtype"]), said["shape"], _bytes(said["of"])
    if any(type(size) is not int or size < 0 for size in shape):
        _refuse()
    count = math.prod(shape)
    if len(content) != dtype.itemsize * count or (count and not content):
        _refuse()
    if not count:
        return np.zeros(shape, dtype)
    return np.frombuffer(bytearray(content), dtype).reshape(shape)


def _bytes(of: Any) -> bytes:
    return of.tobytes() if isinstance(of, np.ndarray) and of.dtype == np.uint8 else _refuse()


def _refuse() -> Any:
    raise ValueError("it does not describe an array")


def is_without_factory(said: Any) -> bool:
    """Tell whether `rebuilt` returns a `defaultdict` whose factory could not be stored."""
    return isinstance(said, dict) and said.get("factory") == _OWN_FACTORY


def digest(said: Any) -> str:
    """Return a checksum of what `stored` returned, or of plain values."""
    text = json.dumps(said, default=_sum_of_array)
    return xxhash.xxh3_128_hexdigest(text.encode("ascii"))


def _sum_of_array(array: np.ndarray) -> list[Any]:
    content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    return [str(array.dtype), array.shape, xxhash.xxh3_128_hexdigest(content.data)]
