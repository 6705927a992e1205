"""What torch alone has: state in Python objects, and batches that a step changes in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any

from perigee._typing import Batch


def state_object(value: Any) -> None:
    """See `Backend.state_object`: the state of a step is in variables."""
    del value


def attributes(owner: Any, names: Callable[[Any], MutableMapping[str, Any]]) -> None:
    """See `Backend.attributes`: a compiled step does not change them."""
    del owner, names


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
