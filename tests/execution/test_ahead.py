"""Batches that are taken while the device works, and blocks that end where a step went wrong."""

from __future__ import annotations

import functools
import threading

import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._execution import Blocks, Program
from perigee._execution.timing import timed_by
from perigee.data import open_feed
from perigee.data._passes import PassFeed
from tests.execution.trainings import (
    BATCH,
    FUSES,
    HOST_KINDS,
    KINDS,
    Beginning,
    Counting,
    Everything,
    InBatches,
    as_data,
    cut,
    exact,
    rows,
    train,
)

fused = pytest.mark.skipif(not FUSES, reason="the framework runs one step a call")
STEPS = 12


@pytest.fixture
def looked(monkeypatch):
    """Collect the position of each batch that is taken ahead, and what `look_ahead` returned."""
    seen, original = [], PassFeed.look_ahead

    def look_ahead(self, most):
        seen.append((self._cursor.batches, original(self, most)))
        return seen[-1][1]

    monkeypatch.setattr(PassFeed, "look_ahead", look_ahead)
    return seen


def batches(count=STEPS):
    return cut(rows(count * BATCH), [BATCH] * count)


@fused
@pytest.mark.parametrize("kind", HOST_KINDS)
def test_the_batches_of_the_next_block_are_taken_while_this_one_runs(kind, looked):
    execution = pg.Execution(steps_per_call=4)

    train(Everything(), as_data(kind, batches()), epochs=1, execution=execution)

    taken = [at for at, is_taken in looked if is_taken]
    assert taken == [*range(4, STEPS)]


@fused
def test_data_and_device_work_at_the_same_time(monkeypatch):
    """The data waits for the device to begin with the next block, which it could not alone."""
    running, seen = threading.Event(), []
    step, data = Everything(), batches(8)

    def slow():
        for index, batch in enumerate(data):
            if index in (4, 5):
                seen.append(running.is_set())
            yield batch

    feed = open_feed(slow)
    ready = Program.of(step, "train_step", feed.peek(), pg.Execution("graph", 4))
    blocks = Blocks(feed, 4)
    begin = type(ready).begin_block

    def begin_block(self, *arguments):
        pending = begin(self, *arguments)
        running.set()
        return pending

    monkeypatch.setattr(type(ready), "begin_block", begin_block)
    result_of = []

    while (block := blocks.run(ready, None)) is not None:
        result_of.append(len(block))
        running.clear()

    assert result_of == [4, 4]
    assert seen == [True, True]


def test_time_that_steps_wait_for_data_is_counted_as_such():
    seconds, pause = [0.0], 100.0

    def slow():
        for batch in batches():
            seconds.append(seconds[-1] + pause)
            yield batch

    with timed_by(lambda: seconds[-1]):
        history = pg.fit(
            Everything(),
            slow,
            guards="off",
            execution=pg.Execution(steps_per_call=1),
            progress="off",
        )

    looked_at = 1  # before there is anything to train
    assert history.spent["data"] == (STEPS - looked_at) * pause


@fused
@pytest.mark.parametrize("kind", HOST_KINDS)
def test_nothing_is_taken_beyond_what_is_due_next(kind, looked):
    execution = pg.Execution(steps_per_call=2)

    train(
        Everything(),
        as_data(kind, batches()),
        steps=7,
        execution=execution,
        record_every=pg.Every(steps=5),
    )

    # Blocks of 2, 2, 1 up to the record, then 2 to the end.
    assert [at for at, is_taken in looked if is_taken] == [2, 3, 4]


@fused
def test_a_pydataset_learns_that_a_pass_is_over_only_when_it_is(monkeypatch):
    data, seen = InBatches(batches(4)), []
    step = Everything()

    class Looking(pg.Hook):
        def on_steps(self, event):
            seen.append((event.clock.step, data.passes))

    pg.fit(
        step,
        data,
        epochs=2,
        shuffle=False,
        callbacks=[Looking()],
        execution=pg.Execution("graph", 2),
        progress="off",
    )

    assert seen == [(2, 0), (4, 0), (6, 1), (8, 1)]


