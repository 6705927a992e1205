# pyright: basic
"""Sparse arrays of JAX."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def bcoo(indices: NDArray[Any], values: NDArray[Any], shape: tuple[int, ...]) -> Any:
    """Return a `BCOO` array with room for a power of two of values.

    One compilation serves as many stored values as there is room for. Indices beyond the shape are
    JAX's way to mark unused room.
    """
    from jax.experimental.sparse import BCOO

    room = (1 << max(0, len(values) - 1).bit_length()) - len(values)
    padding = np.broadcast_to(np.asarray(shape), (room, len(shape)))
    values = np.concatenate([values, np.zeros(room, values.dtype)])
    return BCOO((values, np.concatenate([indices, padding])), shape=shape)  # pyright: ignore
