"""What TensorFlow alone has: several copies of a variable, its own variables, gradient tapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np

from perigee._backends._objects import StateObject
from perigee._backends._protocol import Differentiated
from perigee._listening import Hear
from perigee._typing import Tensor


def replicas() -> None:
    """See `Backend.replicas`: there is one copy of each variable."""


def as_one_device(variables: Sequence[Any] = ()) -> AbstractContextManager[None]:
    """See `Backend.as_one_device`: there are no strategies."""
    del variables
    return nullcontext()


def sum_over_replicas(tensors: Sequence[Tensor], rows: Tensor | None = None) -> list[Tensor]:
    """See `Backend.sum_over_replicas`."""
    del rows
    return list(tensors)


def drawing(hear: Hear, look: Callable[[str, Sequence[Any]], None]) -> AbstractContextManager[None]:
    """See `Backend.drawing`: there are no keys."""
    del hear, look
    return nullcontext()


def once(gradients: Sequence[Tensor]) -> list[Tensor]:
    """See `Backend.once`."""
    return list(gradients)


def settle(values: Tensor, sums: Sequence[Any], others: Sequence[Any], share: Tensor) -> Tensor:
    """See `Backend.settle`."""
    del sums, others, share
    return values


def copies(variable: Any) -> list[Any]:
    """See `Backend.copies`."""
    return [variable.value]


def is_sum(variable: Any) -> bool:
    """See `Backend.is_sum`."""
    del variable
    return False


def read(variable: Any) -> np.ndarray:
    """See `Backend.read`."""
    if isinstance(variable, StateObject):
        return variable.read()
    return np.asarray(variable)  # at most one copy; `ops.convert_to_numpy` may make two


def hold(variable: Any) -> None:
    """See `Backend.hold`: variables change in place."""
    del variable


def write(variable: Any, value: np.ndarray | Tensor) -> None:
    """See `Backend.write`."""
    variable.assign(value)


def as_keras_variable(value: Any) -> None:
    """See `Backend.as_keras_variable`: there are no variables but Keras's."""
    del value


def is_container(kind: type) -> bool:
    """See `Backend.is_container`."""
    del kind
    return False


def is_found(value: Any) -> bool:
    """See `Backend.is_found`: there is only Keras's state."""
    del value
    return False


def content(value: Any) -> Mapping[str, Any]:
    """See `Backend.content`."""
    return vars(value)


def writers() -> tuple[tuple[Any, str], ...]:
    """See `Backend.writers`: Keras's variables have only `assign`."""
    return ()


def tapes(hear: Hear, look: Callable[[Differentiated], None]) -> AbstractContextManager[None]:
    """See `Backend.tapes`: there are none."""
    del hear, look
    return nullcontext()
