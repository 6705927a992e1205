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
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

import keras
import ml_dtypes
import numpy as np
import torch

_NUMBERS = "biufc"
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


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
    if isinstance(value, torch.Generator):
        return {"~state": inner(value.get_state(), "state")}
    if kept(value):
        return {"~kept": None}
    if isinstance(value, torch.Tensor):
        array, dtype, device = array_of(value), str(value.dtype), str(value.device)
        return {"~tensor": array, "dtype": dtype.removeprefix("torch."), "device": device}
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
    if callable(value) or isinstance(value, Enum | torch.dtype | torch.device | np.dtype):
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
            return _tensor(plain) if not _is_leaf(like) else _assigned(like, _tensor(plain))
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
            return type(like)(items) if type(like) is torch.Size else tuple(items)
        case "~deque":
            items = _items(plain["~deque"], like)
            return deque(items, like.maxlen if isinstance(like, deque) else None)
        case "~set":
            return (frozenset if isinstance(like, frozenset) else set)(_items(plain["~set"], None))
        case "~dict":
            pairs = [(_from_plain(key, None), item) for key, item in plain["~dict"]]
            return _dict(pairs, like)
        case "~state":
            return _generator(plain["~state"], like)
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
    made = like.copy()
    made.clear()
    (made.update if isinstance(made, dict) else made.extend)(content)
    return made


def _generator(plain: Any, like: Any) -> Any:
    if isinstance(like, torch.Generator):
        like.set_state(_from_plain(plain, None).cpu())
    elif isinstance(like, np.random.Generator):
        like.bit_generator.state = _from_plain(plain, None)
    elif isinstance(like, random.Random):
        like.setstate(_from_plain(plain, None))
    return like


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """Return a copy of a tensor on the host."""
    tensor = tensor.detach()
    tensor = (tensor.to_dense() if tensor.layout != torch.strided else tensor).cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().copy().view(_BFLOAT16)
    return tensor.resolve_conj().resolve_neg().numpy().copy()


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """Return a copy of an array as a tensor on the host."""
    array = np.array(array, copy=True, order="C")
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _tensor(plain: Mapping[str, Any]) -> torch.Tensor:
    tensor = tensor_of(plain["~tensor"]).to(getattr(torch, plain["dtype"]))
    return on_device(tensor, plain["device"])


def on_device(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Return a tensor on the device of a name, where there is one."""
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        device = keras.ops.zeros(()).device  # saved on another machine
    return tensor.to(device)


def _is_leaf(like: Any) -> bool:
    """Return whether gradients are computed for a tensor: it is the one that is updated."""
    return isinstance(like, torch.Tensor) and like.requires_grad and like.is_leaf


def _assigned(like: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if like.shape != value.shape:
        return value.requires_grad_()
    with torch.no_grad():
        return like.copy_(value)


def digest(plain: Any) -> bytes:
    """Return 32 bytes that are the same for equal plain values only."""
    total = hashlib.blake2b(digest_size=32)

    def described(array: np.ndarray) -> Any:
        total.update(np.asarray(array, order="C").tobytes())
        return [array.dtype.name, array.shape]

    total.update(json.dumps(plain, default=described).encode())
    return total.digest()
