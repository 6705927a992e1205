"""What torch alone has: state in Python objects, and batches that a step changes in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
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


def copied(batch: Batch) -> Batch:
    """See `Backend.copied`: no tensor changes."""
    return batch
