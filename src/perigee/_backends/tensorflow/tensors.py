# pyright: basic
"""Tensors of TensorFlow, to and from the host."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from perigee._backends._placement import refuse_keras_distribution
from perigee._errors import DataTypeError
from perigee._typing import Batch, Tensor, Tree


def tensors(batch: Batch) -> Batch:
    """See `Backend.tensors`; ragged and sparse tensors are unchanged, as are iterators."""
    return keras.tree.map_structure(_tensor, batch)


def _tensor(value: Any) -> Any:
    if value is None or is_argument(value):
        return value
    if isinstance(value, np.integer):  # converting numbers as arrays takes ten times as long
        return tf.constant(int(value), value.dtype)
    try:
        return tf.convert_to_tensor(value)
    except (TypeError, ValueError):
        if not dataclasses.is_dataclass(value):
            raise
        fix = "make it a `NamedTuple`, or pass `dataclasses.asdict(...)`."
        raise DataTypeError(f"{type(value).__name__}, a dataclass,", fix) from None


_ARGUMENTS = (
    tf.Tensor,
    tf.RaggedTensor,
    tf.SparseTensor,
    tf.data.Iterator,
    tf.experimental.Optional,
)


def is_argument(value: Any) -> bool:
    """Return whether compiled functions take `value` as an argument, not as a constant."""
    return isinstance(value, _ARGUMENTS)


def to_host(tree: Tree) -> Tree:
    """See `Backend.to_host`."""
    return keras.tree.map_structure(
        lambda value: value.numpy() if isinstance(value, tf.Tensor | tf.RaggedTensor) else value,
        tree,
    )


def is_tensor(value: Any) -> bool:
    """See `Backend.is_tensor`."""
    return isinstance(value, tf.Tensor)


def tensors_in(value: Any) -> Mapping[str, Tensor]:
    """See `Backend.tensors_in`: only containers of Python's are taken apart."""
    del value
    return {}


def holds_keys(value: Any) -> bool:
    """See `Backend.holds_keys`: there is no such type."""
    del value
    return False


def tensors_to_store(variables: Sequence[Any]) -> Callable[[Any], tuple[np.ndarray, str] | None]:
    """See `Backend.tensors_to_store`: tensors do not change, so none changes with a variable."""
    del variables

    def values(value: Any) -> tuple[np.ndarray, str] | None:
        if not is_tensor(value) or not hasattr(value, "numpy") or value.dtype == tf.string:
            return None
        return np.array(value.numpy()), ""

    return values


def stored_tensor(array: np.ndarray, device: str) -> Tensor:
    """See `Backend.stored_tensor`: on the device that TensorFlow chooses."""
    del device
    return tf.constant(array)


def dense(gradient: Tensor) -> Tensor:
    """See `Backend.dense`: the gradient of an embedding is a `tf.IndexedSlices`."""
    return tf.convert_to_tensor(gradient)


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """See `Backend.all_finite`."""
    values = [t.values if isinstance(t, tf.IndexedSlices) else t for t in tensors]
    return tf.reduce_all([tf.reduce_all(tf.math.is_finite(value)) for value in values])


def device_names() -> list[str]:
    """See `Backend.device_names`."""
    accelerators = tf.config.get_visible_devices("GPU")
    details = [tf.config.experimental.get_device_details(device) for device in accelerators]
    return [str(detail.get("device_name", "GPU")) for detail in details] or ["cpu"]


def random_state() -> None:
    """See `Backend.random_state`: the state of stateful operations cannot be read."""
    return None


def set_random_state(state: None) -> None:
    """See `Backend.set_random_state`: there is none."""


def rewind_random_state(seed: int = 0) -> None:
    """See `Backend.rewind_random_state`: there is none."""
    del seed


def check_devices(variables: Sequence[Any]) -> None:
    """See `Backend.check_devices`."""
    refuse_keras_distribution("TensorFlow")
