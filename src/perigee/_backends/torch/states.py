# pyright: basic
"""torch's own state: parameters, buffers, optimizers, schedulers, and attributes of objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

import keras
import ml_dtypes
import numpy as np
import torch

from perigee._backends import _alone, _objects
from perigee._backends._objects import Attributes, StateObject, has_state, kept, snapshot_of
from perigee._backends._plain_state import from_plain as decoded
from perigee._backends._plain_state import to_plain
from perigee._typing import Batch, Tensor

OF_MODULES = frozenset(vars(torch.nn.Module())) - {"training"}
"""What every module holds."""
_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


class TensorVariable:
    """The interface of a Keras variable for a parameter.

    Args:
        refer: Returns the parameter.
    """

    def __init__(self, refer: Callable[[], Any]) -> None:
        self.name = self.path = "parameter"
        self._refer = refer

    @property
    def value(self) -> Tensor:
        """The tensor."""
        return self._refer()

    @property
    def kind(self) -> str:
        """Its role in a Step."""
        return "trainable" if self.trainable else "non_trainable"

    @property
    def trainable(self) -> bool:
        """Whether gradients are computed for it."""
        return self.value.requires_grad

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape."""
        return tuple(self.value.shape)

    @property
    def dtype(self) -> str:
        """The name of its dtype."""
        return keras.backend.standardize_dtype(self.value.dtype)

    def assign(self, value: Any) -> Any:
        """Assign a value, in place."""
        value = value if isinstance(value, torch.Tensor) else tensor_of(np.asarray(value))
        with torch.no_grad():
            self.value.copy_(value)
        return value

    def read(self) -> np.ndarray:
        """Return its value on the host."""
        return array_of(self.value)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(array_of(self.value), dtype=dtype, copy=copy or None)


class BufferVariable(TensorVariable):
    """The interface of a Keras variable for a buffer: any tensor that is in its place.

    Args:
        refer: Returns the module.
        name: The name of the buffer.
    """

    def __init__(self, refer: Callable[[], Any], name: str) -> None:
        super().__init__(refer)
        self.name = self.path = name

    @property
    def trainable(self) -> bool:
        """Whether gradients are computed for it: a buffer is no parameter."""
        return False

    @property
    def value(self) -> Tensor:
        """The tensor."""
        return self._refer()._buffers[self.name]

    def assign(self, value: Any) -> Any:
        """Assign a value: in the tensor that it was read from, which is again in its place."""
        known = getattr(value, "held", None)
        if known is not None and known is not self.value:
            self._refer()._buffers[self.name] = known
        return super().assign(value)

    def read(self) -> np.ndarray:
        """Return its value on the host, with the tensor."""
        return snapshot_of(super().read(), self.value)


# The contract.


def as_keras_variable(value: Any) -> TensorVariable | None:
    """See `Backend.as_keras_variable`: parameters, and buffers as `content` returns them."""
    if isinstance(value, TensorVariable):
        return value
    if not isinstance(value, torch.nn.Parameter) or torch.nn.parameter.is_lazy(value):
        return None
    return kept(value, "", TensorVariable)


def is_container(kind: type) -> bool:
    """See `Backend.is_container`."""
    return issubclass(kind, torch.nn.Module)


def content(value: Any) -> Mapping[str, Any]:
    """See `Backend.content`."""
    modules = dict(value._modules)
    if isinstance(value, keras.Layer):
        modules.pop("_torch_params", None)  # what its variables are made of, or once were
    return {
        **value._parameters,
        **_buffers(value),
        **modules,
        **{k: v for k, v in vars(value).items() if k not in OF_MODULES},
    }


def _buffers(module: Any) -> dict[str, BufferVariable]:
    """Return what stands for the buffers of a module; those of lazy ones have no values yet."""
    held = module._buffers.items()
    names = [k for k, v in held if v is not None and not torch.nn.parameter.is_lazy(v)]
    return {k: kept(module, k, lambda refer, k=k: BufferVariable(refer, k)) for k in names}


def variables_of(module: Any) -> list[TensorVariable]:
    """Return what stands for the parameters and buffers of a module itself."""
    parameters = map(as_keras_variable, module._parameters.values())
    return [v for v in parameters if v is not None] + list(_buffers(module).values())


def read(variable: Any) -> np.ndarray:
    """See `Backend.read`."""
    return variable.read() if isinstance(variable, TensorVariable) else _alone.read(variable)


def state_object(value: Any) -> StateObject | None:
    """See `Backend.state_object`."""
    if isinstance(value, torch.Generator):
        return kept(value, "", _OfGenerator)
    if isinstance(value, torch.optim.Optimizer):
        return kept(value, "", _OfOptimizer)
    return None if isinstance(value, torch.nn.Module) else _objects.state_object(value)


class _OfGenerator(StateObject):
    """The state of a random generator of torch."""

    def _state(self) -> Any:
        return self.owner

    def _load(self, state: Any) -> None:
        del state  # the generator itself, which has it already


