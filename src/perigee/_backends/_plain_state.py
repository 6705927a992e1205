# pyright: basic
"""The state of Python objects as plain values and arrays, and back.

A state becomes a tree of dicts with names, lists, strings, numbers, `None` and NumPy arrays. What
these do not have is a dict with one name that begins with `~`.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import Any

import numpy as np

from perigee import _backends

_NUMBERS = "biufc"


class NotPlainError(Exception):
    """A state holds an object other than plain values.

    Args:
        path: Where.
        kind: The class of the object.
    """

    def __init__(self, path: str, kind: str) -> None:
        super().__init__(path, kind)
        self.path, self.kind = path, kind


def to_plain(value: Any, path: str = "", kept: Callable[[Any], bool] = lambda _: False) -> Any:
    """Return a state as plain values; arrays in it are copies.

    Args:
        value: The state.
        path: Its path, for errors.
        kept: Whether an object is no part of the state, and stays where it is.

    Raises:
        NotPlainError: If it holds an object that is neither plain nor `kept`.
    """

    def inner(item: Any, name: Any) -> Any:
        return to_plain(item, f"{path}/{name}", kept)

    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if (of_framework := _backends.current().as_plain(value)) is not None:
        return of_framework
    if kept(value):
        return {"~kept": None}
    if _backends.current().is_tensor(value):
        raise NotPlainError(path, kind.__name__)  # not known yet, or of a kind without arrays
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in _NUMBERS:
        return {"~array": np.array(value), "is_scalar": isinstance(value, np.generic)}
    if kind is complex:
        return {"~complex": [value.real, value.imag]}
    if isinstance(value, bytes):
        return {"~bytes": value.hex()}
    if isinstance(value, list):
        return [inner(item, index) for index, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"~tuple": [inner(item, index) for index, item in enumerate(value)]}
    if isinstance(value, deque):
        return {"~deque": [inner(item, index) for index, item in enumerate(value)]}
    if isinstance(value, set | frozenset):
        return {"~set": sorted((inner(item, "") for item in value), key=repr)}
    if isinstance(value, dict):
        if all(type(key) is str and key[:1] not in ("~", "$") for key in value):
            return {key: inner(item, key) for key, item in value.items()}
        return {"~dict": [[inner(key, ""), inner(item, key)] for key, item in value.items()]}
    if isinstance(value, np.random.Generator):
        return {"~state": inner(value.bit_generator.state, "state")}
    if isinstance(value, random.Random):
        return {"~state": inner(value.getstate(), "state")}
    if callable(value) or isinstance(value, Enum | np.dtype):
        return {"~kept": None}  # the program makes it
    raise NotPlainError(path, kind.__name__)


def from_plain(plain: Any, like: Any = None) -> Any:
    """Return the state that `to_plain` was given.

    Args:
        plain: What `to_plain` returned.
        like: The state as it is now: it has the classes of containers, and what is kept.

    Raises:
        ValueError: If `plain` is no such state.
    """
    try:
        return _from_plain(plain, like)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"it is no state ({error})") from error


def _from_plain(plain: Any, like: Any) -> Any:
    if isinstance(plain, list):
        return _like(like, _items(plain, like), list)
    if not isinstance(plain, dict):
        return plain
    match next(iter(plain), ""):
        case "~kept":
            return like
        case "~tensor":
            return _backends.current().from_plain(plain, like)
        case "~array":
            return plain["~array"][()] if plain["is_scalar"] else np.array(plain["~array"])
        case "~complex":
            return complex(*plain["~complex"])
        case "~bytes":
            return bytes.fromhex(plain["~bytes"])
        case "~tuple":
            items = _items(plain["~tuple"], like)
            if hasattr(like, "_fields") and len(like) == len(items):
                return type(like)(*items)
            return _like(like, tuple(items), tuple)
        case "~deque":
            items = _items(plain["~deque"], like)
            return deque(items, like.maxlen if isinstance(like, deque) else None)
        case "~set":
            return (frozenset if isinstance(like, frozenset) else set)(_items(plain["~set"], None))
        case "~dict":
            pairs = [(_from_plain(key, None), item) for key, item in plain["~dict"]]
            return _dict(pairs, like)
        case "~state":
            return _generator(plain, like)
    return _dict(list(plain.items()), like)


def _items(plain: list[Any], like: Any) -> list[Any]:
    likes = list(like) if isinstance(like, list | tuple | deque) else []
    likes += [None] * (len(plain) - len(likes))
    return [_from_plain(*pair) for pair in zip(plain, likes[: len(plain)], strict=True)]


def _dict(pairs: list[tuple[Any, Any]], like: Any) -> Any:
    known = like if isinstance(like, dict) else {}
    return _like(like, {key: _from_plain(item, known.get(key)) for key, item in pairs}, dict)


def _like(like: Any, content: Any, kind: type) -> Any:
    """Return a container of the class of another one, such as a `defaultdict`."""
    if not isinstance(like, kind) or type(like) is kind:
        return content
    if isinstance(like, tuple):
        return type(like)(content)
    made = like.copy()
    made.clear()
    (made.update if isinstance(made, dict) else made.extend)(content)
    return made


def _generator(plain: Any, like: Any) -> Any:
    if isinstance(like, np.random.Generator):
        like.bit_generator.state = _from_plain(plain["~state"], None)
    elif isinstance(like, random.Random):
        like.setstate(_from_plain(plain["~state"], None))
    else:
        return _backends.current().from_plain(plain, like)
    return like


def digest(plain: Any) -> bytes:
    """Return 32 bytes that are the same for equal plain values only."""
    total = hashlib.blake2b(digest_size=32)

    def described(array: np.ndarray) -> Any:
        total.update(np.asarray(array, order="C").tobytes())
        return [array.dtype.name, array.shape]

    total.update(json.dumps(plain, default=described).encode())
    return total.digest()
