"""The seams between the rooms: what the loop needs of a feed."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from perigee._typing import Batch


@dataclass(frozen=True, slots=True)
class Position:
    """Where a feed stands.

    Attributes:
        passes: Passes over the data that are finished.
        batches: Batches drawn in the pass under way.
    """

    passes: int = 0
    batches: int = 0


@dataclass(frozen=True, slots=True)
class Resident:
    """A pass over arrays that are in memory, for code that cuts the batches itself.

    Attributes:
        arrays: A tree of arrays with one common first axis.
        order: Their rows in the order of the pass, shape `(rows,)`; `None` where it is their own.
        rows: How many.
        batch_size: Rows a batch; the last one may have fewer.
    """

    arrays: Batch
    order: NDArray[np.int64] | None
    rows: int
    batch_size: int

    @property
    def batches(self) -> int:
        """Batches of the pass, a smaller last one included."""
        return -(-self.rows // self.batch_size)

    @property
    def full_batches(self) -> int:
        """Batches of just `batch_size` rows."""
        return self.rows // self.batch_size


class Feed(Protocol):
    """Batches for the loop, one pass over the data after another.

    A feed draws in order and knows where it stands. After the last batch of a pass `draw` returns
    `None` once, and the draw after that begins the next pass.
    """

    @property
    def kind(self) -> str:
        """What the data is, for messages, such as `"arrays"` or `"tf.data.Dataset"`."""
        ...

    @property
    def length(self) -> int | None:
        """Batches a pass; `None` where the data does not tell."""
        ...

    @property
    def is_infinite(self) -> bool:
        """Whether a pass is known never to end."""
        ...

    @property
    def position(self) -> Position:
        """Where the next batch will be drawn."""
        ...

    def peek(self) -> Batch:
        """Return the next batch without drawing it: the next `draw` returns the same one.

        Raises:
            EmptyDataError: If there is none.
        """
        ...

    def draw(self) -> Batch | None:
        """Return the next batch, or `None` once at the end of each pass."""
        ...

    def resident(self) -> Resident | None:
        """Return the pass under way where its data may be kept in memory, or `None`."""
        ...

    def skip(self, count: int) -> None:
        """Stand `count` batches further in the pass: code that holds its arrays drew them."""
        ...

    @property
    def is_stream(self) -> bool:
        """Whether the framework has an iterator for it that compiled code draws from."""
        ...

    def stream(self) -> tuple[Any, Any] | None:
        """Return the iterator of the pass, and the batch that was taken from it already.

        The batch is an optional of the framework and may be empty. `None` where the pass is over,
        which the next `draw` tells.
        """
        ...

    def advance(self, count: int, is_over: bool) -> None:
        """Take note of batches that were drawn from the iterator, and of the end of its pass."""
        ...

    def put_back(self, batch: Batch | None) -> None:
        """Stand before what was drawn last, so that the next draw returns it again."""
        ...

    def seek(self, position: Position) -> None:
        """Stand at `position`, so that the next draw returns the batch that follows it."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the position as numbers, strings, lists and dicts, for a checkpoint."""
        ...

    def close(self) -> None:
        """Stop workers and let go of the data."""
        ...


class Callbacks(Protocol):
    """Keras's callbacks, as the loop calls them; see `keras.callbacks.Callback`."""

    @property
    def wants_batches(self) -> bool:
        """Whether one of them looks at single batches."""
        ...

    @property
    def wants_test_batches(self) -> bool:
        """Whether one of them looks at single batches of a validation."""
        ...

    @property
    def stop_requested(self) -> bool:
        """Whether one of them asked to stop."""
        ...

    def train_begin(self) -> None:
        """Training begins."""
        ...

    def epoch_begin(self, epoch: int) -> None:
        """An epoch begins."""
        ...

    def train_batch_begin(self, index: int) -> None:
        """A batch of the epoch begins."""
        ...

    def train_batch_end(self, index: int, logs: Mapping[str, float]) -> None:
        """A batch of the epoch has ended."""
        ...

    def test_begin(self) -> None:
        """A validation begins."""
        ...

    def test_batch_begin(self, index: int) -> None:
        """A batch of a validation begins."""
        ...

    def test_batch_end(self, index: int) -> None:
        """A batch of a validation has ended."""
        ...

    def test_end(self, logs: Mapping[str, float]) -> None:
        """A validation has ended."""
        ...

    def epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """An epoch has ended."""
        ...

    def train_end(self, logs: Mapping[str, float]) -> None:
        """Training has ended."""
        ...
