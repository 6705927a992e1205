"""A feed of the same data, made anew, goes on where the saved one stood: bit for bit."""

import itertools
import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perigee._errors import (
    DataChangedError,
    DataStateError,
    NotResumableError,
    PerigeeError,
    PositionError,
)
from perigee._events.protocols import Position
from perigee.data import ArrayFeed, IterableFeed, PyDatasetFeed, open_feed, state_bytes

BATCHES = 4
EVERY_STEP = range(3 * (BATCHES + 1))
"""Start, middle, last batch and end of a pass, and of the two after it."""
FOLLOWING = 2 * (BATCHES + 1)
SMALL = 4096


class Rearranging(keras.utils.PyDataset):
    """It shuffles itself by its own seed at both ends of an epoch."""

    def __init__(self, length=BATCHES, seed=5, **kwargs):
        super().__init__(**kwargs)
        self.order = list(range(length))
        self.rng = np.random.default_rng(seed)

    def __len__(self):
        return len(self.order)

    def __getitem__(self, index):
        return np.full(2, self.order[index]), np.full((2, 1), index / 2)

    def on_epoch_begin(self):
        self.rng.shuffle(self.order)

    def on_epoch_end(self):
        self.rng.shuffle(self.order)


class Endless(keras.utils.PyDataset):
    @property
    def num_batches(self):
        return None

    def __getitem__(self, index):
        return np.full(2, index)


class Loader:
    """A data loader whose order goes on from pass to pass, and that tells and takes its state."""

    batch_sampler = None

    def __init__(self, extra=0):
        self.extra = extra
        self.drawn = 0
        self.passes = 0
        self.index = 0
        self.is_loaded = False

    def __iter__(self):
        if not self.is_loaded:
            self.index = 0
        self.is_loaded = False
        while self.index < BATCHES:
            self.index += 1
            self.drawn += 1
            yield np.full(2, 10 * self.passes + self.index)
        self.index, self.passes = 0, self.passes + 1

    def state_dict(self):
        return {"index": self.index, "passes": self.passes, "extra": self.extra}

    def load_state_dict(self, state):
        self.index, self.passes = state["index"], state["passes"]
        self.is_loaded = True


def generated():
    """Batches of a generator function, each pass the same ones."""
    rng = np.random.default_rng(3)
    for _ in range(BATCHES):
        yield rng.normal(size=(2, 3)), {"label": rng.integers(9, size=2)}


def going_on():
    """A generator function whose passes differ: it goes on with one random generator."""
    rng = np.random.default_rng(3)

    def batches():
        for _ in range(BATCHES):
            yield rng.integers(1000, size=2)

    return batches


def array_feed(seed=11):
    arrays = {"x": np.arange(28.0).reshape(14, 2), "y": np.arange(14)}
    return ArrayFeed(arrays, batch_size=4, shuffle=True, seed=seed)


FEEDS = {
    "arrays": array_feed,
    "arrays in order": lambda: ArrayFeed(np.arange(14), batch_size=4, shuffle=False, seed=0),
    "PyDataset": lambda: PyDatasetFeed(Rearranging(), shuffle=False, seed=0),
    "shuffled PyDataset": lambda: PyDatasetFeed(Rearranging(), shuffle=True, seed=9),
    "PyDataset with workers": lambda: PyDatasetFeed(
        Rearranging(workers=2, max_queue_size=3), shuffle=True, seed=9
    ),
    "list": lambda: IterableFeed([np.full(2, index) for index in range(BATCHES)]),
    "generator function": lambda: IterableFeed(generated),
    "generator that goes on": lambda: IterableFeed(going_on()),
    "loader with a state": lambda: IterableFeed(Loader()),
    "loader with an odd state": lambda: IterableFeed(Loader(extra=frozenset({1}))),
}
BY_INDEX = [name for name in FEEDS if "generator" not in name and "loader" not in name]


def plain(batch):
    if batch is None:
        return None
    return [(str(np.asarray(a).dtype), np.asarray(a).tolist()) for a in keras.tree.flatten(batch)]


def draw_steps(feed, count):
    return [plain(feed.draw()) for _ in range(count)]


def stored(state):
    """The state as it comes back from a file."""
    return json.loads(json.dumps(state))


@pytest.fixture
def closing():
    feeds = []
    yield lambda feed: feeds.append(feed) or feed
    for feed in feeds:
        feed.close()


@pytest.mark.parametrize("peeks", [False, True], ids=["", "peeked"])
@pytest.mark.parametrize("name", FEEDS)
def test_a_new_feed_goes_on_exactly_from_any_step(name, peeks, closing):
    straight = draw_steps(closing(FEEDS[name]()), len(EVERY_STEP) + FOLLOWING)

    for step in EVERY_STEP:
        saved, resumed = closing(FEEDS[name]()), closing(FEEDS[name]())
        draw_steps(saved, step)
        if peeks:
            saved.peek()
            resumed.peek()
        resumed.load_state(stored(saved.state()))
        assert draw_steps(resumed, FOLLOWING) == straight[step : step + FOLLOWING], step
        assert draw_steps(saved, FOLLOWING) == straight[step : step + FOLLOWING], step


