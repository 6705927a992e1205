import itertools
from collections import UserDict

import keras
import numpy as np
import pytest

from perigee._errors import (
    BatchChangedError,
    DataEndedError,
    DataTypeError,
    EmptyDataError,
    PositionError,
)
from perigee._events.protocols import Position
from perigee.data import IterableFeed

BATCHES = 4


def numbered(count=BATCHES):
    """A generator function: batch `i` holds the number `i`."""

    def batches():
        for index in range(count):
            yield np.full(2, index)

    return batches


def drawing_on(rng, count=BATCHES):
    """A generator function whose passes differ, as they go on with one random generator."""

    def batches():
        for _ in range(count):
            yield rng.integers(1000, size=2)

    return batches


class Rewinding:
    """An iterator that starts again whenever a loop asks it to."""

    def __init__(self, count):
        self.count = count

    def __iter__(self):
        self.index = 0
        return self

    def __next__(self):
        if self.index == self.count:
            raise StopIteration
        self.index += 1
        return np.full(2, self.index - 1)


def draw_pass(feed):
    batches = []
    while (batch := feed.draw()) is not None:
        batches.append(batch)
    return batches


def first_numbers(batches):
    return [int(batch[0]) for batch in batches]


def draw_steps(feed, count):
    return [None if (batch := feed.draw()) is None else batch.tolist() for _ in range(count)]


@pytest.mark.parametrize(
    "data",
    [numbered(), list(numbered()()), Rewinding(BATCHES)],
    ids=["generator function", "list", "rewinding iterator"],
)
def test_each_pass_draws_all_batches_in_order(data):
    feed = IterableFeed(data)

    for passes in range(3):
        assert feed.position == Position(passes, 0)
        assert first_numbers(draw_pass(feed)) == [0, 1, 2, 3]


def test_a_peek_is_the_next_draw_and_does_not_count():
    feed = IterableFeed(numbered()())

    peeked = [feed.peek(), feed.peek()]

    assert peeked[0] is peeked[1]
    assert feed.position == Position(0, 0)
    assert feed.draw() is peeked[0]
    assert feed.position == Position(0, 1)
    assert first_numbers(draw_pass(feed)) == [1, 2, 3]


def test_a_peek_at_the_end_of_a_pass_sees_the_next_pass_and_loses_nothing():
    feed = IterableFeed(numbered())
    for _ in range(BATCHES):
        feed.draw()

    assert first_numbers([feed.peek()]) == [0]

    assert feed.position == Position(0, BATCHES)
    assert feed.draw() is None
    assert feed.position == Position(1, 0)
    assert first_numbers(draw_pass(feed)) == [0, 1, 2, 3]


@pytest.mark.parametrize("data", [[], iter(()), numbered(0)], ids=["list", "iterator", "function"])
@pytest.mark.parametrize("method", ["peek", "draw"])
def test_data_without_batches_is_refused(data, method):
    with pytest.raises(EmptyDataError):
        getattr(IterableFeed(data), method)()


def test_an_iterator_ends_its_only_pass_like_any_other():
    feed = IterableFeed(numbered()())

    assert len(draw_pass(feed)) == BATCHES
    assert feed.position == Position(1, 0)


@pytest.mark.parametrize("method", ["peek", "draw"])
def test_an_iterator_that_is_used_up_says_so_at_the_second_pass(method):
    feed = IterableFeed(numbered()())
    draw_pass(feed)

    with pytest.raises(DataEndedError) as caught:
        getattr(feed, method)()

    assert (caught.value.kind, caught.value.drawn) == ("generator", BATCHES)
    assert caught.value.wanted == "another pass"


def test_structures_stay_and_floating_arrays_are_cast():
    batch = {
        "wide": np.zeros((2, 3)),
        "ids": (np.zeros(2, np.int32), [np.float64(1.5), 2.5, None]),
        "names": ["a", "b"],
    }

    drawn = IterableFeed([batch]).draw()

    assert drawn["wide"].dtype == keras.config.floatx()
    assert drawn["ids"][0] is batch["ids"][0]
    assert drawn["ids"][1] == [1.5, 2.5, None]
    assert drawn["ids"][1][0].dtype == keras.config.floatx()
    assert drawn["names"] == ["a", "b"]


def test_mappings_become_dicts():
    drawn = IterableFeed([UserDict(ids=np.zeros(2))]).draw()

    assert type(drawn) is dict


def test_tensors_of_the_framework_that_runs_stay_as_they_are():
    tensor = keras.ops.ones((2, 3), "float16")

    assert IterableFeed([(tensor,)]).draw()[0] is tensor


