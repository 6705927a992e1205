"""`keras.utils.PyDataset`: batches by index, prefetched by workers if it requests them."""

import hashlib
import itertools
import multiprocessing
import pickle
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, ClassVar

import keras

from perigee._errors import ArgumentError
from perigee._events.protocols import Position, Resumes
from perigee._typing import Batch
from perigee.data._batches import batch_converter
from perigee.data._order import permutation
from perigee.data._passes import END, PassFeed


class PyDatasetFeed(PassFeed):
    """The batches of a `PyDataset`, as `fit` draws them.

    `on_epoch_begin` and `on_epoch_end` are called around each pass, including passes that a `seek`
    skips, so that a data set that shuffles itself by its own seed ends in the same state; the
    batches of those passes are not fetched. With more than one worker, or any worker and
    `use_multiprocessing`, up to `max_queue_size` batches are prefetched. Their order never depends
    on the workers.

    Worker processes are spawned, so a script must guard its entry with
    `if __name__ == "__main__":`, and the data set must be picklable. They hold a copy of it, which
    is sent again before a pass if it has changed.

    Args:
        dataset: The data set; its `num_batches` is read at the start of each pass; `None` is
            infinite.
        shuffle: Whether each pass draws the batches in another order.
        seed: Determines the order, together with the index of the pass.

    Attributes:
        dataset: The given data set.
        shuffle: Whether the batches are shuffled.
        seed: The seed of the order.

    Raises:
        ArgumentError: If an infinite data set is to be shuffled.
    """

    seeks_directly = True
    decided_by_state: ClassVar[tuple[str, ...]] = ("seed",)

    def __init__(self, dataset: keras.utils.PyDataset, *, shuffle: bool, seed: int) -> None:
        super().__init__("PyDataset")
        if shuffle and dataset.num_batches is None:
            raise ArgumentError(
                "shuffle",
                "True",
                "a PyDataset with a known number of batches, which can be shuffled.",
                "omit `shuffle`, and draw at random in its `__getitem__`.",
            )
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed: int = seed
        self._convert = batch_converter()
        self._first_length = dataset.num_batches  # its hooks may change it
        self._workers = _Workers(dataset) if _asks_for_workers(dataset) else None
        self._indices: Iterator[int] = iter(())
        self._finished = 0  # passes whose on_epoch_end was called
        self._is_within = False  # whether the on_epoch_begin after them was called

    @property
    def length(self) -> int | None:
        """Batches per pass, as the data set currently reports; `None` if infinite."""
        return self.dataset.num_batches

    @property
    def is_infinite(self) -> bool:
        """Whether a pass is known to be infinite."""
        return self.dataset.num_batches is None

    def permutation(self, pass_index: int) -> list[int]:
        """Return the indices of the batches in the order in which a pass draws them.

        Args:
            pass_index: The index of the pass, from 0.
        """
        count = self.dataset.num_batches
        if self.shuffle:
            return permutation(self.seed, pass_index, count).tolist()
        return list(range(count))

    def close(self) -> None:
        """Stop the workers and wait for those that are busy. It may be called twice."""
        super().close()
        if self._workers is not None:
            self._workers.stop()

    def _facts(self) -> dict[str, Any]:
        length = self._first_length
        return {
            "length": None if length is None else int(length),
            "shuffle": bool(self.shuffle),
            "seed": int(self.seed),
        }

    def _resumption(self) -> tuple[Resumes, str]:
        return "exactly", "its batches are read by index, and its hooks are called again"

    def _load(self, position: Position, state: Mapping[str, Any]) -> None:
        seed = self._saved_count(state["data"], "seed", below=2**64)
        self.seek(position)
        self.seed = seed

    def _open(self, position: Position) -> None:
        self._call_epoch_hooks(position.passes)
        if self.dataset.num_batches is None:
            self._indices = itertools.count(position.batches)
        else:
            order = self.permutation(position.passes)
            if position.batches > len(order):
                raise self._position_error(position, f"it holds {len(order)} batches")
            self._indices = iter(order[position.batches :])
        if self._workers is not None:
            self._workers.start(self._indices)

    def _take(self, position: Position) -> Batch:
        if self._workers is not None:
            batch = self._workers.next_batch()
            return batch if batch is END else self._convert(batch)
        index = next(self._indices, None)
        return END if index is None else self._convert(self.dataset[index])

    def _let_go(self) -> None:
        if self._workers is not None:
            self._workers.drop()

    def _end_pass(self) -> None:
        self.dataset.on_epoch_end()
        self._finished += 1
        self._is_within = False

    def _call_epoch_hooks(self, passes: int) -> None:
        """Call the data set's hooks as needed to be inside pass `passes`."""
        if passes < self._finished:
            if self._is_within:
                self.dataset.on_epoch_end()
            self._finished, self._is_within = passes, False
        while self._finished < passes:
            if not self._is_within:
                self.dataset.on_epoch_begin()
            self._end_pass()
        if not self._is_within:
            self.dataset.on_epoch_begin()
            self._is_within = True


