"""Protocols between the rooms: what the loop needs from feeds, guards and callbacks."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from perigee._events.clock import Clock
from perigee._typing import Batch

Resumes: TypeAlias = Literal["exactly", "by replay", "not exactly"]
"""Whether data that is moved to a saved position continues like uninterrupted data.

`"by replay"`: by drawing and dropping the batches before it, exact if they depend on seeds alone.
"""


@dataclass(frozen=True, slots=True)
class Position:
    """The position of a feed.

    Attributes:
        passes: Finished passes over the data.
        batches: Batches drawn in the current pass.
    """

    passes: int = 0
    batches: int = 0


@dataclass(frozen=True, slots=True)
class Resident:
    """A pass over arrays in memory, for code that slices the batches itself.

    Attributes:
        arrays: A tree of arrays with one common first axis.
        order: Row indices in the order of the pass, shape `(rows,)`; `None` for their own order.
        rows: The number of rows.
        batch_size: Rows per batch; the last one may have fewer.
    """

    arrays: Batch
    order: NDArray[np.int64] | None
    rows: int
    batch_size: int

    @property
    def batches(self) -> int:
        """Batches of the pass, including a smaller last one."""
        return -(-self.rows // self.batch_size)

    @property
    def full_batches(self) -> int:
        """Batches with exactly `batch_size` rows."""
        return self.rows // self.batch_size


class Feed(Protocol):
    """Batches for the loop, one pass over the data after another.

    A feed draws in order and knows its position. After the last batch of a pass `draw` returns
    `None` once, and the draw after that begins the next pass.
    """

    @property
    def kind(self) -> str:
        """The kind of data, for messages, such as `"arrays"` or `"tf.data.Dataset"`."""
        ...

    @property
    def length(self) -> int | None:
        """Batches per pass; `None` if unknown."""
        ...

    @property
    def is_infinite(self) -> bool:
        """Whether a pass is known to be infinite."""
        ...

    @property
    def is_over(self) -> bool:
        """Whether no batch is left and the data cannot be restarted, such as a generator object."""
        ...

    @property
    def position(self) -> Position:
        """The position of the next batch."""
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
        """Return the current pass if its data may be kept in memory, or `None`."""
        ...

    def prepare_pass(self) -> None:
        """Prepare the next pass, while the device works on the end of this one."""
        ...

    def skip(self, count: int) -> None:
        """Advance by `count` batches that were drawn by code that holds the arrays."""
        ...

    @property
    def is_stream(self) -> bool:
        """Whether compiled code can draw from an iterator of the framework."""
        ...

    def stream(self) -> tuple[Any, Any] | None:
        """Return the iterator of the pass, and the batch that was already taken from it.

        The batch is an optional of the framework and may be empty. `None` if the pass has ended, as
        the next `draw` will show.
        """
        ...

    def advance(self, count: int, is_over: bool) -> None:
        """Record batches that were drawn from the iterator, and the end of its pass."""
        ...

    def ends(self) -> bool:
        """Draw the end of the pass if no batch of it is left, and return whether that is so."""
        ...

    def push_back(self, batch: Batch | None) -> None:
        """Return what was drawn last to the feed, so that the next draw returns it again.

        Earlier batches may follow, the last one first.
        """
        ...

    def look_ahead(self, most: int) -> bool:
        """Prefetch one more batch of the pass for `draw`, while the device works.

        The position does not change. Returns false if `most` batches wait to be drawn, if the pass
        has ended, or if the data already prefetches.
        """
        ...

    @property
    def host_random(self) -> Any:
        """State of the host's generators before the prefetched batches, or `None`."""
        ...

    def seek(self, position: Position) -> None:
        """Move to `position`, so that the next draw returns the batch that follows it."""
        ...

    def rewind(self) -> None:
        """Move to the beginning; data that is drawn once stays where it is."""
        ...

    @property
    def resumes(self) -> Resumes:
        """How well `load_state` will restore the position, known before anything is drawn."""
        ...

    @property
    def resumes_because(self) -> str:
        """The reason, as the end of a sentence: "The data resumes by replay, as ..."."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the position of the next batch, for a checkpoint.

        A tree of dicts with strings as keys and of lists, whose leaves are plain values and NumPy
        arrays.
        """
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Move to the position of another feed of the same data, which returned `state`.

        Only for a feed that has drawn nothing yet; a peek does not count.

        Raises:
            DataChangedError: If the data differs; the error says how.
            NotResumableError: If the data cannot be restarted.
            DataStateError: If `state` is not a position of such data.
            PositionError: If the data holds fewer batches.
        """
        ...

    @property
    def begun(self) -> int:
        """The number of passes begun, if the order of a pass depends on it, or 0."""
        ...

    def begin_after(self, begun: int) -> None:
        """Make the next pass the one that follows `begun` passes."""
        ...

    def facts(self) -> dict[str, Any]:
        """Return what the order and the shapes of the batches depend on, without the seed."""
        ...

    def begin_pass(self, passes: int) -> None:
        """Move to the beginning of a pass, without drawing what came before."""
        ...

    def advice(self, batch: Batch) -> str | None:
        """Return what may be meant by data whose first batch no step takes; `None`: just this."""
        ...

    def close(self) -> None:
        """Stop workers and release the data."""
        ...


class Source(Protocol):
    """What a run needs from the source of batches: the part of a `Feed` that is saved."""

    @property
    def kind(self) -> str:
        """The kind of data, for messages."""
        ...

    @property
    def resumes(self) -> Resumes:
        """How well `load_state` will restore the position."""
        ...

    def peek(self) -> Batch:
        """Return the next batch without drawing it."""
        ...

    @property
    def host_random(self) -> Any:
        """State of the host's generators before the prefetched batches, or `None`."""
        ...

    def state(self) -> dict[str, Any]:
        """Return the position of the next batch."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Move to the position of another one, which returned `state`."""
        ...


