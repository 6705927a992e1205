# pyright: basic
"""Arrays of JAX, to and from the host."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import keras
import numpy as np
from jax.core import Tracer

from perigee._backends import _without_objects
from perigee._typing import Batch, Tensor, Tree


def tensors(batch: Batch) -> Batch:
    """See `Backend.tensors`; tensors of other frameworks are copied through the host."""
    return keras.tree.map_structure(_tensor, batch)


def _tensor(value: Any) -> Any:
    array = as_array(value)
    return jnp.asarray(array) if _is_numeric(array) else array


def _is_numeric(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "biufcV"


def as_array(value: Any) -> Any:
    """Return a leaf as an array of JAX or NumPy whose values JAX will not truncate; else as is."""
    if value is None or isinstance(value, jax.Array) or _is_sparse(value):
        return value
    array = _numpy(value)
    if not _is_numeric(array):
        return value  # strings stay on the host
    kept = jax.dtypes.canonicalize_dtype(array.dtype)
    if array.dtype.kind in "iu" and kept != array.dtype and array.size:
        limits = np.iinfo(kept)
        if array.max() > limits.max or array.min() < limits.min:
            raise OverflowError(
                f"JAX would silently truncate {array.dtype} values beyond {kept}. Enable 64-bit "
                "values (`jax_enable_x64`) or map them to smaller numbers."
            )
    return array


def _is_sparse(value: Any) -> bool:
    return type(value).__module__.startswith("jax.experimental.sparse")


def _numpy(value: Any) -> np.ndarray:
    if hasattr(value, "detach"):  # a torch tensor
        value = value.detach().cpu()
    return np.asarray(value)


def to_host(tree: Tree) -> Tree:
    """See `Backend.to_host`."""
    return keras.tree.map_structure(
        lambda value: np.asarray(value) if isinstance(value, jax.Array) else value, tree
    )


def is_tensor(value: Any) -> bool:
    """See `Backend.is_tensor`; includes arrays that are being traced."""
    return isinstance(value, jax.Array)


def tensors_in(value: Any) -> Mapping[str, Tensor]:
    """See `Backend.tensors_in`: pytrees, such as the states of Optax."""
    if jax.tree_util.all_leaves([value]):
        return {}
    leaves, _ = jax.tree_util.tree_flatten_with_path(value)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): leaf
        for path, leaf in leaves
        if isinstance(leaf, jax.Array)
    }


def holds_keys(value: Any) -> bool:
    """See `Backend.holds_keys`: `jax.random.key` makes them."""
    return jax.numpy.issubdtype(value.dtype, jax.dtypes.prng_key)


def tensors_to_store(variables: Sequence[Any]) -> Callable[[Any], tuple[np.ndarray, str] | None]:
    """See `Backend.tensors_to_store`: arrays do not change, so none changes with a variable."""
    del variables

    def values(value: Any) -> tuple[np.ndarray, str] | None:
        if not isinstance(value, jax.Array) or isinstance(value, Tracer):
            return None
        if holds_keys(value) or value.is_deleted() or not value.is_fully_addressable:
            return None
        return np.array(value), ""

    return values


def stored_tensor(array: np.ndarray, device: str) -> Tensor:
    """See `Backend.stored_tensor`: on the device that JAX chooses."""
    del device
    return jnp.asarray(as_array(array))


def as_plain(value: Any) -> Any:
    """See `Backend.as_plain`: keys in a type of their own are their data."""
    if isinstance(value, jax.Array) and holds_keys(value) and not isinstance(value, Tracer):
        return {"~tensor": np.array(jax.random.key_data(value)), "keys": _kind_of_keys(value)}
    return _without_objects.as_plain(value)


def _kind_of_keys(value: Any) -> str:
    return str(jax.random.key_impl(value))


def from_plain(plain: Mapping[str, Any], like: Any) -> Any:
    """See `Backend.from_plain`."""
    value = _without_objects.from_plain(plain, like)
    return jax.random.wrap_key_data(value, impl=plain["keys"]) if "keys" in plain else value


def dense(gradient: Tensor) -> Tensor:
    """See `Backend.dense`: JAX has no sparse gradients."""
    return gradient


def all_finite(tensors: Sequence[Tensor]) -> Tensor:
    """See `Backend.all_finite`."""
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(tensor)) for tensor in tensors]))


def device_names() -> list[str]:
    """See `Backend.device_names`."""
    return [str(device.device_kind) for device in jax.local_devices()]


def random_state() -> None:
    """See `Backend.random_state`: JAX has no global generator."""
    return None


def set_random_state(state: None) -> None:
    """See `Backend.set_random_state`: there is none."""


def rewind_random_state(seed: int = 0) -> None:
    """See `Backend.rewind_random_state`: there is none."""
    del seed
