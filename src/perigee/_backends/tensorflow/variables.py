# pyright: basic
"""TensorFlow's own variables, as users' layers and Steps hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from perigee._typing import Tensor


def as_keras_variable(value: Any) -> TensorFlowVariable | None:
    """See `Backend.as_keras_variable`: a random generator is its state."""
    if isinstance(value, tf.random.Generator):
        value = value.state
    if not isinstance(value, tf.Variable):
        return None
    found = vars(value).get(_ATTRIBUTE)
    if found is None:
        found = TensorFlowVariable(value)
        # Stored on the variable: it lives as long, and is always the same.
        setattr(value, _ATTRIBUTE, found)
    return found


def is_container(kind: type) -> bool:
    """See `Backend.is_container`."""
    return issubclass(kind, tf.Module)


def is_found(value: Any) -> bool:
    """See `Backend.is_found`."""
    return isinstance(value, tf.Variable | tf.Module | tf.random.Generator)


def content(value: Any) -> Mapping[str, Any]:
    """See `Backend.content`: without what TensorFlow's own lists and dicts keep of themselves."""
    held: Mapping[str, Any] = getattr(value, "__dict__", {})
    return {name: member for name, member in held.items() if not name.startswith("_self_")}


@cache
def writers() -> tuple[tuple[Any, str], ...]:
    """See `Backend.writers`."""
    waiting, kinds = [tf.Variable], []
    while waiting:  # there is no public name for the class of variables on one device
        kind = waiting.pop()
        waiting += kind.__subclasses__()
        if kind.__module__.endswith(".resource_variable_ops") and kind.__name__[0] != "_":
            kinds.append(kind)
    return tuple((kind, name) for kind in kinds for name in _WRITING if name in vars(kind))


_WRITING = (
    "assign",
    "assign_add",
    "assign_sub",
    *(f"scatter_{verb}" for verb in ("add", "div", "max", "min", "mul", "sub", "update")),
    *(f"scatter_nd_{verb}" for verb in ("add", "max", "min", "sub", "update")),
    "batch_scatter_update",
)

_ATTRIBUTE = "_perigee_as_keras_variable"


class TensorFlowVariable:
    """The interface of a Keras variable for one of TensorFlow.

    Args:
        value: The variable.
    """

    kind = "variable"

    def __init__(self, value: Any) -> None:
        self.value = value
        self.name: str = value.name.partition(":")[0]
        self.path: str = self.name
        self.shape: tuple[int | None, ...] = tuple(value.shape)
        self.dtype: str = keras.backend.standardize_dtype(value.dtype)

    @property
    def trainable(self) -> bool:
        """Whether a gradient tape watches it."""
        return self.value.trainable

    def assign(self, value: Any) -> Any:
        """Assign a value to the variable."""
        return self.value.assign(value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.value.numpy(), dtype=dtype, copy=copy or None)

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> Tensor:
        return tf.convert_to_tensor(self.value, dtype=dtype, name=name)


def gradients_restored(variables: Sequence[Any]) -> AbstractContextManager[None]:
    """See `Backend.gradients_restored`: variables hold none."""
    del variables
    return nullcontext()