def test_a_data_loader_gives_lists_of_arrays():
    torch = pytest.importorskip("torch")
    rows = torch.arange(5)
    data = torch.utils.data.TensorDataset(rows.to(torch.float64), rows)
    loader = torch.utils.data.DataLoader(data, batch_size=2)

    feed = IterableFeed(loader)
    batches = draw_pass(feed)

    assert feed.length == 3
    assert feed.kind == "DataLoader"
    assert [type(batch) for batch in batches] == [list] * 3
    assert [batch[1].tolist() for batch in batches] == [[0, 1], [2, 3], [4]]
    if keras.config.backend() == "torch":
        assert isinstance(batches[0][0], torch.Tensor)
    else:
        assert batches[0][0].dtype == keras.config.floatx()


def test_a_data_loader_without_a_length_has_none():
    torch = pytest.importorskip("torch")

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(range(3))

    feed = IterableFeed(torch.utils.data.DataLoader(Stream(), batch_size=2))

    assert feed.length is None
    assert len(draw_pass(feed)) == 2


def test_a_ragged_last_batch_is_a_normal_thing():
    batches = [(np.zeros((4, 2)), ["a"] * 4), (np.zeros((1, 2)), ["a"])]

    assert len(draw_pass(IterableFeed(batches))) == 2


@pytest.mark.parametrize(
    "changed",
    [np.zeros((2, 3)), (np.zeros(2), np.zeros(2)), np.zeros(2, np.int8)],
    ids=["rank", "structure", "dtype"],
)
def test_a_batch_of_another_form_is_refused_with_both(changed):
    feed = IterableFeed([(np.zeros(2),), (np.zeros(3),), changed])
    feed.draw()
    feed.draw()

    with pytest.raises(BatchChangedError) as caught:
        feed.draw()

    assert caught.value.batch == 2
    assert caught.value.first == "(float32 (2,),)"


def test_the_first_batch_of_all_is_compared_with_those_of_later_passes():
    dtypes = iter([np.int32, np.int64])
    feed = IterableFeed(lambda: [np.zeros(2, next(dtypes))])
    draw_pass(feed)

    with pytest.raises(BatchChangedError):
        feed.draw()


def test_none_is_no_batch():
    with pytest.raises(DataTypeError, match=r"batch 0 of the list"):
        IterableFeed([None]).draw()


def test_exceptions_of_the_data_come_out_as_they_are_with_a_note():
    broken = ValueError("bad file")

    def batches():
        yield np.zeros(2)
        raise broken

    feed = IterableFeed(batches)
    feed.draw()

    with pytest.raises(ValueError, match="bad file") as caught:
        feed.draw()

    assert caught.value is broken
    assert "generator function" in broken.__notes__[0]
    assert "batch 1 of pass 0" in broken.__notes__[0]


def test_a_batch_that_failed_is_drawn_again_and_not_lost():
    failures = iter([True, False])

    def batches():
        yield np.full(2, 0)
        if next(failures):
            raise OSError("the network is down")
        yield np.full(2, 1)

    feed = IterableFeed(batches)
    feed.draw()
    with pytest.raises(OSError, match="network"):
        feed.draw()

    assert feed.position == Position(0, 1)
    assert first_numbers(draw_pass(feed)) == [1]


def test_an_interrupted_generator_does_not_pass_for_one_that_ended():
    interrupts = iter([True, False])

    def batches():
        yield np.full(2, 0)
        if next(interrupts):
            raise KeyboardInterrupt
        yield np.full(2, 1)

    feed = IterableFeed(batches)
    feed.draw()
    with pytest.raises(KeyboardInterrupt):
        feed.draw()

    assert first_numbers(draw_pass(feed)) == [1]


def test_a_generator_that_failed_does_not_pass_for_one_that_ended():
    def batches():
        yield np.zeros(2)
        raise OSError("the network is down")

    feed = IterableFeed(batches())
    feed.draw()
    with pytest.raises(OSError, match="network"):
        feed.draw()

    with pytest.raises(DataEndedError):
        feed.draw()


@pytest.mark.parametrize("steps", range(2 * (BATCHES + 1) + 2))
def test_seeking_goes_on_exactly_like_drawing_even_if_passes_differ(steps):
    first = IterableFeed(drawing_on(np.random.default_rng(3)))
    draw_steps(first, steps)
    position, following = first.position, draw_steps(first, 7)

    second = IterableFeed(drawing_on(np.random.default_rng(3)))
    second.seek(position)

    assert second.position == position
    assert draw_steps(second, 7) == following


def test_seeking_in_an_iterator_goes_forward_past_what_was_peeked_at():
    feed = IterableFeed(numbered()())
    feed.peek()

    feed.seek(Position(0, 2))

    assert first_numbers(draw_pass(feed)) == [2, 3]


