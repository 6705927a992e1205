"""Blocks: many steps in one call, for every kind of data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras
import numpy as np

from perigee import _backends
from perigee._backends import Pending
from perigee._events.protocols import Feed, Resident, Stacked, Stacks
from perigee._execution.compiling import compile_seconds
from perigee._execution.program import Program, SizesNeeded, for_each_size_if_needed
from perigee._execution.timing import now
from perigee._typing import Batch, Tree

_Rows = TypeVar("_Rows", np.ndarray, list[Tree])

_BLOCK_SECONDS = 0.25
_LONGEST_SECONDS = 0.5
"""The time of a block whose number of steps is given, above which later ones have fewer.

A signal waits for the end of a block.
"""
_GROWTH = 4
"""The largest growth factor of a block: the time of one step predicts that of many poorly."""
_STACK_BYTES = 16 * 2**20
_STACK_STEPS = 32
"""The most bytes and batches of a block that is assembled on the host."""

_MOST_STACKED = 64
"""The most batches of the framework's own data that are drawn at once."""
_LEAST_STACKED = 4
"""Batches so large that fewer fit in a stack are not stacked: their steps take long anyway."""
_FIRST_STACKED = 16
_MOST_SIZES = 4
"""The most numbers of rows for which XLA compiles a program; a graph takes batches of others."""