@pytest.mark.parametrize("name", FEEDS)
def test_a_batch_that_was_put_back_is_drawn_again(name, closing):
    straight = draw_steps(closing(FEEDS[name]()), 3 * (BATCHES + 1))

    for step in range(1, 2 * (BATCHES + 1)):
        saved, resumed = closing(FEEDS[name]()), closing(FEEDS[name]())
        draw_steps(saved, step - 1)
        saved.push_back(saved.draw())
        resumed.load_state(stored(saved.state()))
        assert draw_steps(resumed, BATCHES) == straight[step - 1 : step - 1 + BATCHES], step


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    batch_size=st.integers(1, 50),
    shuffle=st.booleans(),
    seeds=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
    step=st.integers(0, 100),
)
def test_arrays_resume_at_any_step_with_the_seed_that_was_saved(
    rows, batch_size, shuffle, seeds, step
):
    def feed(seed):
        return ArrayFeed(np.arange(rows), batch_size=batch_size, shuffle=shuffle, seed=seed)

    saved, resumed = feed(seeds[0]), feed(seeds[1])
    draw_steps(saved, step)

    resumed.load_state(stored(saved.state()))

    assert resumed.seed == seeds[0]
    assert draw_steps(resumed, FOLLOWING) == draw_steps(saved, FOLLOWING)


def test_arrays_in_memory_are_in_the_order_of_the_saved_seed():
    saved, resumed = array_feed(seed=1), array_feed(seed=2)
    resumed.resident()
    saved.skip(3)

    resumed.load_state(stored(saved.state()))

    assert resumed.position == Position(0, 3)
    assert resumed.resident().order.tolist() == saved.resident().order.tolist()


def test_a_pydataset_goes_on_with_the_seed_that_was_saved():
    saved, resumed = [PyDatasetFeed(Rearranging(), shuffle=True, seed=seed) for seed in (1, 2)]
    draw_steps(saved, 2)

    resumed.load_state(stored(saved.state()))

    assert resumed.seed == 1
    assert draw_steps(resumed, FOLLOWING) == draw_steps(saved, FOLLOWING)


def test_a_pydataset_without_end_resumes():
    saved, resumed = [PyDatasetFeed(Endless(), shuffle=False, seed=0) for _ in range(2)]
    draw_steps(saved, 1000)

    resumed.load_state(stored(saved.state()))

    assert plain(resumed.draw()) == [("int64", [1000, 1000])]


def test_numpy_integers_as_arguments_can_be_saved():
    feed = open_feed(np.arange(9), batch_size=np.int64(2), seed=np.int64(3))

    open_feed(np.arange(9), batch_size=2, seed=3).load_state(stored(feed.state()))


def test_a_loader_with_a_state_draws_nothing_again():
    saved, loader = IterableFeed(Loader()), Loader()
    draw_steps(saved, 7)
    resumed = IterableFeed(loader)

    resumed.load_state(stored(saved.state()))
    resumed.draw()

    assert loader.drawn == 1


@pytest.mark.parametrize("step", [0, 2, 5, 8])
def test_a_torch_loader_is_replayed(step):
    torch = pytest.importorskip("torch")

    def loader():
        generator = torch.Generator().manual_seed(3)
        data = torch.utils.data.TensorDataset(torch.arange(14))
        return torch.utils.data.DataLoader(data, batch_size=4, shuffle=True, generator=generator)

    saved, resumed = IterableFeed(loader()), IterableFeed(loader())
    draw_steps(saved, step)

    resumed.load_state(stored(saved.state()))

    assert resumed.resumes == "by replay"
    assert draw_steps(resumed, FOLLOWING) == draw_steps(saved, FOLLOWING)


@pytest.mark.parametrize("name", FEEDS)
def test_how_well_it_resumes_is_known_before_anything_is_drawn(name, closing):
    feed = closing(FEEDS[name]())

    assert feed.resumes == ("exactly" if name in BY_INDEX else "by replay")
    assert feed.resumes_because
    assert feed.position == Position()


@pytest.mark.parametrize(
    "make",
    [lambda: generated(), lambda: itertools.cycle([np.zeros(2)])],
    ids=["generator", "cycle"],
)
def test_an_iterator_is_not_resumed(make):
    saved = IterableFeed(make())
    saved.draw()

    assert saved.resumes == "not exactly"
    with pytest.raises(NotResumableError, match="once"):
        IterableFeed(make()).load_state(saved.state())