def test_seeking_to_where_an_iterator_stands_keeps_what_was_peeked_at():
    feed = IterableFeed(numbered()())
    feed.peek()

    feed.seek(feed.position)

    assert first_numbers(draw_pass(feed)) == [0, 1, 2, 3]


def test_an_iterator_does_not_go_back():
    feed = IterableFeed(numbered()())
    feed.draw()

    with pytest.raises(PositionError, match="cannot move backward"):
        feed.seek(Position(0, 0))


def test_a_generator_function_goes_back_within_a_pass():
    feed = IterableFeed(numbered())
    draw_pass(feed)
    feed.draw()
    feed.draw()

    feed.seek(Position(1, 1))

    assert first_numbers(draw_pass(feed)) == [1, 2, 3]


def test_a_list_goes_anywhere_at_once():
    feed = IterableFeed(list(numbered()()))

    feed.seek(Position(passes=10**12, batches=3))

    assert first_numbers(draw_pass(feed)) == [3]
    assert feed.position == Position(10**12 + 1, 0)


@pytest.mark.parametrize("data", [numbered(), list(numbered()())], ids=["function", "list"])
def test_a_position_beyond_the_pass_is_refused(data):
    feed = IterableFeed(data)

    with pytest.raises(PositionError):
        feed.seek(Position(0, BATCHES + 1))
        feed.draw()


def test_a_second_pass_over_what_never_ends_is_refused():
    feed = IterableFeed(itertools.cycle([np.zeros(2)]))

    assert feed.is_infinite
    with pytest.raises(PositionError, match="a pass is infinite"):
        feed.seek(Position(passes=1))


def endless():
    while True:
        yield np.zeros(2)


def mended():
    while True:
        try:
            yield np.zeros(2)
        except ValueError:
            return


def failing():
    yield np.zeros(2)
    raise OSError("the disk is gone")


def maybe_endless(stops=False):
    while True:
        yield np.zeros(2)
        if stops:
            break


def expression():
    return (np.zeros(2) for _ in range(9))


@pytest.mark.parametrize(
    ("data", "is_infinite"),
    [
        (endless, True),
        (endless(), True),
        (lambda: endless(), True),
        (mended, False),
        (failing, False),
        (maybe_endless, False),
        (expression, False),
        (numbered(), False),
        ([np.zeros(2)], False),
        (lambda: itertools.repeat(np.zeros(2)), False),
    ],
    ids=[
        "function",
        "generator",
        "lambda",
        "return",
        "raise",
        "break",
        "expression",
        "finite",
        "list",
        "?",
    ],
)
def test_code_that_has_no_way_to_end_never_ends(data, is_infinite):
    feed = IterableFeed(data)
    feed.peek()

    assert feed.is_infinite == is_infinite


def test_only_an_iterator_without_more_batches_is_over():
    used_up, function, rewinding = (
        IterableFeed(numbered()()),
        IterableFeed(numbered()),
        Rewinding(2),
    )
    assert not used_up.is_over
    assert used_up.position == Position(0, 0)
    draw_pass(used_up)
    draw_pass(function)

    assert used_up.is_over
    assert not function.is_over
    assert not IterableFeed(rewinding).is_over


def test_an_iterator_is_not_rewound_and_a_function_is():
    iterator, function = IterableFeed(numbered()()), IterableFeed(numbered())
    for feed in (iterator, function):
        draw_steps(feed, 2)
        feed.rewind()

    assert first_numbers(draw_pass(iterator)) == [2, 3]
    assert first_numbers(draw_pass(function)) == [0, 1, 2, 3]


def test_an_iterator_that_can_rewind_itself_begins_the_next_pass_at_its_end():
    feed = IterableFeed(Rewinding(2))
    draw_steps(feed, 2)

    feed.rewind()

    assert first_numbers(draw_pass(feed)) == [0, 1]


@pytest.mark.parametrize("returned", [None, (np.zeros(2), np.zeros(2)), np.zeros(2)], ids=repr)
def test_a_function_that_returns_no_iterable_of_batches_is_refused(returned):
    with pytest.raises(DataTypeError, match="function that returns"):
        IterableFeed(lambda: returned).draw()


def test_the_length_is_that_of_the_data_where_it_has_one():
    assert IterableFeed(list(numbered()())).length == BATCHES
    assert IterableFeed(numbered()).length is None


def test_closing_ends_the_generators_that_were_started():
    ended = []

    def batches():
        try:
            yield np.zeros(2)
            yield np.zeros(2)
        finally:
            ended.append(True)

    feed = IterableFeed(batches)
    feed.draw()

    feed.close()
    feed.close()

    assert ended == [True]
