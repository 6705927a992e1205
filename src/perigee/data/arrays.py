"""Arrays in memory: one data set, split into batches here."""

import os
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from perigee._errors import ArrayLengthError, DataTypeError, EmptyDataError
from perigee._events.protocols import Position, Resident, Resumes
from perigee._typing import Batch, Shuffle, Tree
from perigee.data._order import permutation
from perigee.data._passes import END, PassFeed
from perigee.data._sparse import Rows, is_rows, rows_of
from perigee.data._spec import (
    describe,
    floatx,
    is_array_like,
    is_floating,
    leaves_with_paths,
    map_leaves,
    refusal,
    shortened,
    to_numpy,
)

_RESIDENT_SHARE = 0.25
"""Arrays that take more than this share of the free memory are not copied to the device.

There may be two copies of them there, one of them in the order of the pass."""


class ArrayFeed(PassFeed):
    """Batches of rows of arrays, shuffled or in order; the last one may be smaller.

    Floating arrays are cast to Keras's `floatx` once. All others are used without a copy, and
    unshuffled batches are views of them.

    Args:
        arrays: An array, or tuples and dicts of arrays, nested as needed; `None` stays `None`.
            Tensors of any framework, data frames and sparse matrices are arrays too.
        batch_size: Rows per batch, at least 1.
        shuffle: Whether each pass draws the rows in another order; with `"batch"` each batch keeps
            its rows, in another order.
        seed: Determines the order, together with the index of the pass.

    Attributes:
        arrays: The arrays as NumPy arrays, in the same structure.
        rows: Their common number of rows.
        batch_size: Rows per batch.
        shuffle: Whether the rows are shuffled, or `"batch"`.
        seed: The seed of the order.

    Raises:
        ArrayLengthError: If the arrays differ in length.
        EmptyDataError: If there are no rows.
        DataTypeError: If something is not an array, is masked, has no rows, or is sparse or ragged
            where the framework has no such tensors.
    """

    seeks_directly = True
    checks_batches = False
    decided_by_state: ClassVar[tuple[str, ...]] = ("seed",)

    def __init__(self, arrays: Tree, *, batch_size: int, shuffle: Shuffle, seed: int) -> None:
        super().__init__("arrays")
        named = [(path, _as_array(leaf, path)) for path, leaf in leaves_with_paths(arrays)]
        leaves = iter([array for _, array in named])
        self.arrays: Tree = map_leaves(lambda _: next(leaves), arrays)
        lengths = {path: len(array) for path, array in named}
        if len(set(lengths.values())) > 1:
            raise ArrayLengthError([f"{path}: {rows} rows" for path, rows in lengths.items()])
        self.rows: int = next(iter(lengths.values()), 0)
        if self.rows == 0:
            raise EmptyDataError(self.kind)
        self.batch_size: int = int(batch_size)
        self.shuffle: Shuffle = shuffle
        self.seed: int = seed
        self._permuted: tuple[tuple[int, int], NDArray[np.int64]] | None = None
        self._is_resident: bool | None = None
        self._resident: tuple[int, Resident] | None = None

    @property
    def length(self) -> int:
        """Batches per pass."""
        return -(-self.rows // self.batch_size)

    def permutation(self, pass_index: int) -> NDArray[np.int64]:
        """Return the rows in the order in which a pass draws them, shape `(rows,)`.

        Args:
            pass_index: The index of the pass, from 0.
        """
        if not self.shuffle:
            return np.arange(self.rows)
        which = self.seed, pass_index
        if self._permuted is None or self._permuted[0] != which:
            order = permutation(self.seed, pass_index, self.rows)
            if self.shuffle == "batch":
                order = order[np.argsort(order // self.batch_size, kind="stable")]
            self._permuted = which, order
        return self._permuted[1]

    def resident(self) -> Resident | None:
        """Return the current pass, unless the arrays are large, sparse, ragged or hold text."""
        if self._is_resident is None:
            arrays = [array for _, array in leaves_with_paths(self.arrays)]
            size = sum(array.nbytes for array in arrays)
            is_plain = not any(array.dtype.kind in "SUO" or is_rows(array) for array in arrays)
            self._is_resident = is_plain and size < _free_bytes() * _RESIDENT_SHARE
        if not self._is_resident:
            return None
        pass_index = self._position.passes
        if self._resident is None or self._resident[0] != pass_index:
            order = self.permutation(pass_index) if self.shuffle else None
            resident = Resident(self.arrays, order, self.rows, self.batch_size)
            self._resident = pass_index, resident
        return self._resident[1]

    def prepare_pass(self) -> None:
        """Draw the order of the next pass."""
        if self.shuffle:
            self.permutation(self._position.passes + 1)

    def seek(self, position: Position) -> None:
        """Move to `position`, in constant time.

        Args:
            position: Finished passes and batches.

        Raises:
            PositionError: If a pass has fewer batches.
        """
        if position.batches > self.length:
            raise self._position_error(position, f"it holds {self.length} batches per pass")
        super().seek(position)

    def advice(self, batch: Batch) -> str | None:
        """Return the line for labels that were left out, if there is one array only.

        Args:
            batch: The first batch.
        """
        if isinstance(self.arrays, tuple | Mapping):
            return None
        return (
            f"The data is one array, so each batch is one, {describe(batch)}. If the step unpacks "
            "`x, y`, pass both as one data set: `(x, y)`."
        )

    def _resumption(self) -> tuple[Resumes, str]:
        return "exactly", "its order follows from the seed"

    def _load(self, position: Position, state: Mapping[str, Any]) -> None:
        seed = self._saved_count(state["data"], "seed", below=2**64)
        self.seek(position)
        self.seed = seed
        self._resident = None

    def _facts(self) -> dict[str, Any]:
        named = leaves_with_paths(self.arrays)
        rows = [f"{path} {array.dtype} {array.shape[1:]}".lstrip() for path, array in named]
        return {
            "rows": self.rows,
            "spec": shortened(", ".join(rows)),
            "batch_size": int(self.batch_size),
            "shuffle": self.shuffle if self.shuffle == "batch" else bool(self.shuffle),
            "seed": int(self.seed),
        }

    def _open(self, position: Position) -> None:
        """Nothing: the order is computed with the first batch that needs it."""

    def _take(self, position: Position) -> Batch:
        start = position.batches * self.batch_size
        if start >= self.rows:
            return END
        stop = min(start + self.batch_size, self.rows)
        rows = self.permutation(position.passes)[start:stop] if self.shuffle else slice(start, stop)
        return map_leaves(lambda array: array[rows], self.arrays)

    def _let_go(self) -> None:
        """Nothing: the order of a pass is kept for later calls."""


_AS_ARRAY = "make it an array with `np.asarray(...)`."


def _free_bytes() -> float:
    """Return the free memory of the machine, in bytes; infinite if unknown."""
    try:
        return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return float("inf")


def _as_array(leaf: Any, path: str) -> NDArray[Any] | Rows:
    """Return a leaf as an array with rows, in a dtype that every framework supports."""
    rows = rows_of(leaf)
    if rows is not None:
        return rows
    _refuse(leaf, path)
    array = to_numpy(leaf)
    if array.ndim == 0:
        raise DataTypeError(
            _at(f"{type(leaf).__name__} of shape ()", path),
            "give it a first axis for the examples.",
        )
    if is_floating(array.dtype):
        return array.astype(floatx(), copy=False)
    if array.dtype.kind not in "biucSUO" or (array.dtype.kind == "O" and not _is_text(array)):
        raise DataTypeError(
            _at(f"array of dtype {array.dtype}", path),
            "make it an array of numbers or strings with `.astype(...)`: pad rows of different "
            "lengths, and split columns of different types into a dict of arrays.",
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _refuse(leaf: Any, path: str) -> None:
    error = refusal(leaf)
    if error is not None:
        raise DataTypeError(_at(error.kind, path), error.fix)
    if isinstance(leaf, (tuple, list)):
        raise DataTypeError(_at(describe(leaf), path), _AS_ARRAY)
    if not is_array_like(leaf) and hasattr(leaf, "__getitem__") and hasattr(leaf, "__len__"):
        raise DataTypeError(_at(type(leaf).__name__, path), _AS_ARRAY)
    if not is_array_like(leaf):
        raise DataTypeError(
            _at(type(leaf).__name__, path),
            "put only arrays into a tuple or dict, and pass anything else as the data itself.",
        )


def _is_text(array: NDArray[Any]) -> bool:
    return all(isinstance(item, (str, bytes)) for item in array.flat)


def _at(kind: str, path: str) -> str:
    return f"{kind} (at {path})" if path else kind
