"""How fast this machine multiplies matrices: the reference for the speed of a model."""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._execution.timing import now
from perigee._typing import Tensor

_LARGEST = 8192
_LONG_SECONDS = 0.02
"""A product that takes this long is large enough for the overhead of a call to be negligible."""
_REPEATS = 3


@dataclass(frozen=True, slots=True)
class MatrixRate:
    """The best of a few measurements of a matrix product.

    Attributes:
        per_second: Floating-point operations per second; a multiplication and an addition are two.
        size: Rows and columns of both matrices.
        dtype: The dtype of their elements, that in which Keras computes.
    """

    per_second: float
    size: int
    dtype: str


def matrix_rate() -> MatrixRate:
    """Time products of square matrices, each twice as large as the previous.

    The largest one takes some 20 ms, or has 8,192 rows. It waits for the device.
    """
    backend = _backends.current()
    dtype = keras.config.dtype_policy().compute_dtype or keras.config.floatx()
    mode = backend.capabilities.modes[0]
    # The largest element, since a compiler could skip most of the product for a sum.
    product = backend.compile(lambda a, b: ops.max(ops.matmul(a, b)), [], mode)

    def seconds(a: Tensor, b: Tensor) -> float:
        began = now()
        backend.to_host(product(a, b))
        return now() - began

    size, best = 256, 0.0
    while True:
        draw = np.random.default_rng(0).random((2, size, size), dtype=np.float32)
        a, b = (ops.cast(matrix, dtype) for matrix in draw)
        seconds(a, b)  # compiles
        took = min(seconds(a, b) for _ in range(_REPEATS))
        best = max(best, 2.0 * size**3 / took)
        if took > _LONG_SECONDS or size == _LARGEST:
            return MatrixRate(best, size, dtype)
        size *= 2
