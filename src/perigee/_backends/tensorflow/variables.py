# pyright: basic
"""TensorFlow's own variables, as users' layers and Steps hold them."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from perigee._typing import Tensor


def as_keras_variable(value: Any) -> TensorFlowVariable | None:
    """See `Backend.as_keras_variable`."""
    if not isinstance(value, tf.Variable):
        return None
    found = vars(value).get(_ATTRIBUTE)
    if found is None:
        found = TensorFlowVariable(value)
        # Stored on the variable: it lives as long, and is always the same.
        setattr(value, _ATTRIBUTE, found)
    return found


_ATTRIBUTE = "_perigee_as_keras_variable"


class TensorFlowVariable:
    """The interface of a Keras variable for one of TensorFlow.

    Args:
        value: The variable.
    """

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
