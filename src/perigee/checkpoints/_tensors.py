"""Named arrays as the bytes of a safetensors file.

The format is eight bytes of length, a JSON header with dtype, shape and offsets of each array, and
the arrays (https://github.com/huggingface/safetensors). The library of that name writes a file
without giving access to its bytes, and reading 100 MB again costs more than their checksum; and it
does not enforce every rule here when it reads (duplicate keys, bytes that are not booleans). Each
reads what the other writes.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

_NAMES: dict[np.dtype[Any], str] = {
    np.dtype(kind): name
    for kind, name in (
        *((f"<f{size}", f"F{8 * size}") for size in (2, 4, 8)),
        *((f"<i{size}", f"I{8 * size}") for size in (1, 2, 4, 8)),
        *((f"<u{size}", f"U{8 * size}") for size in (1, 2, 4, 8)),
        ("<c8", "C64"),
        ("?", "BOOL"),
        (ml_dtypes.bfloat16, "BF16"),
        (ml_dtypes.float8_e4m3fn, "F8_E4M3"),
        (ml_dtypes.float8_e5m2, "F8_E5M2"),
    )
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_LENGTH_BYTES = 8
_MOST_HEADER_BYTES = 100_000_000  # the limit of the library
_MOST_AXES = 32


def can_hold(dtype: np.dtype[Any]) -> bool:
    """Return whether the format has this dtype, in little-endian order."""
    return dtype in _NAMES


def encode(arrays: Mapping[str, np.ndarray]) -> list[memoryview]:
    """Return the bytes of a file that holds `arrays`, in parts; the arrays are not copied.

    Args:
        arrays: Arrays of any shapes, with dtypes of the format.
    """
    # The widest dtypes first, so that every array is aligned to its own width.
    ordered = sorted(arrays, key=lambda name: -arrays[name].itemsize)
    begins: dict[str, int] = {}
    end = 0
    for name in ordered:
        begins[name], end = end, end + arrays[name].nbytes
    header = json.dumps(
        {
            name: {
                "dtype": _NAMES[array.dtype],
                "shape": array.shape,
                "data_offsets": (begins[name], begins[name] + array.nbytes),
            }
            for name, array in arrays.items()
        }
    ).encode("ascii")
    header += b" " * (-len(header) % _LENGTH_BYTES)
    start = len(header).to_bytes(_LENGTH_BYTES, "little") + header
    # As bytes: the buffer protocol does not support bfloat16.
    return [
        memoryview(start),
        *(arrays[name].reshape(-1).view(np.uint8).data for name in ordered),
    ]


def decode(content: np.ndarray) -> dict[str, np.ndarray]:
    """Return the arrays of a file, as views of its content, in the order of its header.

    Nothing is allocated beyond `content`.

    Args:
        content: The bytes of the file, shape `(size,)`, uint8.

    Raises:
        ValueError: If these are not the bytes of such a file, saying why.
        RecursionError: If the header is nested deeply.
    """
    header_bytes = int.from_bytes(content[:_LENGTH_BYTES].tobytes(), "little")
    start = _LENGTH_BYTES + header_bytes
    if len(content) < _LENGTH_BYTES or header_bytes > _MOST_HEADER_BYTES or start > len(content):
        raise ValueError("the header is longer than the file, or than the limit")
    header = json.loads(
        content[_LENGTH_BYTES:start].tobytes().decode("utf-8"), object_pairs_hook=_once
    )
    if not isinstance(header, dict):
        raise ValueError("the header is not a JSON object")
    header.pop("__metadata__", None)  # optional notes of other writers; not used here
    places = {name: _place(name, entry) for name, entry in header.items()}
    end = 0
    for begin, stop, _, _ in sorted(places.values(), key=lambda place: place[:2]):
        if begin != end:
            raise ValueError("the arrays overlap, or leave gaps")
        end = stop
    if end != len(content) - start:
        raise ValueError("the arrays do not end where the file does")
    return {
        name: _array(name, content[start + begin : start + stop], dtype, shape)
        for name, (begin, stop, dtype, shape) in places.items()
    }


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _place(name: str, entry: Any) -> tuple[int, int, np.dtype[Any], tuple[int, ...]]:
    """Return the begin, end, dtype and shape of an array, after checking their consistency."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r} does not describe an array")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise ValueError(f"{name!r} has dtype {dtype!r}")
    if not _are_sizes(shape) or len(shape) > _MOST_AXES:
        raise ValueError(f"{name!r} has an invalid shape")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise ValueError(f"{name!r} has invalid offsets")
    size_bytes = math.prod(shape) * _DTYPES[dtype].itemsize
    if offsets[1] - offsets[0] != size_bytes:
        raise ValueError(f"the size of {name!r} does not match its offsets")
    return offsets[0], offsets[1], _DTYPES[dtype], tuple(shape)


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)


def _array(name: str, data: np.ndarray, dtype: np.dtype[Any], shape: Any) -> np.ndarray:
    if dtype == np.bool_ and data.size and data.max() > 1:
        raise ValueError(f"{name!r} should hold booleans, but holds other bytes")
    if data.ctypes.data % dtype.itemsize:  # frameworks may assume alignment
        data = data.copy()
    return data.view(dtype).reshape(shape)
