"""Plain values as canonical JSON, with arrays stored separately.

JSON has neither arrays nor numbers that are not finite. They are written as objects with one key,
`{"$array": "0"}` and `{"$float": "nan"}`, so no key of a value may begin with `$`.
"""

import json
import math
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

import numpy as np

from perigee import _backends
from perigee._errors import CheckpointContentError
from perigee.checkpoints import _tensors

MOST_BYTES = 64 * 2**20
"""The longest JSON that is written or read; large data belongs in arrays."""

_MOST_LEVELS = 64
_MOST_INTEGER = 2**1024
_ARRAY, _FLOAT = "$array", "$float"
_NOT_FINITE = ("nan", "inf", "-inf")


def simplified(value: Any, path: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return a JSON copy of a value; copies of its arrays are stored in `arrays`.

    NumPy scalars become numbers, tuples become lists. A future stays, and `to_json` waits for it.

    Args:
        value: Strings, numbers, booleans, `None`, arrays and futures of such values without
            arrays, in dicts, lists and tuples.
        path: The path of the value, for errors.
        arrays: Receives the arrays, by number.

    Raises:
        CheckpointContentError: If it holds anything else.
    """
    return _simplified(value, path, arrays, _MOST_LEVELS)


def _simplified(value: Any, path: str, arrays: dict[str, np.ndarray], levels: int) -> Any:
    if isinstance(value, np.bool_ | np.number):
        value = value.item()
    if value is None or isinstance(value, str | bool | Future):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: str(float(value))}
    if isinstance(value, int) and abs(value) < _MOST_INTEGER:
        return int(value)
    if isinstance(value, np.ndarray) and _tensors.can_hold(value.dtype):
        name = str(len(arrays))
        arrays[name] = np.array(value, copy=True, order="C")
        return {_ARRAY: name}
    if levels and isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key.startswith("$"):
                raise CheckpointContentError(path, f"has the key {key!r}")
        return {
            str(key): _simplified(item, f"{path}/{key}", arrays, levels - 1)
            for key, item in value.items()
        }
    if levels and isinstance(value, list | tuple):
        kinds = set(map(type, value))  # histories are long, and so are states of generators
        if kinds == {float} and all(map(math.isfinite, value)):
            return list(value)
        if kinds == {int} and max(map(abs, value)) < _MOST_INTEGER:
            return list(value)
        return [
            _simplified(item, f"{path}/{index}", arrays, levels - 1)
            for index, item in enumerate(value)
        ]
    raise CheckpointContentError(path, _described(value, levels), _fix(value))


def _fix(value: Any) -> str | None:
    """Return what to write for a tensor: what is loaded is not of another type than was saved."""
    if not _backends.current().is_tensor(value):
        return None
    return (
        "return an array, `keras.ops.convert_to_numpy(value)`, and make a tensor of it again where "
        "it is loaded, `keras.ops.convert_to_tensor(array)`."
    )


def _described(value: Any, levels: int) -> str:
    if isinstance(value, np.ndarray):
        return f"is an array of {value.dtype}"
    if isinstance(value, int):
        return "is an integer of more than 1024 bits"
    if isinstance(value, Mapping | list | tuple) and not levels:
        return f"has more than {_MOST_LEVELS} levels, or holds itself"
    return f"is of type {type(value).__name__}"


def restored(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Return what `simplified` was given, with lists for tuples.

    Raises:
        ValueError: If it names a missing array, or an invalid number.
        RecursionError: If it is nested deeply.
    """
    if isinstance(value, dict):
        name = value.get(_ARRAY)
        if value.keys() == {_ARRAY} and isinstance(name, str) and name in arrays:
            return arrays[name]
        number = value.get(_FLOAT)
        if value.keys() == {_FLOAT} and number in _NOT_FINITE:
            return float(number)
        if any(key.startswith("$") for key in value):
            raise ValueError("it names a missing array, or an invalid number")
        return {key: restored(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [restored(item, arrays) for item in value]
    return value


def to_json(value: Any) -> bytes:
    """Return the canonical JSON of a value, after waiting for its futures."""
    return json.dumps(value, allow_nan=False, default=_result).encode("ascii")


def _result(future: Future[Any]) -> Any:
    arrays: dict[str, np.ndarray] = {}
    value = simplified(future.result(), "a result", arrays)
    if arrays:
        raise CheckpointContentError("a result", "holds arrays")
    return value


def from_json(content: bytes) -> Any:
    """Return the value that was written.

    Anything not written as by `to_json` is refused: duplicate keys, numbers that are not finite,
    whitespace.

    Raises:
        ValueError: If it is not such JSON.
        RecursionError: If it is nested deeply.
    """
    value = json.loads(content.decode("ascii"))
    if to_json(value) != content:
        raise ValueError("it is not written as Perigee writes it")
    return value
