"""The base class of all feeds: peeking, prefetching, the position, and the end of a pass."""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np

from perigee._errors import (
    BatchChangedError,
    DataChangedError,
    DataEndedError,
    DataStateError,
    DataTypeError,
    EmptyDataError,
    PerigeeError,
    PositionError,
)
from perigee._events.protocols import Position, Resident, Resumes, Stacks
from perigee._step.state import host_random
from perigee._typing import Batch
from perigee.data._spec import describe, map_leaves, signature

END: Final = object()
"""Returned by `_take` after the last batch of a pass."""


_MOST_SHOWN = 200
"""The most characters of a value in a message."""


class PassFeed(ABC):
    """A feed that draws one pass over its data after another.

    Subclasses define how a pass is opened and how the next batch is taken from it. Everything else
    is here: peeking, counting, the `None` at the end of each pass, errors for empty data, the check
    that batches keep their structure, and the note on exceptions of user code.

    An exception does not change the position. The pass is reopened at the next draw, so that a
    failed batch is retried instead of lost.

    Args:
        kind: The kind of data, for messages, such as `"arrays"`.
    """

    seeks_directly: bool = False
    """Whether any position can be reached without drawing the batches before it."""

    checks_batches: ClassVar[bool] = True
    """Whether batches could differ in structure, dtype or rank, and are compared."""

    decided_by_state: ClassVar[tuple[str, ...]] = ()
    """Facts that are taken from a saved state, rather than having to match it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._ahead: deque[Batch] = deque()  # prefetched; may hold the end of a pass
        self._position = Position()  # of the next batch to be drawn
        self._before: deque[tuple[Position, Any]] = deque()  # host random states of these
        self._failed: Exception | None = None  # raised by the data while prefetching
        self._cursor = Position()  # of the next batch to be taken; ahead of the position
        self._is_open = False  # whether `_take` can continue from the cursor
        self._pass_batches: int | None = None  # of the last finished pass
        self._first: tuple[Any, Batch] | None = None  # signature, and shapes, of the first batch

    @property
    @abstractmethod
    def length(self) -> int | None:
        """Batches per pass; `None` if unknown."""

    @property
    def is_infinite(self) -> bool:
        """Whether a pass is known to be infinite."""
        return False

    @property
    def is_over(self) -> bool:
        """Whether no batch is left and the data cannot be restarted, such as a generator object."""
        return False

    @property
    def position(self) -> Position:
        """The position of the next batch; batches that were only peeked at do not count."""
        return self._position

    @property
    def resumes(self) -> Resumes:
        """How well `load_state` will restore the position, known before anything is drawn."""
        return self._resumption()[0]

    @property
    def resumes_because(self) -> str:
        """The reason, as the end of a sentence: "The data resumes by replay, as ..."."""
        return self._resumption()[1]

    @abstractmethod
    def _resumption(self) -> tuple[Resumes, str]:
        """Return `resumes` and `resumes_because`."""

    @abstractmethod
    def _open(self, position: Position) -> None:
        """Prepare to take the batch at `position` and those that follow it in its pass."""

    @abstractmethod
    def _take(self, position: Position) -> Batch:
        """Return the batch at `position`, or `END`; called with consecutive positions.

        A `StopIteration` of user code must be raised: only the end of the data becomes `END`.
        """

    @abstractmethod
    def _let_go(self) -> None:
        """Release what the current pass holds (an order, an iterator, work in progress)."""

    def _end_pass(self) -> None:  # noqa: B027
        """Called after a pass; most data ignores it."""

    def peek(self) -> Batch:
        """Return the next batch without drawing it.

        At the end of a pass, when the next draw returns `None`, it is the first batch of the next
        pass.

        Raises:
            EmptyDataError: If the data holds no batch.
            DataEndedError: If the data is exhausted and cannot be restarted.
        """
        for batch in self._ahead:
            if batch is not END:
                return batch
        while True:
            batch = self._fetch()
            self._ahead.append(batch)
            if batch is not END:
                return batch

    def draw(self) -> Batch | None:
        """Return the next batch, or `None` once at the end of each pass.

        Raises:
            EmptyDataError: If the data holds no batch.
            DataEndedError: If the data is exhausted and cannot be restarted.
            BatchChangedError: If the batch differs from the first one in structure, dtype or rank.
        """
        batch = self._ahead.popleft() if self._ahead else self._fetch()
        self._position = _after(self._position, batch)
        while self._before and _order(self._before[0][0]) < _order(self._position):
            self._before.popleft()
        return None if batch is END else batch

    def look_ahead(self, most: int) -> bool:
        """Prefetch one more batch of the pass for `draw`, while the device works.

        An error of the data is raised by the draw that would have raised it.

        Args:
            most: The most batches that may wait to be drawn.

        Returns:
            Whether a batch was taken; not if `most` wait, nor beyond the pass.
        """
        if len(self._ahead) >= most or self._failed is not None:
            return False
        if self._ahead and self._ahead[-1] is END:
            return False
        if self.length is not None and self._cursor.batches >= self.length:
            return False  # the data is notified of the end of a pass only when that is drawn
        before = self._cursor, host_random()
        try:
            batch = self._fetch()
        except Exception as error:
            self._failed = error
            return False
        self._before.append(before)
        # Copies: data may reuse one array for each batch.
        self._ahead.append(END if batch is END else map_leaves(_own, batch))
        return batch is not END

    @property
    def host_random(self) -> Any:
        """The host's generators before the prefetched batches, or `None`."""
        if self._before and self._before[0][0] == self._position:
            return self._before[0][1]
        return None

    def resident(self) -> Resident | None:
        """Return the current pass if its data may be kept in memory, or `None`."""
        return None

    def prepare_pass(self) -> None:  # noqa: B027
        """Prepare the next pass, while the device works on the end of this one."""

    def skip(self, count: int) -> None:
        """Advance by `count` batches in the pass, which code that holds the arrays has drawn.

        Args:
            count: Batches, at least 0.
        """
        self._jump(Position(self._position.passes, self._position.batches + count))

    @property
    def is_stream(self) -> bool:
        """Whether compiled code can draw from an iterator of the framework; see `stream`."""
        return False

    def stream(self) -> tuple[Any, Any] | None:
        """Return an iterator of the framework, or `None` if `draw` must be called next.

        With it comes the batch that was already taken from it, as an optional, which may be empty.
        """
        return None

    def advance(self, count: int, is_over: bool) -> None:
        """Record what was drawn from the iterator that `stream` returned.

        Args:
            count: Batches that were drawn.
            is_over: Whether the pass has ended.
        """
        self._ahead.clear()
        self._position = Position(self._position.passes, self._position.batches + count)
        self._cursor = self._position
        if is_over:
            self._ahead.append(self._ended(self._cursor))
            self._cursor = _after(self._cursor, END)

    @property
    def stacks(self) -> Stacks | None:
        """Gives many batches in one piece, as tensors of the framework, instead of `stream`."""
        return None

    def ends(self) -> bool:
        """Draw the end of the pass if no batch of it is left, and return whether that is so.

        Returns:
            `True` if no batch of the pass is left; otherwise the next draw returns its next batch.
        """
        batch = self.draw()
        if batch is not None:
            self.push_back(batch)
        return batch is None

    def push_back(self, batch: Batch | None) -> None:
        """Return what was drawn last to the feed, so that the next draw returns it again.

        Earlier batches may follow, the last one first.

        Args:
            batch: The last result of `draw`; `None` for the end of a pass.
        """
        self._ahead.appendleft(END if batch is None else batch)
        passes, batches = self._position.passes, self._position.batches
        if batch is None:
            self._position = Position(passes - 1, self._pass_batches or 0)
        else:
            self._position = Position(passes, batches - 1)

    def seek(self, position: Position) -> None:
        """Move to `position`, so that the next draw returns the batch that follows it.

        If `seeks_directly` is false, the batches in between are drawn and dropped, including whole
        passes, so that data that carries state from pass to pass ends in the same state. An earlier
        position is reached from the beginning of its pass.

        Args:
            position: Finished passes and batches.

        Raises:
            PositionError: If the data has no such position.
        """
        if self.seeks_directly:
            self._jump(position)
            return
        if self.is_infinite and position.passes > self._position.passes:
            raise self._position_error(position, "a pass is infinite")
        if _order(position) < _order(self._position):
            self._jump(position)
        while self._position.passes < position.passes:
            self.draw()
        while self._position.batches < position.batches:
            if self.draw() is None:
                raise self._position_error(position, f"it holds {self._pass_batches} batches")

    def rewind(self) -> None:
        """Move to the beginning; data that is drawn once stays where it is."""
        if self._position != Position():
            self.seek(Position())

    def state(self) -> dict[str, Any]:
        """Return the position and, under `"data"`, what must match for it to be valid.

        The position is that of drawn batches, not of prefetched ones. It is a tree of dicts with
        strings as keys and of lists, whose leaves are plain values and NumPy arrays.
        """
        return {
            "kind": self.kind,
            "passes": self._position.passes,
            "batches": self._position.batches,
            "data": self._facts(),
        }

    def facts(self) -> dict[str, Any]:
        """Return what the order and the shapes of the batches depend on, without the seed."""
        return {k: v for k, v in self._facts().items() if k not in self.decided_by_state}

    def begin_pass(self, passes: int) -> None:
        """Move to the beginning of a pass, without drawing what came before.

        Args:
            passes: How many passes were finished, of this data or of other data in its place.
        """
        self._jump(Position(passes))

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Move to the position of another feed of the same data, which returned `state`.

        Only for a feed that has drawn nothing yet; a peek does not count.

        Args:
            state: What `state` returned.

        Raises:
            DataChangedError: If the data differs.
            NotResumableError: If the data cannot be restarted.
            DataStateError: If `state` is not a position of such data.
            PositionError: If the data holds fewer batches.
        """
        self._check_facts(state)
        self._load(self._saved_position(state), state)

    @property
    def begun(self) -> int:
        """The number of passes begun, if the order of a pass depends on it, or 0."""
        return 0

    def begin_after(self, begun: int) -> None:  # noqa: B027
        """Make the next pass the one that follows `begun` passes. Most orders do not depend on it.

        Args:
            begun: Passes that were begun before it.
        """

    def _load(self, position: Position, state: Mapping[str, Any]) -> None:
        """Move to the position of a state whose facts match the data."""
        del state
        self.seek(position)

    def _check_facts(self, state: Mapping[str, Any]) -> None:
        if state.get("kind") != self.kind:
            raise DataChangedError(self.kind, [f"kind: {state.get('kind')} then, {self.kind} now"])
        saved, now = state.get("data"), self._facts()
        if not isinstance(saved, Mapping):
            raise DataStateError(self.kind, "its facts are missing")
        differences = [
            f"{name}: {_difference(saved.get(name), now.get(name))}"
            for name in sorted({*saved, *now} - {*self.decided_by_state})
            if name not in saved or name not in now or saved[name] != now[name]
        ]
        if differences:
            raise DataChangedError(self.kind, differences)

    def _saved_position(self, state: Mapping[str, Any]) -> Position:
        return Position(self._saved_count(state, "passes"), self._saved_count(state, "batches"))

    def _saved_count(self, state: Mapping[str, Any], name: str, below: int = 2**63) -> int:
        count = state.get(name)
        if type(count) is not int or not 0 <= count < below:
            raise DataStateError(self.kind, f"{name!r} is {_shown(count)}")
        return count

    def _facts(self) -> dict[str, Any]:
        """Return what the order and the shapes of the batches depend on, as plain values."""
        return {}

    def advice(self, batch: Batch) -> str | None:
        """Return what may be meant by data whose first batch no step takes, or `None`.

        Args:
            batch: The first batch.
        """
        del batch
        return None

    def close(self) -> None:
        """Stop workers and release the current pass. It may be called twice."""
        self._forget()

    def _jump(self, position: Position) -> None:
        self._forget()
        self._position = self._cursor = position

    def _forget(self) -> None:
        """Release the current pass and what was taken from it."""
        self._let_go()
        self._is_open = False
        self._ahead.clear()
        self._before.clear()
        self._failed = None

    def _position_error(self, position: Position, why: str) -> PositionError:
        return PositionError(self.kind, position.passes, position.batches, why)

    def _fetch(self) -> Batch:
        """Take one batch, or the end of a pass, and check it."""
        if self._failed is not None:
            failed, self._failed = self._failed, None
            raise failed
        cursor = self._cursor
        try:
            if not self._is_open:
                self._open(cursor)
                self._is_open = True
            batch = self._take(cursor)
            if batch is END:
                self._ended(cursor)
            elif self.checks_batches:
                self._check_batch(batch, cursor)
        except BaseException as error:  # also an interrupt, which finishes a generator
            self._is_open = False
            self._let_go()
            if not isinstance(error, PerigeeError):
                where = f"batch {cursor.batches} of pass {cursor.passes} (both counted from 0)"
                error.add_note(f"Raised by the data ({self.kind}) at {where}.")
            raise
        self._cursor = _after(cursor, batch)
        return batch

    def _ended(self, cursor: Position) -> Any:
        """Record the end of the pass; return `END`."""
        if cursor.batches == 0:
            if self._pass_batches is None:
                raise EmptyDataError(self.kind)
            raise DataEndedError(self.kind, self._pass_batches, "another pass")
        self._end_pass()
        self._pass_batches = cursor.batches
        self._is_open = False
        return END

    def _check_batch(self, batch: Batch, cursor: Position) -> None:
        if batch is None:
            raise DataTypeError(
                f"NoneType (batch {cursor.batches} of the {self.kind})",
                "return or yield the batch; a function without `return` returns None.",
            )
        now = signature(batch)
        if self._first is None:
            self._first = now, describe(batch)
        elif now != self._first[0]:
            raise BatchChangedError(cursor.batches, self._first[1], describe(batch))


def _own(leaf: Any) -> Any:
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _after(position: Position, batch: Batch) -> Position:
    if batch is END:
        return Position(position.passes + 1, 0)
    return Position(position.passes, position.batches + 1)


def _order(position: Position) -> tuple[int, int]:
    return position.passes, position.batches


def _difference(then: Any, now: Any) -> str:
    """Return both values; for lists of equal length, only the first item that differs."""
    if isinstance(then, list) and isinstance(now, list) and len(then) == len(now):
        then, now = next(pair for pair in zip(then, now, strict=True) if pair[0] != pair[1])
    return f"{_shown(then)} then, {_shown(now)} now"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."