class Begun(Protocol):
    """What a run needs from the validation data."""

    @property
    def begun(self) -> int:
        """The number of passes begun, as in `Feed`."""
        ...


class Saving(Protocol):
    """Saves what a training needs to be resumed."""

    @property
    def origin(self) -> str | None:
        """The checkpoint from which training is resumed, or `None`."""
        ...

    def begin(self) -> None:
        """Called directly before the first step."""
        ...

    def is_due(self, clock: Clock) -> bool:
        """Return whether to save now."""
        ...

    def steps_until_due(self, clock: Clock) -> int | None:
        """Return how many steps remain until it is due; `None` if it does not depend on steps."""
        ...

    def save(
        self,
        clock: Clock,
        state: Callable[[], Mapping[str, Any]],
        finished: str | None,
        is_last: bool = False,
    ) -> None:
        """Save, unless this same state is already saved, with the best value logged since then.

        Args:
            clock: The progress of the training.
            state: Returns the state of the loop.
            finished: Why the training is complete, or `None`.
            is_last: Whether the process is about to end: then the checkpoint is on the disk on
                return.
        """
        ...

    def measuring(self, clock: Clock | None) -> None:
        """Called directly before a validation that may measure other weights than are saved.

        And with `None` where that validation is left before its end.
        """
        ...


class Guards(Protocol):
    """Watches a training, using values that the host reads anyway; reports a finding once."""

    def before(self, feed: Feed, clock: Clock) -> None:
        """Called before the next step; `clock` is the progress of the training."""
        ...

    def rows(self, columns: Sequence[Any], rows: NDArray[Any], clock: Clock) -> Sequence[Any]:
        """Return findings in rows that were read.

        Args:
            columns: Their columns.
            rows: Means and counts, shape `(steps, columns, 2)`.
            clock: The progress after the last of them.
        """
        ...

    def epoch(
        self, program: Any, values: Mapping[str, float], spent: Mapping[str, float], clock: Clock
    ) -> Sequence[Any]:
        """Return findings at the end of an epoch.

        Args:
            program: The program that ran.
            values: The logged values.
            spent: Seconds so far, as in `Ended.spent`.
            clock: The progress after the last step of the epoch.
        """
        ...

    def origin(self, program: Any, name: str, value: float, step: int, within: range | None) -> Any:
        """Return where a value that is not finite began; `None` if unknown.

        Args:
            program: The program that ran.
            name: The name of a logged value or of a variable.
            value: NaN or an infinity.
            step: The step that logged it.
            within: For a variable, the steps one of which wrote it.
        """
        ...

    def state(self) -> Mapping[str, Any]:
        """Return what must survive a restart."""
        ...

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        ...


class Callbacks(Protocol):
    """Keras's callbacks, as the loop calls them; see `keras.callbacks.Callback`."""

    @property
    def wants_batches(self) -> bool:
        """Whether one of them observes single batches."""
        ...

    @property
    def wants_test_batches(self) -> bool:
        """Whether one of them observes single batches of a validation."""
        ...

    @property
    def wants_predict_batches(self) -> bool:
        """Whether one of them observes single batches of a prediction."""
        ...

    @property
    def may_change_weights(self) -> bool:
        """Whether one of them may change weights between a validation and the next save."""
        ...

    @property
    def interval(self) -> int:
        """The number of batches between two calls of a hook of batches."""
        ...

    @property
    def stop_requested(self) -> bool:
        """Whether one of them requested a stop."""
        ...

    @property
    def stop_evaluating(self) -> bool:
        """Whether one of them requested that a validation ends."""
        ...

    @property
    def stop_predicting(self) -> bool:
        """Whether one of them requested that a prediction ends."""
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

    def test_left(self) -> None:
        """A validation was left, or ended by an error: it runs again when training is resumed."""
        ...

    def predict_begin(self) -> None:
        """A prediction begins."""
        ...

    def predict_batch_begin(self, index: int) -> None:
        """A batch of a prediction begins."""
        ...

    def predict_batch_end(self, index: int, outputs: Any) -> None:
        """A batch of a prediction has ended."""
        ...

    def predict_end(self) -> None:
        """A prediction has ended."""
        ...

    def epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        """An epoch has ended."""
        ...

    def swap_back(self) -> None:
        """Undo swaps of weights and averages (`SwapEMAWeights`) that last beyond an epoch."""
        ...

    def train_end(self, logs: Mapping[str, float]) -> None:
        """Training has ended."""
        ...

    def state(self) -> list[Any]:
        """Return what must survive a restart, for each callback in order."""
        ...

    def load_state(self, state: Sequence[Any], is_past_stop: bool = False) -> None:
        """Restore what `state` returned, when training begins.

        Args:
            state: What was returned.
            is_past_stop: Whether a callback had stopped the training, which continues nevertheless:
                those that may have done so start from scratch.
        """
        ...

    def stopping(self) -> list[str]:
        """Return the classes of those that may stop a training."""
        ...

    def left_out(self) -> list[str]:
        """Return what `state` could not return and why, each once."""
        ...