class _Workers:
    """A pool that prefetches batches and returns them in the order of their indices."""

    def __init__(self, dataset: keras.utils.PyDataset) -> None:
        self._dataset = dataset
        self._pool: Executor | None = None
        self._sent = b""  # digest of the data set that the processes hold
        self._indices: Iterator[int] = iter(())
        self._under_way: deque[Future[Batch]] = deque()

    def start(self, indices: Iterator[int]) -> None:
        """Begin to fetch the batches at `indices`."""
        self.drop()
        if self._dataset.use_multiprocessing:
            digest = _digest(self._dataset)
            if digest != self._sent:
                self.stop()
            self._sent = digest
        if self._pool is None:
            self._pool = _pool(self._dataset)
        self._indices = indices
        self._fill()

    def next_batch(self) -> Batch:
        """Return the next batch, waiting for it if necessary, or `END`."""
        if not self._under_way:
            return END
        try:
            batch = self._under_way.popleft().result()
        except BrokenProcessPool as error:
            self.stop()
            error.add_note(
                "Worker processes import the script that started them: guard what it runs with "
                '`if __name__ == "__main__":`.'
            )
            raise
        self._fill()
        return batch

    def drop(self) -> None:
        """Drop the prefetched batches, after waiting for those being fetched.

        So no code of the data set runs in parallel with what follows, such as its `on_epoch_end`.
        """
        for future in self._under_way:
            future.cancel()
        wait(self._under_way)
        self._under_way.clear()

    def stop(self) -> None:
        """Stop the pool, after the batches being fetched."""
        self.drop()
        if self._pool is not None:
            self._pool.shutdown(wait=True)
            self._pool = None

    def _fill(self) -> None:
        assert self._pool is not None
        while len(self._under_way) < max(1, self._dataset.max_queue_size):
            index = next(self._indices, None)
            if index is None:
                return
            if isinstance(self._pool, ProcessPoolExecutor):
                self._under_way.append(self._pool.submit(_get_held, index))
            else:
                self._under_way.append(self._pool.submit(self._dataset.__getitem__, index))


def _asks_for_workers(dataset: keras.utils.PyDataset) -> bool:
    return dataset.workers > 1 or (dataset.workers > 0 and dataset.use_multiprocessing)


def _pool(dataset: keras.utils.PyDataset) -> Executor:
    if not dataset.use_multiprocessing:
        return ThreadPoolExecutor(dataset.workers, thread_name_prefix="perigee-data")
    # Forking a process with a framework's threads can deadlock the child, so they are spawned.
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(
        dataset.workers, mp_context=context, initializer=_hold, initargs=(dataset,)
    )


_held: Any = None


def _hold(dataset: keras.utils.PyDataset) -> None:
    """Keep the data set in this worker process, so that it is sent once and not with each index."""
    global _held
    _held = dataset


def _get_held(index: int) -> Batch:
    return _held[index]


class _Hasher:
    """A file that keeps only the digest of what is written to it."""

    def __init__(self) -> None:
        self.hash = hashlib.blake2b(digest_size=16)

    def write(self, data: Any) -> None:
        self.hash.update(data)


def _digest(dataset: keras.utils.PyDataset) -> bytes:
    hasher = _Hasher()
    pickle.Pickler(hasher, protocol=5).dump(dataset)
    return hasher.hash.digest()
