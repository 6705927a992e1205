"""Trees of arrays: traversing, converting and comparing them."""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from perigee._errors import DataTypeError
from perigee._typing import Batch, Tree

_PLAIN = (bool, int, float, str, bytes)
_MOST_DESCRIBED = 8
_LONGEST_TEXT = 1000


def map_leaves(function: Callable[[Any], Any], tree: Tree) -> Tree:
    """Apply `function` to every leaf of tuples, lists and dicts; `None` stays `None`.

    Named tuples keep their type; mappings become dicts.
    """
    if type(tree) is np.ndarray:  # the most frequent leaf, before the slower checks
        return function(tree)
    if isinstance(tree, tuple):
        items = [map_leaves(function, item) for item in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else tuple(items)
    if isinstance(tree, list):
        return [map_leaves(function, item) for item in tree]
    if isinstance(tree, Mapping):
        return {key: map_leaves(function, item) for key, item in tree.items()}
    return None if tree is None else function(tree)


def leaves_with_paths(tree: Tree, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each leaf with its path, such as `"[0]['image']"`; `None` is skipped.

    A list of plain numbers or strings is one leaf, since it represents an array.
    """
    if isinstance(tree, (tuple, list)) and not is_plain_column(tree):
        for index, item in enumerate(tree):
            yield from leaves_with_paths(item, f"{path}[{index}]")
    elif isinstance(tree, Mapping):
        for key, item in tree.items():
            yield from leaves_with_paths(item, f"{path}[{key!r}]")
    elif tree is not None:
        yield path, tree


def signature(batch: Batch) -> Any:
    """Return what must not change from batch to batch: structure, dtypes and ranks.

    Signatures compare with `==`. It costs about a microsecond for two arrays, so every batch of a
    feed can be checked.

    Args:
        batch: A tree of arrays.
    """
    kind = type(batch)
    if kind is np.ndarray:
        dtype = batch.dtype
        # The length of the longest string in a batch is a size, not a type.
        return (dtype.kind if dtype.kind in "SU" else dtype, batch.ndim)
    if batch is None:
        return None
    if isinstance(batch, Mapping):
        return {key: signature(item) for key, item in batch.items()}
    if isinstance(batch, (tuple, list)):
        if is_plain_column(batch):
            return (kind, type(batch[0]))
        return (kind, [signature(item) for item in batch])
    dtype = getattr(batch, "dtype", None)
    return kind if dtype is None else (dtype, len(batch.shape))


def is_plain_column(items: tuple[Any, ...] | list[Any]) -> bool:
    """Return whether it is one value per example, as plain numbers or strings, not a structure.

    A torch `DataLoader` collates strings to a list with the length of the batch.
    """
    return bool(items) and type(items[0]) in _PLAIN and all(type(item) in _PLAIN for item in items)


def has_rows(batch: Batch) -> bool:
    """Return whether all leaves of a batch are arrays with a common first axis."""
    sizes = [(*getattr(leaf, "shape", ()), None)[0] for _, leaf in leaves_with_paths(batch)]
    return bool(sizes) and None not in sizes and len(set(sizes)) == 1


def describe(batch: Batch) -> str:
    """Return a readable description of a batch: `(float32 (32, 64), int64 (32,))`."""
    if batch is None:
        return "None"
    if isinstance(batch, Mapping):
        return "{" + _listed([f"{key!r}: {describe(item)}" for key, item in batch.items()]) + "}"
    if isinstance(batch, (tuple, list)):
        if is_plain_column(batch):
            return f"{type(batch).__name__} of {len(batch)} {type(batch[0]).__name__}"
        inner = _listed([describe(item) for item in batch])
        if isinstance(batch, list):
            return f"[{inner}]"
        return f"({inner},)" if len(batch) == 1 else f"({inner})"
    dtype = getattr(batch, "dtype", None)
    if dtype is None:
        return type(batch).__name__
    name = getattr(dtype, "name", str(dtype)).removeprefix("torch.")
    return f"{name} {tuple(batch.shape)}"


def shortened(text: str) -> str:
    """Return a text, abbreviated to its beginning and a digest if it is long."""
    if len(text) <= _LONGEST_TEXT:
        return text
    digest = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    return f"{text[:_LONGEST_TEXT]}... #{digest}"


def _listed(items: list[str]) -> str:
    left_out = len(items) - _MOST_DESCRIBED
    shown = items[:_MOST_DESCRIBED]
    return ", ".join([*shown, f"... {left_out} more"] if left_out > 0 else shown)


def floatx() -> np.dtype[Any]:
    """Return the floating dtype that Keras computes in."""
    name = keras.config.floatx()
    if name == "bfloat16":
        import ml_dtypes  # registers the name with NumPy

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Return whether it is a floating dtype, including those that NumPy lacks (bfloat16)."""
    return dtype.kind == "f" or (dtype.kind == "V" and "float" in dtype.name)


def framework_of(leaf: Any) -> str | None:
    """Return the framework of a tensor, by Keras's name; `None` for everything else."""
    root = type(leaf).__module__.partition(".")[0]
    if root in ("tensorflow", "torch", "jax"):
        return root
    return "jax" if root == "jaxlib" else None


def is_array_like(leaf: Any) -> bool:
    """Return whether it can become a NumPy array: arrays, tensors, data frames."""
    return hasattr(leaf, "__array__") or hasattr(leaf, "to_numpy")


def refusal(leaf: Any) -> DataTypeError | None:
    """Return the error for an array that is masked, or that `rows_of` does not take."""
    kind = type(leaf).__name__
    root = type(leaf).__module__
    if root.startswith("jax.experimental.sparse"):
        return DataTypeError(kind, "make it dense with `.todense()`.")
    if root.startswith("tensorflow"):
        if kind.startswith("Ragged"):
            return DataTypeError(kind, "pad it with `.to_tensor()`.")
        if kind == "PerReplica":
            return DataTypeError(
                f"{kind}, as of a distributed dataset,",
                "pass the `tf.data.Dataset` itself, with global batches: Perigee splits each of "
                "them among the replicas.",
            )
        if kind.startswith(("SparseTensor", "IndexedSlices")):
            return DataTypeError(kind, "make it dense with `tf.sparse.to_dense(...)`.")
    layout = str(getattr(leaf, "layout", "torch.strided"))
    if root.startswith("torch") and layout != "torch.strided":
        return DataTypeError(f"{kind} ({layout})", "make it dense with `.to_dense()`.")
    if isinstance(leaf, np.ma.MaskedArray):
        return DataTypeError(kind, "fill it with `.filled(value)`, and pass the mask separately.")
    return None


def to_numpy(leaf: Any) -> Any:
    """Return an array, data frame or tensor of any framework as a NumPy array, shared if possible.

    A tensor on an accelerator is copied to the host, which waits for the device.
    """
    if framework_of(leaf) == "torch":
        leaf = leaf.detach().cpu()
        if str(leaf.dtype) == "torch.bfloat16":  # NumPy lacks it, and torch cannot convert it
            leaf = leaf.float()
        return leaf.numpy()
    if hasattr(leaf, "to_numpy"):  # pandas and similar
        return np.asarray(leaf.to_numpy())
    return np.asarray(leaf)
