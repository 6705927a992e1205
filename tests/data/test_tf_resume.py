"""A `tf.data.Dataset` in a new process goes on where one stood in a process that is gone."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from perigee._errors import DataChangedError, DataStateError
from perigee.data import LARGE_STATE_BYTES, IterableFeed, TFDatasetFeed, state_bytes

tf = pytest.importorskip("tensorflow")

from tests.data.pipelines import (  # noqa: E402
    BY_REPLAY,
    EXACT,
    STEPS,
    decoded,
    draw_steps,
    plain,
)

ROOT = Path(__file__).parents[2]
Dataset = tf.data.Dataset


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every run of `pipelines`, straight and as states, of another process."""
    path = tmp_path_factory.mktemp("runs") / "runs.json"
    command = [sys.executable, "-m", "tests.data.pipelines", str(path)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text(encoding="utf-8"), object_hook=decoded)


@pytest.fixture(autouse=True)
def no_global_seed(seeded):
    """TensorFlow's global seed is part of the seed of every shuffle; the other process has none."""
    tf.random.set_seed(None)


def resumed(name, state):
    feed = TFDatasetFeed({**EXACT, **BY_REPLAY}[name]())
    feed.load_state(state)
    return feed


@pytest.mark.spread(8)
@pytest.mark.process
@pytest.mark.parametrize("name", [*EXACT, *BY_REPLAY])
def test_a_new_process_goes_on_exactly_from_any_step(runs, name):
    straight = runs[name]["straight"]

    for place, state in runs[name]["states"].items():
        step = int(place.split()[0])
        assert draw_steps(resumed(name, state), STEPS) == straight[step : step + STEPS], place


@pytest.mark.process
@pytest.mark.parametrize("name", ["shuffled", "by index", "files", "endless", "mixed"])
def test_no_batch_is_drawn_again_to_get_there(runs, name):
    states = runs[name]["states"]

    assert all("iterator" in states[place] for place in ("0", "1", "2", "6", "7"))


@pytest.mark.process
@pytest.mark.parametrize(
    ("name", "first", "more"),
    [("files", 1, 3), ("files", 6, 3), ("files", 7, 3), ("shuffled", 7, 9), ("shuffled", 7, 10)],
)
def test_a_state_saved_after_a_resume_is_as_good(runs, name, first, more):
    following = runs[name]["straight"][first + more :]
    feed = resumed(name, runs[name]["states"][str(first)])
    draw_steps(feed, more)

    again = resumed(name, feed.state())

    assert draw_steps(again, len(following)) == following


@pytest.mark.process
@pytest.mark.parametrize("place", ["1", "8", "10", "11"])
def test_a_feed_that_was_peeked_at_resumes_too(runs, place):
    step = int(place)
    feed = TFDatasetFeed(EXACT["shuffled"]())
    feed.peek()

    feed.load_state(runs["shuffled"]["states"][place])

    assert draw_steps(feed, STEPS) == runs["shuffled"]["straight"][step : step + STEPS]


@pytest.mark.process
@pytest.mark.only_tensorflow
def test_the_stream_of_a_resumed_pass_begins_with_the_batch_that_was_taken(runs):
    straight = runs["endless"]["straight"]
    feed = resumed("endless", runs["endless"]["states"]["3 peeked"])

    iterator, taken = feed.stream()

    assert plain(taken.get_value()) == straight[3]
    assert plain(next(iterator)) == straight[4]
    feed.advance(2, is_over=False)
    assert feed.position.batches == 5
    assert draw_steps(feed, 3) == straight[5:8]


@pytest.mark.process
@pytest.mark.only_tensorflow
def test_positions_count_what_the_stream_was_told_to_have_trained(runs):
    feed = TFDatasetFeed(EXACT["shuffled"]())
    iterator, _ = feed.stream()
    for _ in range(3):
        next(iterator)
    feed.advance(3, is_over=False)

    again = resumed("shuffled", feed.state())

    assert (again.position.passes, again.position.batches) == (0, 3)
    assert draw_steps(again, STEPS) == runs["shuffled"]["straight"][3 : 3 + STEPS]


@pytest.mark.parametrize("name", EXACT)
def test_a_seeded_pipeline_resumes_exactly(name):
    assert TFDatasetFeed(EXACT[name]()).resumes == "exactly"


@pytest.mark.parametrize("name", BY_REPLAY)
def test_state_that_cannot_be_saved_is_replayed(name):
    assert TFDatasetFeed(BY_REPLAY[name]()).resumes == "by replay"


def _unordered():
    options = tf.data.Options()
    options.deterministic = False
    return Dataset.range(9).with_options(options)


def _reading_a_variable():
    variable = tf.Variable(1, dtype=tf.int64)
    return Dataset.range(9).map(lambda x: x + variable)


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Dataset.range(9).shuffle(9).batch(2), "without a seed"),
        (lambda: Dataset.range(9).shuffle(9, reshuffle_each_iteration=False), "without a seed"),
        (
            lambda: Dataset.range(3).flat_map(lambda i: Dataset.range(9).shuffle(9)),
            "without a seed",
        ),
        (lambda: Dataset.random().take(3), "without a seed"),
        (lambda: Dataset.sample_from_datasets([Dataset.range(3)] * 2), "without a seed"),
        (lambda: Dataset.range(9).map(lambda x: tf.random.uniform([])), "without a seed"),
        (
            lambda: Dataset.range(9).map(lambda x: tf.random.uniform([], seed=1), 2),
            "in parallel",
        ),
        (_unordered, "deterministic=False"),
        (lambda: Dataset.range(9).map(lambda x: x, 2, deterministic=False), "deterministic=False"),
        (_reading_a_variable, "variables"),
    ],
)
def test_what_chance_decides_is_said_before_anything_is_drawn(make, why):
    feed = TFDatasetFeed(make())

    assert feed.resumes == "not exactly"
    assert why in feed.resumes_because
    assert feed._opened == 0


