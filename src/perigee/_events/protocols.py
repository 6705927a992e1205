"""The seams between the rooms: what the loop needs of a feed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perigee._events.clock import Clock
from perigee._typing import Batch

Resumes: TypeAlias = Literal["exactly", "by replay", "not exactly"]
"""Whether data that is brought back to a position goes on like data that was never interrupted.

`"by replay"`: by drawing and dropping the batches before, exact where they depend on seeds alone.
"""


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

    def prepare_pass(self) -> None:
        """Do what the next pass needs, while the device works on the end of this one."""
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
        """Stand before what was drawn last, so that the next draw returns it again.

        What was drawn before it may follow, the last one first.
        """
        ...

    def look_ahead(self, most: int) -> bool:
        """Take one more batch of the pass to where `draw` will find it, while the device works.

        The position stays. Returns false where `most` batches wait to be drawn, where there is
        nothing to take, or nothing to be won: data that takes its batches ahead by itself.
        """
        ...

    @property
    def host_random(self) -> Any:
        """State of the host's generators before the batches drawn ahead, or `None`."""
        ...

    def seek(self, position: Position) -> None:
        """Stand at `position`, so that the next draw returns the batch that follows it."""
        ...

    @property
    def resumes(self) -> Resumes:
        """How well `load_state` will bring back the data, known before anything is drawn."""
        ...

    @property
    def resumes_because(self) -> str:
        """Why, as the end of a sentence: "The data resumes by replay, as ..."."""
        ...

    def state(self) -> dict[str, Any]:
        """Return where the next batch will be drawn, for a checkpoint.

        A tree of dicts with strings as keys and of lists, whose leaves are plain values and NumPy
        arrays.
        """
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Stand where another feed of the same data stood when it returned `state`.

        It is for a feed that has drawn nothing yet; a peek is no draw.

        Raises:
            DataChangedError: If the data is another one; it names what differs.
            NotResumableError: If the data cannot begin again.
            DataStateError: If `state` is no position of such data.
            PositionError: If the data holds fewer batches.
        """
        ...

    @property
    def begun(self) -> int:
        """Passes that were begun, where each has an order of its own that depends on it, or 0."""
        ...

    def begin_after(self, begun: int) -> None:
        """Let the next pass be the one that follows so many."""
        ...

    def close(self) -> None:
        """Stop workers and let go of the data."""
        ...


class Source(Protocol):
    """What a run needs of where batches come from: the part of a `Feed` that is saved."""

    @property
    def kind(self) -> str:
        """What the data is, for messages."""
        ...

    @property
    def resumes(self) -> Resumes:
        """How well `load_state` will bring back the data."""
        ...

    def peek(self) -> Batch:
        """Return the next batch without drawing it."""
        ...

    @property
    def host_random(self) -> Any:
        """State of the host's generators before the batches drawn ahead, or `None`."""
        ...

    def state(self) -> dict[str, Any]:
        """Return where the next batch will be drawn."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Stand where another one stood when it returned `state`."""
        ...


class Saving(Protocol):
    """Saves what a training needs to be resumed."""

    @property
    def origin(self) -> str | None:
        """The checkpoint from which training is resumed, or `None`."""
        ...

    def begin(self) -> None:
        """The first step comes next, and nothing before it."""
        ...

    def is_due(self, clock: Clock) -> bool:
        """Tell whether to save now."""
        ...

    def steps_until_due(self, clock: Clock) -> int | None:
        """Return how many steps remain until it is due; `None` where steps do not tell."""
        ...

    def save(
        self,
        clock: Clock,
        state: Callable[[], Mapping[str, Any]],
        finished: str | None,
        is_last: bool = False,
    ) -> None:
        """Save, unless this very state is saved already.

        Args:
            clock: Where training stands.
            state: Returns what the loop needs.
            finished: Why there is nothing left to train, or `None`.
            is_last: Whether the process is going to end: it is on the disk when this returns.
        """
        ...


class Guards(Protocol):
    """Watches a training, from what the host reads anyhow. What is found is told once."""

    def before(self, feed: Feed, clock: Clock) -> None:
        """The next step comes after this; `clock` says where the training stands."""
        ...

    def rows(self, columns: Sequence[Any], rows: NDArray[Any], clock: Clock) -> Sequence[Any]:
        """Return what is found in rows that were read.

        Args:
            columns: What their columns are.
            rows: Means and counts, shape `(steps, columns, 2)`.
            clock: After the last of them.
        """
        ...

    def epoch(
        self, program: Any, values: Mapping[str, float], spent: Mapping[str, float], clock: Clock
    ) -> Sequence[Any]:
        """Return what is found at the end of an epoch.

        Args:
            program: What ran.
            values: What was logged.
            spent: Seconds so far, as in `Ended.spent`.
            clock: After the last step of the epoch.
        """
        ...

    def origin(self, program: Any, name: str, value: float, step: int) -> Any:
        """Return where a logged value that is not finite began; `None` where it is not known."""
        ...

    def state(self) -> Mapping[str, Any]:
        """Return what must survive a restart."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
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

    def test_batch_end(self, index: int, logs: Mapping[str, float]) -> None:
        """A batch of a validation has ended; `logs` are means since it began, if it wants them."""
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

    def state(self) -> list[Any]:
        """Return what must survive a restart, of each callback in order."""
        ...

    def load_state(self, state: Sequence[Any]) -> None:
        """Take back what `state` returned, when training begins."""
        ...