class Blocks:
    """Runs many steps of a program in one call, if its plan says so and the data allows it.

    The size of a block affects no result: one compiled program runs blocks of every size. A batch
    that fits no block is drawn by the caller, who runs it alone: one of another shape, or a smaller
    last one if the framework recompiles for each size.

    Args:
        feed: The source of batches.
        most: The most steps per block; `None` makes blocks of about a quarter of a second.
        is_fixed: Whether blocks have that many steps however long they take, as where several
            processes must make the same ones.

    Attributes:
        feed: Where batches come from.
        data_seconds: Time spent waiting for the data.
        device_seconds: Time spent running blocks, including the wait for their values but not
            compiling.
    """

    def __init__(self, feed: Feed, most: int | None = None, is_fixed: bool = False) -> None:
        self.data_seconds = 0.0
        self.device_seconds = 0.0
        self.feed = feed
        self._arrays: tuple[Any, Any] = (None, None)
        self._ordered: tuple[Any, Any] = (None, None)
        self._spread: tuple[Any, Any] = (None, None)
        self._stack: _Stack | None = None
        self._draws = _Draws()
        self._is_large: bool | None = None
        self._rows = 0  # of most batches in stacks
        self._given, self._is_fixed = most, is_fixed
        self._most = 1 if most is None else most

    def run(self, program: Program, most: int | None) -> np.ndarray | None:
        """Run the next block and return its rows on the host; `None` if none can be run.

        It waits for the device. If the result is `None`, the caller draws the next batch.

        Args:
            program: The program to run.
            most: The number of steps until something else is due, or `None`.

        Returns:
            The rows of logged values, shape `(steps, columns, 2)`, of at least one step.
        """
        return self._timed(program, lambda: self._run(program, most))

    def predict(self, program: Program, most: int | None) -> list[Tree] | None:
        """Run the next block of predictions; `None` if none can be run.

        Batches with fewer rows, or from an iterator of the framework, are run one by one.

        Args:
            program: The program of `predict_step`.
            most: The most batches, or `None`.

        Returns:
            The predictions of each batch, on the host.
        """
        return self._timed(program, lambda: self._predict(program, self._length(program, most)))

    def _timed(self, program: Program, run: Callable[[], _Rows | None]) -> _Rows | None:
        if not program.plan.is_fused:
            return None
        began, waited, compiled = now(), self.data_seconds, compile_seconds()
        traces = program.traces
        rows = for_each_size_if_needed(run)
        if rows is None:
            return None
        seconds = now() - began - (self.data_seconds - waited)
        self.device_seconds += max(0.0, seconds - (compile_seconds() - compiled))
        if program.traces == traces:  # a compiling call does not predict the next one
            self._adapt(len(rows), seconds)
        return rows

    def _length(self, program: Program, until_due: int | None) -> int:
        """Return the most steps for the next block."""
        most = min(self._most, program.most_steps)
        return most if until_due is None else min(most, until_due)

    def _run(self, program: Program, until_due: int | None) -> np.ndarray | None:
        most = self._length(program, until_due)
        resident = self.feed.resident()
        if resident is not None:
            return self._run_resident(program, resident, most)
        stacks = self._stacks(program)
        if stacks is not None:
            return self._run_stacked(program, stacks, most, until_due)
        if self._is_stream:
            # XLA cannot read from an iterator.
            return None if program.block_mode == "xla" else self._run_stream(program, most)
        return self._run_stack(program, most, until_due)

    def _run_resident(self, program: Program, resident: Resident, most: int) -> np.ndarray | None:
        first = self.feed.position.batches
        if first >= resident.batches:
            return None
        arrays = self._on_device(resident)
        capabilities, mode = _backends.current().capabilities, program.block_mode
        is_whole = mode in capabilities.fuses_ragged or (
            mode in capabilities.fuses_ragged_end
            and resident.full_batches > 0
            and self._spread[1] is None
        )
        count = min(most, (resident.batches if is_whole else resident.full_batches) - first)
        if count <= 0:
            return None
        rows = program.run_block(arrays, resident.batch_size, first, count)
        if first + count == resident.batches:
            self.feed.prepare_pass()
        rows = _ran(program, _backends.current().to_host(rows)[:count])
        self.feed.skip(len(rows))
        return rows

    def _predict(self, program: Program, most: int) -> list[Tree] | None:
        resident = self.feed.resident()
        if program.most_steps < 2 or self._is_stream:
            return None
        drawn: list[Batch] = []
        if resident is not None:
            first = self.feed.position.batches
            count = min(most, resident.full_batches - first)
            if count <= 0:
                return None
            arrays, size = self._on_device(resident), resident.batch_size
        else:
            stack = self._room()
            first, count = 0, stack.fill(most, takes_smaller=False)
            if count == 0:
                return None
            arrays, size, drawn = stack.arrays, stack.rows, stack.drawn
        try:
            rows = program.run_block(arrays, size, first, count)
        except SizesNeeded:
            self._push_back(drawn)
            raise
        found = _backends.current().to_host(rows)
        if resident is not None:
            self.feed.skip(count)
        return [
            keras.tree.map_structure(lambda leaf, i=index: leaf[i], found) for index in range(count)
        ]

    def _on_device(self, resident: Resident) -> Batch:
        """Return the arrays in the order of the pass, copied to the device once and reordered.

        They are reordered once per pass: slicing a batch is cheaper than gathering it.
        """
        order = resident.arrays if resident.order is None else resident.order
        if self._spread[0] is order:
            return self._spread[1]
        self._spread = (None, None)
        spread = _backends.current().spread(resident.arrays, resident.order, resident.batch_size)
        if spread is not None:
            self._spread = order, spread
            return spread
        if self._arrays[0] is not resident.arrays:
            self._arrays = resident.arrays, _backends.current().tensors(resident.arrays)
        if resident.order is None:
            return self._arrays[1]
        if self._ordered[0] is not resident.order:
            self._ordered = (None, None)  # free the last pass before this one allocates
            rows = resident.order.astype(np.int32)
            ordered = _backends.current().rows_in_order(self._arrays[1], rows)
            self._ordered = resident.order, ordered
        return self._ordered[1]

    def _run_stream(self, program: Program, most: int) -> np.ndarray | None:
        stream = self.feed.stream()
        if stream is None:
            return None
        rows, done = program.run_stream(*stream, most)
        rows, done = _backends.current().to_host((rows, done))
        is_stopped = program.stops and done and not _is_finite(rows[-1])
        self.feed.advance(int(done), is_over=done < most and not is_stopped)
        return rows if done else None

    def _stacks(self, program: Program) -> Stacks | None:
        """Return what gives batches of the framework's own data in stacks, or `None`.

        They do not come so where several devices divide them, and where they are large, unless
        their sizes must be known: what reads from an iterator leaves them undefined.
        """
        stacks = None if program.is_split or program.spans_processes else self.feed.stacks
        if stacks is not None and program.block_mode != "xla":
            if self._is_large is None:
                self._is_large = stacks.stack_of_next(1).room < _LEAST_STACKED
            return None if self._is_large else stacks
        return stacks

    def _run_stacked(
        self, program: Program, stacks: Stacks, most: int, until_due: int | None
    ) -> np.ndarray | None:
        began = now()
        stack = stacks.stack(self._draws.count)
        self._draws.took(0 if stack is None else stack.steps, now() - began)
        self.data_seconds += now() - began
        if stack is None:
            return None
        pending, count = self._begin_stacked(program, stack, most)
        left = None if until_due is None else until_due - count
        try:
            # No further than the next due event: what waits must be saved with the position.
            if count == stack.steps and left != 0:
                self._draw_ahead(stacks, pending)
        finally:
            rows = pending.result()
        rows = _ran(program, _backends.current().to_host(rows)[:count])
        stacks.skip_stacked(len(rows))
        return rows

    def _begin_stacked(self, program: Program, stack: Stacked, most: int) -> tuple[Pending, int]:
        """Begin to run a stack, and return the number of steps.

        XLA compiles each number of rows, for as many batches as stacks have room for. Which batches
        it takes depends on the data alone. A graph takes all sizes.
        """
        count = min(most, stack.steps)
        is_taken = program.is_sized or (stack.number or 0) < _MOST_SIZES
        if program.block_mode == "xla" and is_taken:
            arrays = stack.arrays(fills_room=True)
            return program.begin_block(arrays, stack.rows, stack.first, count), count
        self._rows = self._rows or stack.rows
        if stack.rows < self._rows:
            return program.begin_block(stack.batch(), self._rows, 0, 1, "graph"), 1
        arrays = stack.arrays(fills_room=False)
        return program.begin_block(arrays, stack.rows, stack.first, count, "graph"), count

    def _draw_ahead(self, stacks: Stacks, pending: Pending) -> None:
        """Draw the next stack while the device runs this one."""
        began, count = now(), self._draws.count
        stacks.stack_ahead(count)
        seconds = now() - began
        self._draws.took(count, seconds)
        if pending.done():
            self.data_seconds += seconds

    def _run_stack(self, program: Program, most: int, until_due: int | None) -> np.ndarray | None:
        began = now()
        stack = self._room()
        takes_smaller = program.block_mode in _backends.current().capabilities.fuses_ragged
        count = stack.fill(most, takes_smaller)
        self.data_seconds += now() - began
        if count == 0:
            return None
        try:
            pending = program.begin_block(stack.arrays, stack.rows, 0, count)
        except SizesNeeded:
            self._push_back(stack.drawn)
            raise
        try:
            # No further than the next due event: if that saves or ends the training, the data must
            # be at the same position.
            left = None if until_due is None else until_due - count
            self._look_ahead(min(self._length(program, left), stack.steps), pending)
        finally:
            rows = pending.result()
        rows = _ran(program, _backends.current().to_host(rows)[:count])
        self._push_back(stack.drawn[len(rows) :])
        return rows

    def _push_back(self, batches: Sequence[Batch]) -> None:
        for batch in reversed(batches):
            self.feed.push_back(batch)

    def _look_ahead(self, most: int, pending: Pending) -> None:
        """Prefetch batches of the next block while the device runs this one."""
        done_at = None
        while self.feed.look_ahead(most):
            if done_at is None and pending.done():
                done_at = now()
            elif done_at is not None and now() - done_at > _BLOCK_SECONDS:
                break  # the data is slow, and the steps wait to be saved
        if done_at is not None:
            self.data_seconds += now() - done_at

    def _adapt(self, count: int, seconds: float) -> None:
        """Limit blocks to a quarter of a second, so that nothing waits for them for long.

        A block of one step may take longer, and so may the first ones of a given number of steps.
        """
        if self._is_fixed:
            return
        if seconds > (_BLOCK_SECONDS if self._given is None else _LONGEST_SECONDS):
            self._most = max(1, int(count * _BLOCK_SECONDS / seconds))
        elif count == self._most and _GROWTH * seconds <= _BLOCK_SECONDS:
            self._most = min(_GROWTH * self._most, self._given or _GROWTH * self._most)

    def sample(self) -> tuple[Batch, int, int] | None:
        """Return arguments to try `Program.run_block` with; draws nothing.

        Returns:
            Arrays, the batch size, and the number of full batches; `None` if blocks are made in
            another way or not at all.
        """
        resident = self.feed.resident()
        if resident is not None:
            full = resident.full_batches
            return (self._on_device(resident), resident.batch_size, full) if full else None
        stacks = self.feed.stacks
        if stacks is not None:
            room = stacks.stack_of_next(1).room
            if room < _LEAST_STACKED:
                return None
            example = stacks.stack_of_next(room)
            return example.arrays(fills_room=True), example.rows, room
        if self._is_stream:
            return None
        stack = self._room()
        steps = stack.fill_with_next()
        return (stack.arrays, stack.rows, steps) if steps else None

    @property
    def _is_stream(self) -> bool:
        """Whether compiled code reads the batches from an iterator of the framework."""
        return _backends.current().capabilities.streams and self.feed.is_stream

    def _room(self) -> _Stack:
        if self._stack is None:
            self._stack = _Stack(self.feed)
        return self._stack