@fused
@pytest.mark.parametrize("good", [4, 5, 7, 8])
def test_what_is_raised_while_looking_ahead_comes_out_after_the_batches_before(good):
    def failing():
        yield from batches(good)
        raise OSError("the disk is gone")

    counting = Counting()
    with pytest.raises(OSError, match="the disk is gone") as caught:
        pg.fit(
            Everything(),
            failing,
            callbacks=[counting],
            execution=pg.Execution("graph", 4),
            progress="off",
        )

    assert sum(counting.counts) == good
    assert f"batch {good} of pass 0" in "".join(caught.value.__notes__)


@fused
def test_the_saved_random_state_is_that_of_the_position_not_of_what_was_taken_ahead(tmp_path):
    """A generator that draws from NumPy's global generator goes on as if never interrupted."""

    def trained(folder, stop_at=None):
        np.random.seed(4)

        def draws():
            for _ in range(STEPS):
                yield np.random.normal(size=(BATCH, 2)).astype("float32")

        class Stopping(pg.Hook):
            def on_steps(self, event):
                if event.clock.step == stop_at:
                    event.stop("deadline")

        step = Everything()
        pg.fit(
            step,
            draws,
            epochs=2,
            seed=1,
            run=folder,
            callbacks=[Stopping()],
            execution=pg.Execution("graph", 4),
            progress="off",
        )
        return [w.tobytes() for w in step.model.get_weights()], np.random.get_state()[1].tobytes()

    straight = trained(tmp_path / "straight")
    trained(tmp_path / "stopped", stop_at=4)

    assert trained(tmp_path / "stopped") == straight


# Blocks that end where a step went wrong.


class Spoiled(Everything):
    """Comes to an infinity on batches whose first value says so."""

    def train_step(self, batch):
        logs = super().train_step(batch)
        return {**logs, "spoiled": ops.where(batch[0, 0] > 50, float("inf"), 0.0)}


@functools.cache
def beginning():
    """Return the beginning of one Step for all: compiling takes most of the time."""
    step = Spoiled()
    pg.fit(step, batches(1), nonfinite="stop", progress="off")
    return Beginning(step)


@pytest.mark.spread(8)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bad", [0, 3, 4, 9, STEPS - 1])
def test_a_training_stops_after_the_very_step_whatever_the_size_of_a_block(kind, bad):
    given = batches()
    given[bad] = given[bad] + 100
    start = beginning()
    outcomes = []

    for size in (1, 2, 5, "auto"):
        start.go_back()
        outcome = train(
            start.step,
            as_data(kind, given),
            epochs=2,
            nonfinite="stop",
            execution=pg.Execution(steps_per_call=size),
            **({"batch_size": BATCH, "shuffle": False} if kind == "arrays" else {}),
            **({"shuffle": False} if kind == "PyDataset" else {}),
        )
        assert (outcome.reason, outcome.clock.step) == ("non-finite", bad + 1)
        outcomes.append(exact(outcome))

    def comparable(outcome):
        # One call a step and many are two programs; and a hook is told of calls.
        return {key: value for key, value in outcome.items() if key not in ("told",)}

    assert all(comparable(o) == comparable(outcomes[1]) for o in outcomes[2:])
    assert outcomes[0]["clock"] == outcomes[1]["clock"]
    assert outcomes[0]["calls"][:1] == outcomes[1]["calls"][:1]


@fused
@pytest.mark.parametrize("kind", HOST_KINDS)
def test_batches_that_were_drawn_for_steps_that_never_were_are_put_back(kind):
    given = batches(6)
    given[1] = given[1] + 100
    feed = open_feed(as_data(kind, given))
    step = Spoiled()
    ready = Program.of(step, "train_step", feed.peek(), pg.Execution("graph", 4), nonfinite="stop")

    block = Blocks(feed, 4).run(ready, None)

    assert len(block) == 2
    assert feed.position.batches == 2
    assert np.array_equal(feed.draw(), given[2])
    assert np.array_equal(feed.draw(), given[3])
    assert np.array_equal(feed.draw(), given[4])
