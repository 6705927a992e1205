# pyright: basic
"""For frameworks whose tensors never change, and whose objects say nothing of their state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from perigee import _backends
from perigee._typing import Batch


def objects_in(value: Any) -> Mapping[str, Any]:
    """See `Backend.objects_in`."""
    del value
    return {}


def settings(value: Any) -> None:
    """See `Backend.settings`."""
    del value


def set_settings(value: Any, given: Mapping[str, Any]) -> None:
    """See `Backend.set_settings`."""
    del value, given


def waiting_gradients(variables: Sequence[Any]) -> list[Any]:
    """See `Backend.waiting_gradients`: variables hold none."""
    return [None for _ in variables]


def set_waiting_gradients(variables: Sequence[Any], gradients: Sequence[Any]) -> None:
    """See `Backend.set_waiting_gradients`."""
    del variables, gradients


def copied(batch: Batch) -> Batch:
    """See `Backend.copied`: no tensor changes."""
    return batch


@dataclass(frozen=True, slots=True, eq=False)
class _Same:
    """A tensor that equals only itself."""

    tensor: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.tensor is other.tensor

    def __hash__(self) -> int:
        return id(self.tensor)

    def __repr__(self) -> str:
        return str(id(self.tensor))


def mark(tensor: Any) -> Any:
    """See `Backend.mark`."""
    return _Same(tensor)


def put(known: Any, value: Any) -> Any:
    """See `Backend.put`."""
    del known
    return value


def as_plain(value: Any) -> Any:
    """See `Backend.as_plain`; `None` for a tensor that is being traced, or of text."""
    if not _backends.current().is_tensor(value):
        return None
    try:
        array = np.array(keras.ops.convert_to_numpy(value))
    except Exception:  # each framework raises its own error
        return None
    return {"~tensor": array} if array.dtype.kind in "biufcV" else None


def from_plain(plain: Mapping[str, Any], like: Any) -> Any:
    """See `Backend.from_plain`."""
    if "~state" in plain:
        return like
    array = plain["~tensor"]
    return keras.ops.convert_to_tensor(array, array.dtype.name)
