"""Sparse and ragged tensors of TensorFlow."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from perigee.data._spec import floatx, is_floating


def sparse_tensor(indices: NDArray[Any], values: NDArray[Any], shape: tuple[int, ...]) -> Any:
    """Return a `tf.SparseTensor`."""
    import tensorflow as tf

    return tf.SparseTensor(indices, values, shape)


class RaggedRows:
    """A ragged tensor of TensorFlow."""

    def __init__(self, tensor: Any) -> None:
        import tensorflow as tf

        self.dtype: np.dtype[Any] = np.dtype(tensor.dtype.as_numpy_dtype)
        if is_floating(self.dtype) and self.dtype != floatx():
            self.dtype = floatx()
            tensor = tf.cast(tensor, keras.config.floatx())
        self._tensor = tensor
        self.shape: tuple[int | None, ...] = tuple(tensor.shape)
        self.nbytes: int = int(tf.size(tensor.flat_values)) * self.dtype.itemsize

    def __len__(self) -> int:
        return int(self._tensor.nrows())

    def __getitem__(self, rows: Any) -> Any:
        """Return some rows, by a slice or by their indices, as a ragged tensor."""
        import tensorflow as tf

        return self._tensor[rows] if isinstance(rows, slice) else tf.gather(self._tensor, rows)

    def part(self, start: int, end: int | None) -> RaggedRows:
        """Return consecutive rows as an array of the same kind."""
        return RaggedRows(self._tensor[start:end])
