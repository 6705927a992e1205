"""The size of a feed's saved position."""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

LARGE_STATE_BYTES = 16 * 2**20
"""A saved position above this size is reported as a finding."""

SMALLER_STATE = (
    "the position holds what the pipeline has buffered: shuffle indices or file names and read "
    "the elements in a `.map(...)` after it, shuffle by `tf.random.experimental.index_shuffle`, "
    "reduce the buffers of `.shuffle(...)` and `.prefetch(...)`, or save less often."
)
"""How to make a large position smaller, as the end of a sentence."""


def state_bytes(state: Any) -> int:
    """Return the size in bytes of a feed's state: its arrays, and the rest as JSON.

    >>> state_bytes({"passes": 0, "iterator": np.zeros(100, np.uint8)})
    131

    Args:
        state: The result of a feed's `state`.
    """
    arrays: list[int] = []

    def without_arrays(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays.append(value.nbytes)
            return None
        if isinstance(value, Mapping):
            return {key: without_arrays(item) for key, item in value.items()}
        return [without_arrays(item) for item in value] if isinstance(value, list) else value

    text = json.dumps(without_arrays(state))
    return len(text) + sum(arrays)
