"""Batches of Python data in the form that a step takes."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from perigee._typing import Batch
from perigee.data._sparse import rows_of
from perigee.data._spec import (
    floatx,
    framework_of,
    is_array_like,
    is_floating,
    map_leaves,
    refusal,
    to_numpy,
)


def batch_converter() -> Callable[[Batch], Batch]:
    """Return a function that converts batches of Python data to the form that a step takes.

    NumPy arrays keep their dtype, but floating ones become Keras's `floatx`, as in `fit`. Tensors
    of the current framework are unchanged, those of another become NumPy arrays, SciPy's sparse
    matrices sparse tensors. Data frames become arrays. Other values are unchanged.
    """
    target = floatx()
    native = keras.config.backend()

    def convert(leaf: Any) -> Any:
        if type(leaf) is not np.ndarray and not isinstance(leaf, np.generic):
            if framework_of(leaf) == native and type(leaf).__name__ != "PerReplica":
                return leaf
            rows = rows_of(leaf)
            if rows is not None:
                return rows[:]
            error = refusal(leaf)
            if error is not None:
                raise error
            if not is_array_like(leaf):
                return leaf
            leaf = to_numpy(leaf)
        dtype = leaf.dtype
        if dtype != target and is_floating(dtype):
            return leaf.astype(target)
        return leaf

    def convert_batch(batch: Batch) -> Batch:
        return map_leaves(convert, batch)

    return convert_batch
