"""One process on one device: for frameworks without `keras.distribution`."""

import keras
import numpy as np

from perigee._errors import DistributionUnsupportedError
from perigee._typing import Batch


def refuse_keras_distribution(framework: str) -> None:
    """Refuse a distribution: one device would silently train on everything."""
    distribution = keras.distribution.distribution()
    if distribution is not None:
        raise DistributionUnsupportedError(
            framework, f"`keras.distribution.{type(distribution).__name__}` is set"
        )


def spread(arrays: Batch, order: np.ndarray | None, batch_size: int) -> None:
    """See `Backend.spread`: one device trains."""


def rows_in_order(arrays: Batch, order: np.ndarray) -> Batch:
    """See `Backend.rows_in_order`."""
    return keras.tree.map_structure(
        lambda array: None if array is None else keras.ops.take(array, order, axis=0), arrays
    )


def peers() -> None:
    """See `Backend.peers`: processes that train together are those of replicas, if any."""
