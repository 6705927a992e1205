"""Rows of sparse and ragged arrays, which NumPy arrays cannot hold."""

from __future__ import annotations

from typing import Any, Protocol

import keras
import numpy as np
from numpy.typing import NDArray

from perigee.data._jax_arrays import bcoo
from perigee.data._spec import floatx, is_floating
from perigee.data._tf_tensors import RaggedRows, sparse_tensor


class Rows(Protocol):
    """An array whose rows are taken as tensors of the framework.

    Attributes:
        dtype: The dtype of its values.
        shape: Its shape; `None` where rows differ in length.
        nbytes: The memory that it takes.
    """

    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    nbytes: int

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any) -> Any:
        """Return some rows, by a slice or by their indices, as a tensor."""
        ...

    def part(self, start: int, end: int | None) -> Rows:
        """Return consecutive rows as an array of the same kind."""
        ...


def is_rows(leaf: Any) -> bool:
    """Return whether `rows_of` has made it."""
    return isinstance(leaf, _SparseRows | RaggedRows)


def rows_of(leaf: Any) -> Rows | None:
    """Return a sparse or ragged array as rows; `None` for what the framework has no tensors for.

    As in `fit`, SciPy's matrices become sparse tensors of TensorFlow and JAX and dense arrays on
    torch; those of the framework itself keep their kind.
    """
    if is_rows(leaf):
        return leaf
    kind, root = type(leaf).__name__, type(leaf).__module__
    native = keras.config.backend()
    if root.startswith("scipy.sparse") and hasattr(leaf, "tocoo"):
        coo = leaf.tocoo()
        return _SparseRows(np.stack([coo.row, coo.col], axis=1), coo.data, coo.shape)
    if native == "jax" and root.startswith("jax.experimental.sparse") and kind == "BCOO":
        is_flat = leaf.n_batch == leaf.n_dense == 0
        data = np.asarray(leaf.indices), np.asarray(leaf.data), leaf.shape
        return _SparseRows(*data) if is_flat else None
    if native == "tensorflow" and root.startswith("tensorflow"):
        if kind == "RaggedTensor":
            return RaggedRows(leaf)
        if kind == "SparseTensor":
            shape = tuple(int(size) for size in leaf.dense_shape)
            return _SparseRows(leaf.indices.numpy(), leaf.values.numpy(), shape)
    return None


class _SparseRows:
    """A sparse array by its coordinates, in the order of its rows."""

    def __init__(self, indices: NDArray[Any], values: NDArray[Any], shape: tuple[int, ...]) -> None:
        stored = np.all(indices < np.asarray(shape), axis=1)  # JAX pads with indices beyond it
        indices, values = indices[stored], values[stored]
        order = np.lexsort(indices.T[::-1])
        self._indices = indices[order].astype(np.int64, copy=False)
        self._values: NDArray[Any] = values[order]
        if is_floating(values.dtype):
            self._values = self._values.astype(floatx(), copy=False)
        self._starts = np.searchsorted(self._indices[:, 0], np.arange(shape[0] + 1))
        self.dtype: np.dtype[Any] = self._values.dtype
        self.shape: tuple[int | None, ...] = shape
        self.nbytes: int = self._indices.nbytes + self._values.nbytes

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, rows: Any) -> Any:
        indices, values, shape = self._taken(rows)
        backend = keras.config.backend()
        if backend == "tensorflow":
            return sparse_tensor(indices, values, shape)
        if backend == "jax":
            return bcoo(indices, values, shape)
        dense = np.zeros(shape, self.dtype)
        np.add.at(dense, tuple(indices.T), values)  # SciPy may store one place twice
        return dense

    def part(self, start: int, end: int | None) -> Rows:
        """Return consecutive rows as an array of the same kind."""
        return _SparseRows(*self._taken(slice(start, end)))

    def _taken(self, rows: Any) -> tuple[NDArray[Any], NDArray[Any], tuple[int, ...]]:
        chosen = np.arange(len(self))[rows]
        counts = self._starts[chosen + 1] - self._starts[chosen]
        firsts = np.cumsum(counts) - counts
        places = np.arange(counts.sum()) + np.repeat(self._starts[chosen] - firsts, counts)
        indices = self._indices[places]
        indices[:, 0] = np.repeat(np.arange(len(chosen)), counts)
        return indices, self._values[places], (len(chosen), *self._inner)

    @property
    def _inner(self) -> tuple[int, ...]:
        return tuple(int(size or 0) for size in self.shape[1:])