@pytest.mark.parametrize("rows", [10, 10**6])
def test_the_position_in_arrays_is_small(rows):
    arrays = {f"column {index}": np.zeros((rows, 1), "int8") for index in range(200)}
    feed = ArrayFeed(arrays, batch_size=2, shuffle=True, seed=2**64 - 1)
    feed.seek(Position(2**40, 3))

    assert state_bytes(feed.state()) < SMALL


@pytest.mark.parametrize("name", BY_INDEX)
def test_the_position_by_index_is_small(name, closing):
    feed = closing(FEEDS[name]())
    draw_steps(feed, 7)

    assert state_bytes(feed.state()) == len(json.dumps(feed.state())) < SMALL


def test_arrays_in_a_state_count_with_their_bytes():
    assert state_bytes({"a": [np.zeros(100, np.uint8)]}) == len('{"a": [null]}') + 100


X = np.zeros((14, 2))


@pytest.mark.parametrize(
    ("now", "named"),
    [
        (ArrayFeed(X[:13], batch_size=4, shuffle=True, seed=0), "rows: 14 then, 13 now"),
        (ArrayFeed(X, batch_size=5, shuffle=True, seed=0), "batch_size: 4 then, 5 now"),
        (ArrayFeed(X, batch_size=4, shuffle=False, seed=0), "shuffle: True then, False now"),
        (ArrayFeed(X > 0, batch_size=4, shuffle=True, seed=0), "spec: 'float32 (2,)' then, 'bool"),
        (ArrayFeed(X[:, :1], batch_size=4, shuffle=True, seed=0), "spec"),
        (ArrayFeed((X,), batch_size=4, shuffle=True, seed=0), "spec"),
        (IterableFeed([X]), "kind: arrays then, list now"),
        (PyDatasetFeed(Rearranging(), shuffle=True, seed=0), "kind: arrays then, PyDataset now"),
    ],
    ids=["rows", "batch size", "shuffle", "dtype", "shape", "structure", "list", "PyDataset"],
)
def test_other_data_than_the_arrays_that_were_saved_is_refused_by_name(now, named):
    state = ArrayFeed(X, batch_size=4, shuffle=True, seed=0).state()

    with pytest.raises(DataChangedError) as caught:
        now.load_state(stored(state))

    assert [difference for difference in caught.value.differences if named in difference]
    assert now.position == Position()


def test_one_column_of_many_that_differs_is_seen():
    def feed(dtype):
        arrays = {f"column {i}": np.zeros(3, "int8") for i in range(200)}
        arrays["last"] = np.zeros(3, dtype)
        return ArrayFeed(arrays, batch_size=1, shuffle=False, seed=0)

    with pytest.raises(DataChangedError, match="spec"):
        feed("int16").load_state(feed("int8").state())


@pytest.mark.parametrize(
    ("then", "now", "named"),
    [
        (lambda: Rearranging(4), lambda: Rearranging(5), "length: 4 then, 5 now"),
        (lambda: Rearranging(4), Endless, "length: 4 then, None now"),
        (lambda: [X] * 3, lambda: [X] * 2, "length: 3 then, 2 now"),
    ],
)
def test_data_of_another_length_is_refused_by_name(then, now, named):
    with pytest.raises(DataChangedError) as caught:
        open_feed(now()).load_state(stored(open_feed(then()).state()))

    assert named in caught.value.differences


def test_a_shorter_replay_is_refused():
    saved = IterableFeed(lambda: [np.zeros(2)] * 3)
    draw_steps(saved, 3)

    with pytest.raises(PositionError):
        IterableFeed(lambda: [np.zeros(2)] * 2).load_state(stored(saved.state()))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(["arrays", "PyDataset", "list"]),
    key=st.sampled_from(["kind", "passes", "batches", "data", "data.seed", "data.shuffle"]),
    value=json_values,
)
def test_what_is_no_state_is_refused_with_a_code(name, key, value):
    state = stored(FEEDS[name]().state())
    outer, _, inner = key.partition(".")
    state[outer] = {**state["data"], inner: value} if inner else value

    feed = FEEDS[name]()
    try:
        feed.load_state(state)
    except PerigeeError:
        assert feed.position == Position()
    else:
        assert feed.state() == state


def test_missing_parts_are_refused():
    state = array_feed().state()

    for key in state:
        with pytest.raises((DataStateError, DataChangedError)):
            array_feed().load_state({name: state[name] for name in state if name != key})


@pytest.mark.parametrize("seed", [-1, 2**64, 1.0, True, None, "1"])
def test_a_seed_that_is_none_is_refused(seed):
    state = array_feed().state()

    with pytest.raises(DataStateError, match="seed"):
        array_feed().load_state({**state, "data": {**state["data"], "seed": seed}})