class _Draws:
    """How many batches of the framework's own data to draw at once.

    The number changes rarely, as each one costs milliseconds once a pass.
    """

    def __init__(self) -> None:
        self.count = _FIRST_STACKED

    def took(self, count: int, seconds: float) -> None:
        """Adapt to how long some took: data may be slow, and a signal waits for them."""
        if seconds > _BLOCK_SECONDS:
            self.count = max(1, int(count * _BLOCK_SECONDS / seconds))
        elif count >= self.count and _GROWTH * seconds <= _BLOCK_SECONDS:
            self.count = min(_GROWTH * self.count, _MOST_STACKED)


def _ran(program: Program, rows: np.ndarray) -> np.ndarray:
    """Return the rows of the steps that ran: none follows a step that stops the training."""
    if not program.stops:
        return rows
    return rows[: next((i + 1 for i, row in enumerate(rows) if not _is_finite(row)), len(rows))]


def _is_finite(row: np.ndarray) -> bool:
    return bool(np.isfinite(row[..., 0]).all())


class _Stack:
    """Batches of one shape, drawn on the host and concatenated for a block.

    Attributes:
        arrays: The batches of the block, a tree of arrays like a batch. Their size never changes
            unless the last batch is smaller; unused rows are undefined.
        rows: Rows per batch.
        steps: The capacity in batches; 0 if they cannot be concatenated.
        drawn: The batches of the block.
    """

    def __init__(self, feed: Feed) -> None:
        self.arrays: Any = None
        self.rows = self.steps = 0
        self.drawn: list[Batch] = []
        self._feed = feed
        self._first: Batch | None = None
        self._room: list[np.ndarray] = []
        self._raised: Exception | None = None

    def fill(self, most: int, takes_smaller: bool) -> int:
        """Draw up to `most` batches and return how many: 0 if the next one fits no block.

        With `takes_smaller` the last of them may have fewer rows. An error of the data is raised
        after the batches before it.
        """
        if self._raised is not None:
            raised, self._raised = self._raised, None
            raise raised
        self._make_room()
        self.drawn.clear()
        count, filled, began = 0, 0, now()
        while count < min(most, self.steps) and filled == count * self.rows:
            if count and now() - began > _BLOCK_SECONDS:
                break  # the data is slow, and steps that are done wait to be saved
            try:
                batch = self._feed.draw()
            except Exception as error:
                if count == 0:
                    raise
                self._raised = error
                break
            if count == 0 and takes_smaller and batch is not None and self._stands_alone(batch):
                self.arrays = batch
                return 1
            rows = 0 if batch is None else self._put(batch, filled)
            if rows == 0 or (rows < self.rows and not takes_smaller):
                self._feed.push_back(batch)
                break
            self.drawn.append(batch)
            count, filled = count + 1, filled + rows
        self.arrays = self._cut(filled if filled % self.rows else None) if count else None
        return count

    def fill_with_next(self) -> int:
        """Fill every place with the next batch, without drawing it; return the number of places."""
        self._make_room()
        for index in range(self.steps):
            self._put(self._feed.peek(), index * self.rows)
        self.arrays = self._cut(None) if self.steps else None
        return self.steps

    def _make_room(self) -> None:
        """Allocate room for batches like the next one, unless large or not plain arrays."""
        if self._first is not None:
            return
        self._first = self._feed.peek()
        leaves = _leaves(self._first)
        self.rows = _rows(leaves)
        if self.rows and all(leaf.dtype.kind in "biufcV" for leaf in leaves):
            steps = _STACK_BYTES // max(1, sum(leaf.nbytes for leaf in leaves))
            self.steps = min(_STACK_STEPS, steps) if steps > 1 else 0
        if self.steps:
            self._room = [np.zeros((self.steps * len(a), *a.shape[1:]), a.dtype) for a in leaves]

    def _put(self, batch: Batch, start: int) -> int:
        """Store a batch and return its number of rows; 0 if it does not fit."""
        leaves = _leaves(batch)
        rows = _rows(leaves)
        if rows > self.rows or any(
            leaf.shape[1:] != room.shape[1:] or leaf.dtype != room.dtype
            for leaf, room in zip(leaves, self._room, strict=True)
        ):
            return 0
        for leaf, room in zip(leaves, self._room, strict=True):
            room[start : start + rows] = leaf
        return rows

    def _stands_alone(self, batch: Batch) -> bool:
        """Return whether a batch has other inner sizes, so that it forms its own block.

        Code that accepts smaller batches then handles all lengths, with one undefined axis.
        """
        leaves = _leaves(batch)
        pairs = list(zip(leaves, self._room, strict=True))
        return 0 < _rows(leaves) <= self.rows and any(
            leaf.shape[1:] != room.shape[1:] for leaf, room in pairs
        )

    def _cut(self, rows: int | None) -> Any:
        room = iter(self._room)
        return keras.tree.map_structure(
            lambda leaf: None if leaf is None else next(room)[:rows], self._first
        )


def _leaves(batch: Batch) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]


def _rows(leaves: list[Any]) -> int:
    """Return the common first axis of arrays; 0 if they have none, or are not NumPy arrays."""
    rows = {len(leaf) if isinstance(leaf, np.ndarray) and leaf.ndim else 0 for leaf in leaves}
    return rows.pop() if len(rows) == 1 else 0