@pytest.mark.parametrize("drawn", [2, 4])
def test_an_unseeded_pass_goes_on_with_the_rows_that_are_left(drawn):
    first = TFDatasetFeed(Dataset.range(20).shuffle(20).batch(4))
    draw_steps(first, drawn)
    state, following = first.state(), draw_steps(first, 6 - drawn)

    second = TFDatasetFeed(Dataset.range(20).shuffle(20).batch(4))
    second.load_state(state)

    assert draw_steps(second, 6 - drawn) == following


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        (lambda: Dataset.range(20).shuffle(20, seed=3).batch(5), "length: 5 then, 4 now"),
        (lambda: Dataset.range(20).shuffle(20, seed=4).batch(4), "ShuffleDatasetV3"),
        (lambda: Dataset.range(20).shuffle(10, seed=3).batch(4), "ShuffleDatasetV3"),
        (lambda: Dataset.range(1, 21).shuffle(20, seed=3).batch(4), "RangeDataset(0, 20, 1)"),
        (lambda: Dataset.range(20).batch(4).map(float), "spec"),
    ],
    ids=["batch size", "seed", "buffer", "data", "dtype"],
)
def test_another_pipeline_is_refused_by_name(changed, named):
    feed = TFDatasetFeed(Dataset.range(20).shuffle(20, seed=3).batch(4))
    feed.draw()
    state = feed.state()

    with pytest.raises(DataChangedError) as caught:
        TFDatasetFeed(changed()).load_state(state)

    assert any(named in difference for difference in caught.value.differences)


@pytest.mark.parametrize("add", [1, 3], ids=["one", "three"])
def test_what_a_function_computes_is_part_of_the_pipeline(add):
    feed = TFDatasetFeed(Dataset.range(9).map(lambda x: x + 1))
    other = TFDatasetFeed(Dataset.range(9).map(lambda x: x + add))

    if add == 1:
        other.load_state(feed.state())
    else:
        with pytest.raises(DataChangedError):
            other.load_state(feed.state())


def test_another_array_of_the_same_form_is_refused():
    feed = TFDatasetFeed(Dataset.from_tensor_slices(np.arange(9)).batch(2))

    with pytest.raises(DataChangedError, match="TensorSliceDataset"):
        TFDatasetFeed(Dataset.from_tensor_slices(np.arange(1, 10)).batch(2)).load_state(
            feed.state()
        )


def test_data_of_another_kind_is_refused():
    state = TFDatasetFeed(Dataset.range(9)).state()

    with pytest.raises(DataChangedError, match=r"kind: tf\.data\.Dataset then, list now"):
        IterableFeed([np.zeros(2)]).load_state(json.loads(json.dumps(state, default=str)))


@pytest.mark.parametrize(
    "damage",
    [
        {"iterator": {}},
        {"iterator": None},
        {"iterator": {"index": np.zeros(3, np.uint8), "data": np.zeros(3, np.uint8)}},
        {"iterator": {"index": "..", "data": ".."}},
        {"cursor": None},
        {"cursor": {"passes": -1, "batches": 0}},
        {"ahead": {}},
        {"ahead": [[np.zeros(3, np.uint8)]]},
        {"ahead": [[]]},
        {"opened": 10**9},
        {"passes": "1"},
        {"batches": True},
        {"batches": None},
        {"data": None},
    ],
    ids=str,
)
def test_a_damaged_state_is_refused(damage):
    feed = TFDatasetFeed(Dataset.range(9).batch(2))
    feed.draw()

    with pytest.raises(DataStateError):
        TFDatasetFeed(Dataset.range(9).batch(2)).load_state({**feed.state(), **damage})


@pytest.mark.parametrize("name", ["index", "data"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_bit_flipped_in_the_iterator_is_refused_or_makes_no_difference(name, share):
    feed = TFDatasetFeed(EXACT["shuffled"]())
    draw_steps(feed, 2)
    state = feed.state()
    following = draw_steps(feed, 4)
    content = state["iterator"][name].copy()
    content[int(share * len(content))] ^= 1
    state["iterator"] = {**state["iterator"], name: content}

    second = TFDatasetFeed(EXACT["shuffled"]())
    try:
        second.load_state(state)
    except DataStateError:
        return
    assert draw_steps(second, 4) == following


def test_a_failing_next_pass_does_not_keep_a_state_from_being_saved(tmp_path):
    file = tmp_path / "lines"
    file.write_text("a\nb\n")
    lines = tf.data.TextLineDataset([str(file)]).shuffle(2, seed=1).shuffle(2, seed=2)
    feed = TFDatasetFeed(lines)
    straight = draw_steps(feed, 3)
    file.unlink()

    state = feed.state()

    assert state["passes"] == 1
    file.write_text("a\nb\n")
    assert draw_steps(feed, 3) != []
    assert straight[-1] is None


def test_the_size_of_a_large_buffer_is_known():
    rows, size = 40, 2**17

    def noise(i):
        return tf.random.stateless_uniform([size], [1, tf.cast(i, tf.int32)])

    feed = TFDatasetFeed(Dataset.range(rows).map(noise).shuffle(rows, seed=1))
    at_first = state_bytes(feed.state())
    feed.draw()

    assert at_first < 2**14
    assert state_bytes(feed.state()) > LARGE_STATE_BYTES


@pytest.mark.process
def test_a_pipeline_that_shuffles_by_index_has_a_small_state(runs):
    assert max(map(state_bytes, runs["by index"]["states"].values())) < 2**14
