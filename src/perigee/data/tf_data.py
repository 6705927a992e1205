"""`tf.data.Dataset`: batches from TensorFlow's own pipeline."""

import contextlib
import re
import sys
import threading
import uuid
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import keras
import numpy as np

from perigee._errors import DataStateError, DataTypeError, PerigeeError
from perigee._events.protocols import Position, Resumes, Stacked, Stacks
from perigee._typing import Batch, Tree
from perigee.data._passes import END, PassFeed
from perigee.data._pipeline import UNREADABLE, Pipeline, read_pipeline
from perigee.data._spec import describe, has_rows, map_leaves, shortened

_MOST_ITERATORS = 10**6
"""A bound on the number in a damaged state; making one iterator takes milliseconds."""

_FILES = {"index": ".index", "data": ".data-00000-of-00001"}
_SHUFFLE_IN_FILE = b"@@epoch_num_random_samples"
"""TensorFlow's name for the count of a shuffle in the file of an iterator.

If the name changed, shuffles would count as ended: still exact, but replayed more often.
"""


def is_tf_dataset(data: Any) -> bool:
    """Return whether it is a `tf.data.Dataset`, without importing TensorFlow."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(data, tensorflow.data.Dataset)


class TFDatasetFeed(PassFeed):
    """The elements of a `tf.data.Dataset`, as batches.

    On TensorFlow they are tensors, on the other backends NumPy arrays, in the dataset's structure
    and its own dtypes. Each pass makes a new iterator, so `reshuffle_each_iteration` takes effect.
    `seek` reaches a position by drawing. A saved state holds the iterator of the pass, with its
    buffers (all elements of a shuffle), and is restored at once; if an iterator cannot be saved, or
    does not determine later passes, the position is reached by drawing as well.

    Args:
        dataset: A finite or infinite dataset, or one of unknown length.

    Attributes:
        dataset: The given dataset.
        spec: Its `element_spec`.

    Raises:
        DataTypeError: If elements are ragged or sparse on a backend without such tensors.
    """

    checks_batches = False

    def __init__(self, dataset: Any) -> None:
        import tensorflow as tf

        super().__init__("tf.data.Dataset")
        self.dataset = dataset
        self.spec: Tree = dataset.element_spec
        self._is_native = keras.config.backend() == "tensorflow"
        if not self._is_native:
            for spec in tf.nest.flatten(self.spec):
                if not isinstance(spec, (tf.TensorSpec, tf.NoneTensorSpec)):
                    raise DataTypeError(
                        f"tf.data.Dataset with elements of {type(spec).__name__}",
                        "make them dense in a `.map(...)`: `.to_tensor()` for ragged tensors, "
                        "`tf.sparse.to_dense(...)` for sparse ones.",
                    )
        cardinality = int(dataset.cardinality())
        self._length = cardinality if cardinality >= 0 else None
        self._is_infinite = cardinality == tf.data.INFINITE_CARDINALITY
        self._iterator: Iterator[Any] | None = None
        self._opened = 0  # iterators made so far, on which the order of a shuffle depends
        self._can_be_stacked = self._is_native and _stacks().can_be_stacked(self.spec)
        self._count = 0  # of batches to take at once; 0 until there are stacks
        self._stacker: Any = None  # of the iterator
        self._stacked: deque[Any] = deque()  # taken from the iterator; they follow those ahead
        self._row_counts: list[int] = []  # of stacked batches so far, in order

    @property
    def length(self) -> int | None:
        """Batches per pass; `None` if infinite or unknown."""
        return self._length

    @property
    def is_infinite(self) -> bool:
        """Whether a pass is known to be infinite."""
        return self._is_infinite

    @property
    def is_stream(self) -> bool:
        """Whether `stream` returns an iterator: true on TensorFlow."""
        return self._is_native

    def stream(self) -> tuple[Any, Any] | None:
        """Return the iterator of the pass and, as an optional, the batch that was already taken.

        `None` at the end of a pass. The caller reports to `advance` what it draws.
        """
        import tensorflow as tf

        if not self._ahead and not self._is_open:
            self._open(self._cursor)
            self._is_open = True
        if not self._ahead:
            return self._iterator, tf.experimental.Optional.empty(self.spec)
        if self._ahead[0] is END or len(self._ahead) > 1:  # the iterator may be of the next pass
            return None
        return self._iterator, tf.experimental.Optional.from_value(self._ahead[0])

    @property
    def stacks(self) -> Stacks | None:
        """Itself if `stack` may be called instead of `stream`, or `None`.

        Stacks are taken before their batches are trained, so nothing outside the pipeline may
        affect what it yields, or be affected.
        """
        return self if self._can_be_stacked and self._pipeline.is_pure else None

    def stack(self, count: int) -> Stacked | None:
        """Return the next batches of the pass in one piece, without drawing them.

        The caller reports to `skip_stacked` what it trains. The rest waits.

        Args:
            count: The number of batches to take from the data if none is waiting.

        Returns:
            Batches with as many rows; `None` if `draw` must be called next.
        """
        self._count = count
        if self._ahead:
            self._stack_ahead()
        elif not self._stacked:
            self._take_stack(count)
        is_next = self._stacked and not self._ahead and self._stacked[0].number is not None
        return self._stacked[0] if is_next else None

    def stack_ahead(self, count: int) -> None:
        """Prefetch batches for the `stack` after the next one, which must be waiting.

        Args:
            count: The number of batches to take from the data.
        """
        if self._is_open and not self._ahead and len(self._stacked) == 1 and self._left() != 0:
            self._take_stack(count, is_ahead=True)

    def skip_stacked(self, count: int) -> None:
        """Advance by `count` batches of what `stack` returned.

        Args:
            count: Batches, at most its steps.
        """
        self._stacked[0].skip(count)
        if not self._stacked[0].steps:
            self._stacked.popleft()
        self._position = Position(self._position.passes, self._position.batches + count)
        self._cursor = Position(self._cursor.passes, self._cursor.batches + count)

    def stack_of_next(self, count: int) -> Stacked:
        """Return the next batch, several times in one piece, to try how fast steps are.

        It draws nothing.

        Args:
            count: How many times.
        """
        import tensorflow as tf

        batch = tf.nest.flatten(self.peek())
        leaves, rows = [tf.concat([leaf] * count, 0) for leaf in batch], list(map(len, batch))
        return _stacks().Stack(
            self.spec, leaves, [0] * len(rows), rows, count, self._room_for(rows), None
        )

    def peek(self) -> Batch:
        """Return the next batch without drawing it; see `PassFeed.peek`."""
        if not self._count:
            return super().peek()
        while True:
            for batch in self._ahead:
                if batch is not END:
                    return batch
            if self._stacked:
                return self._stacked[0].batch()
            self._take_stack(self._count)

    def ends(self) -> bool:
        """Draw the end of the pass if no batch of it is left, and return whether that is so.

        Returns:
            `True` if no batch of the pass is left.
        """
        if not self._ahead:
            if not self._stacked and self._count:
                self._take_stack(self._count)
            if self._stacked:
                return False
        return super().ends()

    def _take_stack(self, count: int, is_ahead: bool = False) -> None:
        """Take batches from the iterator, or the end of the pass, unless it is taken ahead."""
        cursor = self._cursor
        try:
            if not self._is_open:
                self._open(cursor)
                self._is_open = True
            if self._stacker is None:
                self._stacker = _stacks().Stacker(self._iterator, self.spec)
            left = self._left()
            if left is not None:
                count = min(count, left or 1)  # beyond the known end, one that ends the pass
            taken = self._stacker.draw(count, is_sure=left is not None or self._is_infinite)
            if taken is None and not is_ahead:
                self._ahead.append(self._ended(cursor))
                self._cursor = Position(cursor.passes + 1)
        except BaseException as error:
            self._is_open = False
            self._let_go()
            if not isinstance(error, PerigeeError):
                last = f"{cursor.batches + count - 1} of pass {cursor.passes}"
                where = f"batches {cursor.batches} to {last} (both counted from 0)"
                error.add_note(f"Raised by the data ({self.kind}) at one of {where}.")
            raise
        if taken is not None:
            self._sort_in(*taken)

    def _left(self) -> int | None:
        """Return how many batches of the pass are to be taken from the iterator, if known."""
        if self._length is None:
            return None
        waiting = sum(stack.steps for stack in self._stacked)
        return max(0, self._length - self._cursor.batches - waiting)

    def _sort_in(self, leaves: Sequence[Any], rows: Any) -> None:
        """Add batches that were taken to those that wait, in stacks of as many rows."""
        first, starts = 0, np.cumsum(rows, axis=0) - rows
        for end in range(1, len(rows) + 1):
            is_full = end - first == self._room_for(rows[first].tolist())
            if is_full or end == len(rows) or (rows[end] != rows[first]).any():
                start, steps = starts[first].tolist(), end - first
                self._stacked.append(self._stack_of(leaves, start, rows[first].tolist(), steps))
                first = end

    def _stack_of(
        self, leaves: Sequence[Any], starts: list[int], rows: list[int], steps: int
    ) -> Any:
        is_even = len(set(rows)) == 1
        if is_even and rows[0] not in self._row_counts:
            self._row_counts.append(rows[0])
        number = self._row_counts.index(rows[0]) if is_even else None
        room = self._room_for(rows)
        return _stacks().Stack(self.spec, leaves, starts, rows, steps, room, number)

    def _room_for(self, rows: list[int]) -> int:
        return _stacks().room_for(self.spec, rows, self._length)

    def _stack_ahead(self) -> None:
        """Let the batches that were drawn ahead wait in stacks, unless the pass ends in them."""
        import tensorflow as tf

        if any(batch is END for batch in self._ahead):
            return
        batches = [tf.nest.flatten(batch) for batch in self._ahead]
        later, self._stacked = self._stacked, deque()
        for leaves in batches:
            rows = list(map(len, leaves))
            self._stacked.append(self._stack_of(leaves, [0] * len(rows), rows, 1))
        self._stacked.extend(later)
        self._cursor = Position(self._cursor.passes, self._cursor.batches - len(batches))
        self._ahead.clear()

    def look_ahead(self, most: int) -> bool:
        """Do nothing: a pipeline prefetches itself, and saves its buffers.

        Args:
            most: The most batches that may wait to be drawn.

        Returns:
            Always false.
        """
        return False

    def advice(self, batch: Batch) -> str | None:
        """Return the line for a data set that was not batched, if its elements look like that.

        Args:
            batch: The first element.
        """
        if has_rows(batch):
            return None
        return (
            f"An element of the data set, {describe(batch)}, has no first axis that all its "
            "tensors share. If it is a single example, pass `dataset.batch(32)`."
        )

    def state(self) -> dict[str, Any]:
        """Return the position, and the iterator with the batches taken from it but not drawn.

        At the end of a pass it makes the iterator of the next one. It waits for the pipeline.
        """
        counts = {"row_counts": [*self._row_counts]} if self._row_counts else {}
        return {**super().state(), **counts, **self._iterator_state()}

    @property
    def begun(self) -> int:
        """The number of iterators used, on which the order of a shuffle depends."""
        is_untouched = self._position == Position() and self._is_open
        return self._opened - is_untouched

    def begin_after(self, begun: int) -> None:
        """Make the next iterator the one that follows `begun` iterators.

        Args:
            begun: Iterators used before it.

        Raises:
            DataStateError: If `begun` is not a valid number.
        """
        if not 0 <= begun < _MOST_ITERATORS:
            raise DataStateError(self.kind, f"{begun} is not a valid number of passes")
        while self._opened < begun:
            self._make_iterator()
        self._jump(Position())

    def _iterator_state(self) -> dict[str, Any]:
        import tensorflow as tf

        pipeline = self._pipeline
        was_left = not self._is_open and self._cursor.batches > 0  # something was raised
        if not pipeline.is_pure or was_left:
            return {}
        try:
            if not self._is_open and pipeline.counts_iterators:
                self._open(self._cursor)
                self._is_open = True
            elif not self._is_open:
                self._ahead.append(self._fetch())  # now all of its shuffles have begun
            files = _written(self._iterator)
            waiting = [
                stack.batch(index) for stack in self._stacked for index in range(stack.steps)
            ]
            ahead = [
                None if batch is END else self._packed(batch) for batch in (*self._ahead, *waiting)
            ]
        except (tf.errors.OpError, PerigeeError):  # of the next pass; or too large to write
            return {}
        is_decided = self._holds_all_shuffles(files) or pipeline.resumes == "not exactly"
        if not is_decided and (not pipeline.counts_iterators or self._opened < 2):
            return {}  # later passes would differ
        taken = self._cursor.batches + len(waiting)
        cursor = {"passes": self._cursor.passes, "batches": taken}
        return {"iterator": files, "ahead": ahead, "cursor": cursor, "opened": self._opened}

    def _holds_all_shuffles(self, files: Mapping[str, Any]) -> bool:
        """Return whether every shuffle has begun and none has ended, so that its count is saved."""
        return files["data"].tobytes().count(_SHUFFLE_IN_FILE) == self._pipeline.shuffles

    def _load(self, position: Position, state: Mapping[str, Any]) -> None:
        import tensorflow as tf

        self._row_counts = self._saved_row_counts(state)
        if "iterator" not in state:
            self.seek(position)
            return
        cursor, ahead = state.get("cursor"), state.get("ahead")
        if not isinstance(cursor, Mapping) or not isinstance(ahead, list):
            raise DataStateError(self.kind, "its iterator has no position")
        opened = self._saved_count(state, "opened", below=_MOST_ITERATORS)
        cursor = self._saved_position(cursor)
        batches = [END if packed is None else self._unpacked(packed) for packed in ahead]
        files = self._files(state["iterator"])
        if not self._holds_all_shuffles(files):
            # Reading makes an iterator within TensorFlow, which is counted too.
            while self._opened < opened - 1:
                self._make_iterator()
        if self._iterator is None:
            self._make_iterator()
        iterator = self._iterator
        self._jump(position)
        try:
            _read(iterator, files)
        except (tf.errors.OpError, AssertionError, LookupError, ValueError) as error:
            raise self._unreadable(error) from error
        self._iterator, self._opened, self._is_open = iterator, opened, True
        self._cursor = cursor
        self._ahead.extend(batches)

    def _saved_row_counts(self, state: Mapping[str, Any]) -> list[int]:
        counts = state.get("row_counts", [])
        if not isinstance(counts, list) or any(type(count) is not int for count in counts):
            raise DataStateError(self.kind, "its numbers of rows are damaged")
        return list(counts)

    def _files(self, saved: Any) -> dict[str, Any]:
        try:
            return {name: saved[name].astype(np.uint8, casting="equiv") for name in _FILES}
        except (AttributeError, LookupError, TypeError) as error:
            raise self._unreadable(error) from error

    def _packed(self, batch: Batch) -> list[Any]:
        """Return the tensors of a batch as bytes, with the parts of ragged and sparse ones."""
        import tensorflow as tf

        leaves = tf.nest.flatten(batch, expand_composites=True)
        packed = [None if leaf is None else tf.io.serialize_tensor(leaf) for leaf in leaves]
        return [None if one is None else _bytes(one.numpy()) for one in packed]

    def _unpacked(self, packed: Any) -> Batch:
        import tensorflow as tf

        specs = tf.nest.flatten(self.spec, expand_composites=True)
        try:
            leaves = [
                None if one is None else tf.io.parse_tensor(one.tobytes(), spec.dtype)
                for one, spec in zip(packed, specs, strict=True)
            ]
            batch = tf.nest.pack_sequence_as(self.spec, leaves, expand_composites=True)
        except (tf.errors.OpError, AttributeError, TypeError, ValueError) as error:
            raise self._unreadable(error) from error
        return batch if self._is_native else map_leaves(_to_numpy, batch)

    def _unreadable(self, error: Exception) -> DataStateError:
        return DataStateError(self.kind, f"{type(error).__name__}: {str(error)[:200]}")

    @cached_property
    def _pipeline(self) -> Pipeline:
        """Facts from the graph of the dataset. Takes a second for each 100 MB of arrays in it."""
        import tensorflow as tf

        variant = tf.data.experimental.to_variant(self.dataset)
        impurity = None
        try:
            graph = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=2)
        except tf.errors.OpError as error:
            named = re.search(r"(\w+) is stateful", str(error))
            impurity = named[1] if named else type(error).__name__
            graph = tf.raw_ops.DatasetToGraphV2(input_dataset=variant, external_state_policy=1)
        serialized = graph.numpy()
        if not serialized:
            return UNREADABLE
        return read_pipeline(
            tf.compat.v1.GraphDef.FromString(serialized),
            tf.make_ndarray,
            impurity,
            is_ordered=self.dataset.options().deterministic is not False,
        )

    def _resumption(self) -> tuple[Resumes, str]:
        return self._pipeline.resumes, self._pipeline.because

    def _facts(self) -> dict[str, Any]:
        return {
            "spec": shortened(str(self.spec)),
            "length": self._length,
            "pipeline": list(self._pipeline.stages),
        }

    def _open(self, position: Position) -> None:
        self._make_iterator()
        for _ in range(position.batches):
            if self._take(position) is END:
                raise self._position_error(position, "its pass is shorter")

    def _make_iterator(self) -> None:
        if self._iterator is None or self._stacker is None:
            self._iterator, self._stacker = iter(self.dataset), None
        else:
            self._stacker.begin(self.dataset)
        self._opened += 1

    def _take(self, position: Position) -> Batch:
        if self._stacked:
            stack = self._stacked[0]
            batch = stack.batch()
            stack.skip(1)
            if not stack.steps:
                self._stacked.popleft()
            return batch
        assert self._iterator is not None
        try:
            batch = next(self._iterator)
        except StopIteration:
            return END
        return batch if self._is_native else map_leaves(_to_numpy, batch)

    def _let_go(self) -> None:
        self._stacked.clear()
        self._stacker = None
        if self._iterator is None:
            return
        # It ends in a thread: TensorFlow waits for pending work, up to half a second.
        last = [self._iterator]
        self._iterator = None
        threading.Thread(target=last.clear, name="perigee-iterator").start()


def _stacks() -> Any:
    """Return the module that needs TensorFlow, which other backends may not have."""
    from perigee.data import _tf_stacks

    return _tf_stacks


def _to_numpy(tensor: Any) -> Any:
    return tensor.numpy()


def _written(iterator: Any) -> dict[str, Any]:
    """Return the two files that TensorFlow writes for an iterator, as arrays of bytes."""
    import tensorflow as tf

    with _in_memory() as path:
        tf.train.Checkpoint(iterator=iterator).write(path)
        return {name: _content(path + end) for name, end in _FILES.items()}


def _read(iterator: Any, files: Mapping[str, Any]) -> None:
    import tensorflow as tf

    with _in_memory() as path:
        for name, end in _FILES.items():
            with tf.io.gfile.GFile(path + end, "wb") as file:
                file.write(files[name].tobytes())
        status = tf.train.Checkpoint(iterator=iterator).read(path)
        status.assert_existing_objects_matched()


@contextlib.contextmanager
def _in_memory() -> Generator[str]:
    """Yield a path for files of TensorFlow that stay in memory: no disk can fail a save here."""
    import tensorflow as tf

    folder = f"ram://perigee-{uuid.uuid4().hex}"
    try:
        yield f"{folder}/iterator"
    finally:
        for path in tf.io.gfile.glob(f"{folder}/*"):
            tf.io.gfile.remove(path)
        with contextlib.suppress(tf.errors.OpError):
            tf.io.gfile.rmtree(folder)


def _content(path: str) -> Any:
    import tensorflow as tf

    with tf.io.gfile.GFile(path, "rb") as file:
        return _bytes(file.read())


def _bytes(content: bytes) -> Any:
    return np.frombuffer(content, np.uint8)
