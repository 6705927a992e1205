# pyright: basic
"""Placement of arrays: on one device, or over several as set by `keras.distribution`.

Arrays over several devices are global: a compiled step computes what one device would, and the
compiler inserts the communication between devices.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import keras
import numpy as np

from perigee._backends.jax.tensors import as_array
from perigee._errors import (
    DistributionChangedError,
    DistributionMissingError,
    SplitOverProcessesError,
)
from perigee._typing import Batch, Tree


def is_spread() -> bool:
    """Return whether a distribution is set, so that arrays are distributed over its devices."""
    return keras.distribution.distribution() is not None


def placed(tree: Tree, axis: int = 0) -> Tree:
    """Distribute host arrays over the devices, split along the axis of the examples.

    An array that does not divide evenly, such as a small last batch, is replicated: the results are
    the same, and each device computes all of them. With several processes, each takes its own part
    of the array, which must be the same in all.
    """
    return keras.tree.map_structure(lambda leaf: _placed(leaf, axis), tree)


def _placed(leaf: Any, axis: int) -> Any:
    if not isinstance(leaf, np.ndarray) and not _is_alone(leaf):
        return leaf
    sharding = _sharding(keras.distribution.distribution(), leaf.shape, axis)
    if not sharding.is_fully_addressable:
        host = np.asarray(leaf)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])
    return jax.device_put(leaf, sharding)


def _is_alone(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) == 1


@functools.lru_cache(maxsize=256)
def _sharding(distribution: Any, shape: tuple[int, ...], axis: int) -> jax.sharding.NamedSharding:
    data = distribution.get_data_layout((1,)).backend_layout
    spec = jax.sharding.PartitionSpec(*(None,) * axis, *data.spec)
    split = jax.sharding.NamedSharding(data.mesh, spec)
    if len(shape) > axis:
        try:
            split.shard_shape(shape)
            return split
        except ValueError:  # it does not divide evenly
            pass
    return whole(distribution)


def whole(distribution: Any = None) -> jax.sharding.NamedSharding:
    """Return the sharding of an array that is replicated on every device."""
    distribution = distribution or keras.distribution.distribution()
    data = distribution.get_data_layout((1,)).backend_layout
    return jax.sharding.NamedSharding(data.mesh, jax.sharding.PartitionSpec())


def spread(arrays: Batch, order: np.ndarray | None, batch_size: int) -> Batch | None:
    """See `Backend.spread`.

    Rows are reordered on the host, so that each device gets its share of every batch and nothing
    moves between devices afterwards.
    """
    if not is_spread():
        return None

    def lay(leaf: Any) -> Any:
        array = as_array(leaf)
        if array is None:
            return None
        rows = len(array) // batch_size * batch_size
        ordered = array[:rows] if order is None else array[order[:rows]]
        return _placed(in_batches(ordered, batch_size), axis=1)

    return keras.tree.map_structure(lay, arrays)


def in_batches(array: Any, batch_size: int) -> Any:
    """Return rows as batches of rows, shape `(batches, batch_size, ...)`."""
    return array.reshape(-1, batch_size, *array.shape[1:])


def held_in_place(variables: Sequence[Any]) -> dict[str, Any]:
    """Return the arguments of `jax.jit` that keep the sharding of state and replicate results.

    Otherwise the compiler may return state with another sharding, which costs a copy per step.
    """
    if not is_spread():
        return {}
    return {"out_shardings": (whole(), [variable.value.sharding for variable in variables])}


def check_devices(variables: Sequence[Any]) -> None:
    """See `Backend.check_devices`: a variable stays where it was created."""
    distribution = keras.distribution.distribution()
    devices = None
    if distribution is None and jax.process_count() > 1:
        raise DistributionMissingError(jax.process_count())
    if distribution is not None:
        devices = set(distribution.device_mesh.backend_mesh.devices.flat)
    apart = []
    for variable in variables:
        lies_on = variable.value.sharding.device_set
        if len(lies_on) > 1 if devices is None else lies_on != devices:
            apart.append(f"{variable.path}: on {_counted(len(lies_on))}")
    if apart:
        raise DistributionChangedError(apart, None if devices is None else len(devices))
    split = [
        variable.path
        for variable in variables
        if not variable.value.is_fully_addressable and not variable.value.is_fully_replicated
    ]
    if split:
        raise SplitOverProcessesError(split)


def _counted(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"