class _OfOptimizer(StateObject):
    """The state of an optimizer of torch, which numbers its parameters.

    The numbers may be others in the next process: Keras sorts the parameters of a layer that holds
    a module of torch by names that it generates. So what the parameters are called is saved beside.
    """

    def saved(self, path: str, keys: Mapping[int, str], only_tensors: bool = False) -> Any:
        """See the contract."""
        said = super().saved(path, keys, only_tensors)
        return {**said, _KEYS: self._keys(keys)} if "param_groups" in said else said

    def load(self, said: Any, keys: Mapping[int, str]) -> None:
        """See the contract."""
        held = self._state()
        said, before = dict(said), said.get(_KEYS, [])
        said.pop(_KEYS, None)
        state, now = decoded(said, held), self._keys(keys)
        if before != now and None not in now and set(before) == set(now):
            if isinstance(self.owner, torch.optim.LBFGS) and state["state"]:
                raise ValueError("its parameters are in another order")  # it joins them to a vector
            slots = dict(zip(before, _numbers(state), strict=True))
            places = zip(now, _numbers(held), strict=True)
            state["state"] = {
                place: state["state"][slots[key]]
                for key, place in places
                if slots[key] in state["state"]
            }
        self._load(state)

    def _keys(self, keys: Mapping[int, str]) -> list[str | None]:
        return [keys.get(id(p)) for group in self.owner.param_groups for p in group["params"]]


_KEYS = "keys"
"""Where the keys of an optimizer's parameters are saved."""


def _numbers(state: Mapping[str, Any]) -> list[int]:
    return [number for group in state["param_groups"] for number in group["params"]]


def attributes(owner: Any, names: Callable[[Any], MutableMapping[str, Any]]) -> Attributes:
    """See `Backend.attributes`."""
    skipped = OF_MODULES if isinstance(owner, torch.nn.Module) else ()
    return kept(owner, "", lambda refer: Attributes(refer, names, skipped))


def is_found(value: Any) -> bool:
    """See `Backend.is_found`."""
    return isinstance(value, torch.nn.Module | torch.nn.Parameter)


def as_plain(value: Any) -> Any:
    """See `Backend.as_plain`."""
    if isinstance(value, torch.Generator):
        return {"~state": to_plain(value.get_state())}
    if isinstance(value, torch.Tensor) and not isinstance(value, torch.nn.Parameter):
        array, dtype, device = array_of(value), str(value.dtype), str(value.device)
        return {"~tensor": array, "dtype": dtype.removeprefix("torch."), "device": device}
    return {"~kept": None} if isinstance(value, torch.dtype | torch.device) else None


def from_plain(plain: Mapping[str, Any], like: Any) -> Any:
    """See `Backend.from_plain`: in the tensor that is updated, if gradients are computed for it."""
    if "~state" in plain:
        if isinstance(like, torch.Generator):
            like.set_state(_tensor(plain["~state"]).cpu())
        return like
    is_leaf = isinstance(like, torch.Tensor) and like.requires_grad and like.is_leaf
    return _assigned(like, _tensor(plain)) if is_leaf else _tensor(plain)


def mark(tensor: Any) -> Any:
    """See `Backend.mark`."""
    return id(tensor), tensor._version


def put(known: Any, value: Any) -> Any:
    """See `Backend.put`."""
    names = ("shape", "dtype", "device")
    if type(known) is not type(value) or any(
        getattr(known, name) != getattr(value, name) for name in names
    ):
        return value
    with torch.no_grad():
        return known.copy_(value)


def array_of(tensor: torch.Tensor) -> np.ndarray:
    """Return a copy of a tensor on the host."""
    tensor = tensor.detach()
    tensor = (tensor.to_dense() if tensor.layout != torch.strided else tensor).cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().copy().view(_BFLOAT16)
    return tensor.resolve_conj().resolve_neg().numpy().copy()


def tensor_of(array: np.ndarray) -> torch.Tensor:
    """Return a copy of an array as a tensor on the host."""
    array = np.array(array, copy=True, order="C")
    if array.dtype == _BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)


def _tensor(plain: Mapping[str, Any]) -> torch.Tensor:
    tensor = tensor_of(plain["~tensor"]).to(getattr(torch, plain["dtype"]))
    return on_device(tensor, plain["device"])


def on_device(tensor: torch.Tensor, name: str) -> torch.Tensor:
    """Return a tensor on the device of a name, where there is one."""
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        device = keras.ops.zeros(()).device  # saved on another machine
    return tensor.to(device)


def _assigned(like: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    if like.shape != value.shape:
        return value.requires_grad_()
    with torch.no_grad():
        return like.copy_(value)


def objects_in(value: Any) -> Mapping[str, Any]:
    """See `Backend.objects_in`: parameters in optimizers, and what schedulers refer to."""
    if isinstance(value, torch.optim.Optimizer):
        groups = value.param_groups
        return {f"{i}/{j}": p for i, g in enumerate(groups) for j, p in enumerate(g["params"])}
    if isinstance(value, torch.nn.Module) or not has_state(value):
        return {}
    held = getattr(value, "__dict__", {})
    return {name: v for name, v in held.items() if _objects.is_found(v) or _holds_found(v)}


def _holds_found(value: Any) -> bool:
    return isinstance(value, list | tuple) and any(map(_objects.is_found, value))


def copied(batch: Batch) -> Batch:
    """See `Backend.copied`: steps may change a tensor in place, which a loader may still hold."""
    return keras.tree.map_structure(
        lambda leaf: leaf.clone() if isinstance(leaf, torch.Tensor) else leaf, batch
    )
