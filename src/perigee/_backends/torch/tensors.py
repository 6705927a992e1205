# pyright: basic
"""Tensors of torch, to and from the host."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import torch

from perigee._backends._placement import refuse_keras_distribution
from perigee._backends.torch.states import array_of, on_device, tensor_of
from perigee._errors import DistributionUnsupportedError
from perigee._typing import Batch, Tensor, Tree

_STORED = frozenset(
    {
        *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
        *(torch.bfloat16, torch.float16, torch.float32, torch.float64),
        *(torch.complex64, torch.complex128),
    }
)


def tensors(batch: Batch) -> Batch:
    """See `Backend.tensors`; Keras chooses the device."""
    return keras.tree.map_structure(_tensor, batch)


def _tensor(value: Any) -> Any:
    if value is None or (
        not torch.is_tensor(value) and np.asarray(value).dtype.kind not in "biufc"
    ):
        return value  # strings stay on the host
    return keras.ops.convert_to_tensor(value if torch.is_tensor(value) else np.asarray(value))


def to_host(tree: Tree) -> Tree:
    """See `Backend.to_host`."""
    return keras.tree.map_structure(
        lambda value: _numpy(value) if torch.is_tensor(value) else value, tree
    )


def _numpy(value: Tensor) -> np.ndarray:
    return keras.ops.convert_to_numpy(value.detach())


def is_tensor(value: Any) -> bool:
    """See `Backend.is_tensor`; parameters belong to variables."""
    return torch.is_tensor(value) and not isinstance(value, torch.nn.Parameter)


def tensors_in(value: Any) -> Mapping[str, Tensor]:
    """See `Backend.tensors_in`: only containers of Python's are taken apart."""
    del value
    return {}


def holds_keys(value: Any) -> bool:
    """See `Backend.holds_keys`: there is no such type."""
    del value
    return False


def tensors_to_store(variables: Sequence[Any]) -> Callable[[Any], tuple[np.ndarray, str] | None]:
    """See `Backend.tensors_to_store`."""
    taken = {_memory(v.value) for v in variables if v.value is not None} - {0}

    def values(value: Any) -> tuple[np.ndarray, str] | None:
        if not is_tensor(value) or value.layout != torch.strided or value.is_meta:
            return None
        if value.dtype not in _STORED or _memory(value) in taken:
            return None
        return array_of(value), str(value.device)

    return values


def _memory(value: Tensor) -> int:
    return value.untyped_storage().data_ptr() if value.layout == torch.strided else 0


def stored_tensor(array: np.ndarray, device: str) -> Tensor:
    """See `Backend.stored_tensor`."""
    try:
        return on_device(tensor_of(array), device)
    except (TypeError, RuntimeError) as error:
        raise ValueError(f"it is no tensor ({error})") from error


def dense(gradient: Tensor) -> Tensor:
    """See `Backend.dense`."""
    return gradient.to_dense() if gradient.is_sparse else gradient


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """See `Backend.all_finite`."""
    return torch.stack([torch.isfinite(dense(tensor)).all() for tensor in tensors]).all()


def device_names() -> list[str]:
    """See `Backend.device_names`: where Keras puts its tensors."""
    device = tensors(np.zeros(())).device
    return [torch.cuda.get_device_name(device) if device.type == "cuda" else device.type]


def random_state() -> Any:
    """See `Backend.random_state`: Keras's unseeded Dropout draws from torch's own generators."""
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return torch.get_rng_state(), devices


def set_random_state(state: Any) -> None:
    """See `Backend.set_random_state`."""
    host, devices = state
    torch.set_rng_state(host)
    if devices:
        torch.cuda.set_rng_state_all(devices)


def rewind_random_state(seed: int = 0) -> None:
    """See `Backend.rewind_random_state`."""
    torch.manual_seed(seed)


def check_devices(variables: Sequence[Any]) -> None:
    """See `Backend.check_devices`: Keras reduces no gradients over processes of torch."""
    refuse_keras_distribution("torch")
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        count = torch.distributed.get_world_size()
        if count > 1:
            raise DistributionUnsupportedError(
                "torch", f"`torch.distributed` is initialized with {count} processes"
            )
