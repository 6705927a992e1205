import os
import threading
from concurrent.futures.process import BrokenProcessPool

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perigee._errors import ArgumentError, BatchChangedError, EmptyDataError, PositionError
from perigee._events.protocols import Position
from perigee.data import PyDatasetFeed


class Numbered(keras.utils.PyDataset):
    """Batch `i` holds the number `i`; what is asked of it is written down."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count
        self.calls = []

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        self.calls.append(index)
        return np.full(2, index), np.full((2, 1), index / 2)

    def on_epoch_begin(self):
        self.calls.append("begin")

    def on_epoch_end(self):
        self.calls.append("end")


class Rearranging(keras.utils.PyDataset):
    """It shuffles itself by its own seed at the end of each epoch."""

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.order = list(range(count))
        self.rng = np.random.default_rng(5)

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        return np.full(2, self.order[index])

    def on_epoch_end(self):
        self.rng.shuffle(self.order)


class Failing(Numbered):
    """Batch 2 cannot be read."""

    def __init__(self, count, error, **kwargs):
        super().__init__(count, **kwargs)
        self.error = error

    def __getitem__(self, index):
        if index == 2:
            raise self.error
        return super().__getitem__(index)


class Dying(Numbered):
    """It ends the process that asks for a batch as long as a file is there."""

    def __init__(self, count, path, **kwargs):
        super().__init__(count, **kwargs)
        self.path = path

    def __getitem__(self, index):
        if self.path.exists():
            os._exit(1)
        return super().__getitem__(index)


def make_feed(dataset, shuffle=False, seed=0):
    return PyDatasetFeed(dataset, shuffle=shuffle, seed=seed)


def draw_pass(feed):
    batches = []
    while (batch := feed.draw()) is not None:
        batches.append(batch)
    return batches


def draw_numbers(feed, count):
    """The numbers of the next `count` results of `draw`, `None` at the end of each pass."""
    drawn = [feed.draw() for _ in range(count)]
    return [None if batch is None else int(np.ravel(batch[0])[0]) for batch in drawn]


@pytest.fixture(params=[1, 3], ids=["no workers", "3 workers"])
def workers(request):
    return request.param


def test_batches_come_in_order(workers):
    feed = make_feed(Numbered(4, workers=workers))

    assert draw_numbers(feed, 10) == [0, 1, 2, 3, None, 0, 1, 2, 3, None]
    feed.close()


def test_shuffling_orders_batches_by_the_permutation_of_the_pass(workers):
    count = 20
    feed = make_feed(Numbered(count, workers=workers, max_queue_size=4), shuffle=True, seed=3)

    passes = [draw_numbers(feed, count + 1)[:-1] for _ in range(2)]
    feed.close()

    assert passes == [feed.permutation(0), feed.permutation(1)]
    assert passes[0] != passes[1]
    assert sorted(passes[0]) == sorted(passes[1]) == list(range(count))


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 8),
    shuffle=st.booleans(),
    seed=st.integers(0, 100),
    drawn=st.integers(0, 25),
)
def test_seeking_goes_on_exactly_like_drawing(count, shuffle, seed, drawn):
    first = make_feed(Numbered(count), shuffle, seed)
    draw_numbers(first, drawn)
    position, following = first.position, draw_numbers(first, 10)

    second = make_feed(Numbered(count), shuffle, seed)
    second.seek(position)

    assert second.position == position
    assert draw_numbers(second, 10) == following


@pytest.mark.parametrize("drawn", [0, 3, 5, 8, 17])
def test_seeking_brings_back_the_order_of_a_data_set_that_rearranges_itself(drawn, workers):
    first = make_feed(Rearranging(4))
    draw_numbers(first, drawn)
    position, following = first.position, draw_numbers(first, 12)

    second = make_feed(Rearranging(4, workers=workers))
    second.seek(position)

    assert draw_numbers(second, 12) == following
    second.close()


def test_seeking_fetches_none_of_the_batches_in_between():
    dataset = Numbered(4)
    feed = make_feed(dataset)

    feed.seek(Position(passes=2, batches=3))
    feed.draw()

    assert dataset.calls == ["begin", "end", "begin", "end", "begin", 3]


def test_epoch_hooks_are_called_around_each_pass():
    dataset = Numbered(2)
    feed = make_feed(dataset)

    draw_pass(feed)
    draw_pass(feed)

    assert dataset.calls == ["begin", 0, 1, "end"] * 2


def test_seeking_within_a_pass_does_not_begin_it_again():
    dataset = Numbered(3)
    feed = make_feed(dataset)
    feed.draw()

    feed.seek(Position(0, 0))
    draw_pass(feed)

    assert dataset.calls == ["begin", 0, 0, 1, 2, "end"]


def test_seeking_back_to_an_earlier_pass_keeps_the_hooks_in_pairs():
    dataset = Numbered(1)
    feed = make_feed(dataset)
    draw_pass(feed)
    feed.draw()

    feed.seek(Position(0, 0))
    draw_pass(feed)

    assert dataset.calls == ["begin", 0, "end", "begin", 0, "end", "begin", 0, "end"]


def test_the_number_of_batches_is_read_at_each_pass():
    dataset = Numbered(2)
    feed = make_feed(dataset)
    draw_pass(feed)

    dataset.count = 3

    assert feed.length == 3
    assert len(draw_pass(feed)) == 3


def test_a_data_set_without_a_number_of_batches_never_ends(workers):
    feed = make_feed(Numbered(None, workers=workers))

    assert feed.is_infinite
    assert feed.length is None
    assert draw_numbers(feed, 50) == list(range(50))
    feed.seek(Position(0, 7))
    assert draw_numbers(feed, 3) == [7, 8, 9]
    feed.close()


def test_an_infinite_data_set_cannot_be_shuffled():
    with pytest.raises(ArgumentError, match="shuffle"):
        make_feed(Numbered(None), shuffle=True)


def test_a_data_set_without_batches_is_refused(workers):
    feed = make_feed(Numbered(0, workers=workers))

    with pytest.raises(EmptyDataError):
        feed.peek()
    feed.close()


def test_a_position_beyond_the_pass_is_refused():
    feed = make_feed(Numbered(3))
    feed.seek(Position(0, 4))

    with pytest.raises(PositionError, match="holds 3 batches"):
        feed.draw()


def test_floating_batches_are_cast():
    ids, values = make_feed(Numbered(1)).draw()

    assert values.dtype == keras.config.floatx()
    assert ids.dtype == np.int64


def test_a_batch_of_another_form_is_refused():
    class Changing(Numbered):
        def __getitem__(self, index):
            return np.zeros((2,) * (index + 1))

    feed = make_feed(Changing(2))
    feed.draw()

    with pytest.raises(BatchChangedError):
        feed.draw()


@pytest.mark.parametrize("error", [OSError("bad file"), StopIteration("mine")], ids=repr)
def test_exceptions_come_out_as_they_are_with_a_note(error, workers):
    feed = make_feed(Failing(4, error, workers=workers))
    feed.draw()
    feed.draw()

    with pytest.raises(type(error)) as caught:
        feed.draw()

    assert caught.value is error
    assert "batch 2 of pass 0" in error.__notes__[0]
    feed.close()


def test_a_batch_that_failed_is_tried_again(workers):
    dataset = Failing(4, OSError("the network is down"), workers=workers)
    feed = make_feed(dataset)
    draw_numbers(feed, 2)
    for _ in range(2):
        with pytest.raises(OSError, match="network"):
            feed.draw()

    assert feed.position == Position(0, 2)
    feed.seek(Position(0, 3))
    assert draw_numbers(feed, 2) == [3, None]
    feed.close()


def test_workers_fetch_at_the_same_time():
    together = threading.Barrier(3, timeout=30)

    class Meeting(Numbered):
        def __getitem__(self, index):
            together.wait()  # returns once three workers are here
            return super().__getitem__(index)

    feed = make_feed(Meeting(6, workers=3))

    assert draw_numbers(feed, 7) == [0, 1, 2, 3, 4, 5, None]
    feed.close()


def test_no_more_batches_are_fetched_ahead_than_the_queue_holds():
    count, queue = 50, 3
    third_is_fetched = threading.Event()
    ahead = []

    class Watched(Numbered):
        drawn = 0

        def __getitem__(self, index):
            ahead.append(index - self.drawn)
            if index == queue:
                third_is_fetched.set()
            if index == 1:
                third_is_fetched.wait(timeout=30)
            return super().__getitem__(index)

    dataset = Watched(count, workers=2, max_queue_size=queue)
    feed = make_feed(dataset)
    for _ in range(count):
        feed.draw()
        dataset.drawn += 1
    feed.close()

    assert max(ahead) <= queue


def test_epoch_hooks_do_not_run_beside_workers():
    has_ended = threading.Event()
    overlaps = []

    class Slow(Numbered):
        def __getitem__(self, index):
            if index == 1:
                overlaps.append(has_ended.wait(timeout=0.1))  # what must not happen meanwhile
            return super().__getitem__(index)

        def on_epoch_end(self):
            has_ended.set()

    feed = make_feed(Slow(4, workers=2))
    feed.draw()

    feed.seek(Position(1, 3))
    feed.draw()
    feed.close()

    assert overlaps == [False]


def test_closing_stops_the_workers():
    feed = make_feed(Numbered(50, workers=2))
    before = {thread.name for thread in threading.enumerate()}
    feed.draw()
    during = {thread.name for thread in threading.enumerate()} - before
    feed.close()
    feed.close()
    after = {thread.name for thread in threading.enumerate()}

    assert during
    assert not during & after


@pytest.mark.process
@pytest.mark.slow
def test_worker_processes_give_the_same_batches_also_after_a_rearrangement(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")  # of the worker, which starts faster with it
    count = 4
    plain = make_feed(Rearranging(count), shuffle=True)
    parallel = make_feed(Rearranging(count, workers=1, use_multiprocessing=True), shuffle=True)

    expected = draw_numbers(plain, 2 * (count + 1))
    drawn = draw_numbers(parallel, 2 * (count + 1))
    parallel.close()

    assert drawn == expected


@pytest.mark.process
@pytest.mark.slow
def test_exceptions_of_worker_processes_come_out_with_their_type(monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    dataset = Failing(4, OSError("bad file"), workers=1, use_multiprocessing=True)
    feed = make_feed(dataset)
    draw_numbers(feed, 2)

    with pytest.raises(OSError, match="bad file") as caught:
        feed.draw()
    feed.close()

    assert "batch 2 of pass 0" in caught.value.__notes__[0]


@pytest.mark.process
@pytest.mark.slow
def test_a_worker_process_that_dies_is_told_and_replaced(monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "numpy")
    path = tmp_path / "fatal"
    path.touch()
    feed = make_feed(Dying(2, path, workers=1, use_multiprocessing=True))

    with pytest.raises(BrokenProcessPool) as caught:
        feed.draw()
    path.unlink()

    assert "__main__" in caught.value.__notes__[0]
    assert draw_numbers(feed, 3) == [0, 1, None]
    feed.close()
