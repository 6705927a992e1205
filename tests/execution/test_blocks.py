"""Blocks end where something is due, and take no batch that does not fit."""

import functools
import gc
import itertools
import tracemalloc

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import (
    BatchChangedError,
    DataTypeError,
    EmptyDataError,
    NonFiniteError,
)
from perigee._events.clock import Clock
from perigee._execution import blocks
from perigee._execution.timing import timed_by
from tests.execution.machines import ticking
from tests.execution.trainings import (
    FUSES,
    HOST_KINDS,
    KINDS,
    STREAMS,
    TAKES_RAGGED,
    TAKES_RAGGED_END,
    BatchCalls,
    Beginning,
    Counting,
    Everything,
    InBatches,
    as_data,
    cut,
    rows,
    tf_dataset,
    traces,
)

BATCHES = 10
SIZE = 4
"""Steps a call."""
FOURS = pg.Execution(steps_per_call=SIZE)

# Steps are shared between tests, whose batches differ; runs of functions are not exactly resumable.
pytestmark = pytest.mark.filterwarnings("ignore:Recompiled", "ignore:InexactResume")

kinds = pytest.mark.parametrize("kind", KINDS)
host_kinds = pytest.mark.parametrize("kind", HOST_KINDS)
fused = pytest.mark.skipif(not FUSES, reason="one step a call")


class Reading(pg.Step):
    """Trains nothing: counts its steps, and logs what it reads."""

    def __init__(self):
        self.count = keras.Variable(0, dtype="int32", trainable=False)
        self.order = keras.Variable(0.0, trainable=False)

    def first(self, batch):
        return batch

    def train_step(self, batch):
        batch = self.first(batch)
        self.count.assign_add(1)
        # Two batches that change places change it.
        self.order.assign(0.5 * self.order + ops.sum(batch))
        return {"mean": pg.mean(batch)}

    def test_step(self, batch):
        return {"mean": pg.mean(self.first(batch))}


class ReadingFirst(Reading):
    """Reads the first of several leaves."""

    def first(self, batch):
        return batch[0]


@functools.cache
def beginning(kind):
    return Beginning(kind())


def begun(kind):
    """Return a Step at its beginning; what is compiled of it is kept from test to test."""
    start = beginning(kind)
    start.go_back()
    return start.step


def fit(step, data, *hooks, execution=FOURS, **arguments):
    """Train a Step, and return the history and the steps of each call."""
    counting = Counting()
    if isinstance(data, np.ndarray | tuple):
        arguments = {"batch_size": 1, "shuffle": False, **arguments}
    history = pg.fit(
        step,
        data,
        callbacks=[counting, *hooks],
        progress="off",
        seed=0,
        execution=execution,
        **arguments,
    )
    return history, counting.counts


def single_rows(count=BATCHES):
    return cut(np.arange(count, dtype="float32")[:, None], [1] * count)


def value(variable):
    return ops.convert_to_numpy(variable).item()


def order_of(batches):
    order = 0.0
    for batch in batches:
        order = 0.5 * order + float(np.sum(batch))
    return order


def expected(counts):
    return counts if FUSES else [1] * sum(counts)


# Where blocks end.


class Due(pg.Hook):
    def __init__(self, steps):
        self.every = pg.Every(steps=steps)


@kinds
@pytest.mark.parametrize(
    ("arguments", "counts"),
    [
        ({}, [4, 4, 2]),
        ({"epochs": 2}, [4, 4, 2, 4, 4, 2]),
        ({"steps": 7}, [4, 3]),
        ({"steps": 10}, [4, 4, 2]),
        ({"steps": 12}, [4, 4, 2, 2]),
        ({"steps_per_epoch": 7, "epochs": 2}, [4, 3, 3, 4]),
        ({"steps_per_epoch": 12}, [4, 4, 2, 2]),
        ({"steps_per_epoch": 10, "epochs": 2}, [4, 4, 2, 4, 4, 2]),
        ({"validate_every": pg.Every(steps=3)}, [3, 3, 3, 1]),
        ({"validate_every": pg.Every(steps=5)}, [4, 1, 4, 1]),
        ({"validate_every": pg.Every(epochs=1)}, [4, 4, 2]),
        ({"record": 3}, [3, 3, 3, 1]),
        ({"hook": 3}, [3, 3, 3, 1]),
        ({"hook": 3, "record": 4}, [3, 1, 2, 2, 1, 1]),
        ({"hook": 3, "epochs": 2}, [3, 3, 3, 1, 2, 3, 3, 2]),
    ],
    ids=str,
)
def test_a_block_ends_where_something_is_due(kind, arguments, counts, tmp_path):
    arguments = dict(arguments)
    hooks = [Due(arguments.pop("hook"))] if "hook" in arguments else []
    if "record" in arguments:
        every = pg.Every(steps=arguments.pop("record"))
        arguments["run"] = pg.Run(tmp_path / "run", record_every=every)
    if "validate_every" in arguments:
        arguments["validation"] = single_rows(2)
    if kind == "PyDataset":
        arguments["shuffle"] = False
    batches, step = single_rows(), begun(Reading)

    history, found = fit(step, as_data(kind, batches), *hooks, **arguments)

    trained = list(itertools.islice(itertools.cycle(batches), sum(counts)))
    assert found == expected(counts)
    assert history.clock.step == value(step.count) == sum(counts)
    assert value(step.order) == pytest.approx(order_of(trained))


@pytest.fixture
def lengths(monkeypatch):
    """Return a list to which the length of each block is added."""
    found = []
    run = blocks.Blocks.run

    def counted(self, program, most):
        ran = run(self, program, most)
        if ran is not None:
            found.append(len(ran))
        return ran

    monkeypatch.setattr(blocks.Blocks, "run", counted)
    return found


class Writing(pg.Hook):
    """Keeps the records of windows, and when they came."""

    may_lag = True

    def __init__(self):
        self.records = []

    def on_record(self, event):
        if event.scope == "steps":
            self.records.append(event)


class Deciding(Writing):
    may_lag = False


class Watching(pg.Hook):
    def on_steps(self, event):
        pass


def recording(folder, *hooks, every=3, step=None, data=None):
    run = pg.Run(folder / "run", record_every=pg.Every(steps=every))
    if step is None:
        step, data = begun(Reading), np.concatenate(single_rows())
    arguments = {"batch_size": 1, "shuffle": False, "seed": 0, "progress": "off"}
    pg.fit(step, data, run=run, callbacks=hooks, execution=FOURS, **arguments)


@fused
def test_a_record_that_is_only_written_cuts_no_block(lengths, tmp_path):
    writing = Writing()

    recording(tmp_path, writing)

    assert lengths == [4, 4, 2]
    assert [event.clock.step for event in writing.records] == [3, 6, 9]
    assert [event.values["mean"] for event in writing.records] == [1.0, 4.0, 7.0]


@fused
def test_records_within_one_block_have_times_of_their_own(tmp_path):
    writing = Writing()

    recording(tmp_path, writing, every=1)

    seconds = [event.seconds for event in writing.records]
    assert len(seconds) == BATCHES
    assert all(earlier < later for earlier, later in itertools.pairwise(seconds))


@fused
@pytest.mark.parametrize("hook", [Deciding, Watching])
def test_a_record_that_somebody_may_act_on_ends_a_block(hook, lengths, tmp_path):
    recording(tmp_path, hook())

    assert lengths == [3, 3, 3, 1]


class Squares(Everything):
    """Without what forbids to add gradients up over batches."""

    def train_step(self, batch):
        def objective():
            return ops.square(self.model(batch, training=True) - batch[:, :1])[:, 0]

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


class Scheduled(Squares):
    def __init__(self):
        super().__init__(is_random=False)
        self.optimizer = keras.optimizers.SGD(
            keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=1, decay_rate=0.5)
        )


@fused
def test_a_record_of_a_learning_rate_that_changes_ends_a_block(lengths, tmp_path):
    writing = Writing()

    recording(tmp_path, writing, step=Scheduled(), data=rows(BATCHES))

    assert lengths == [3, 3, 3, 1]
    rates = [event.values["learning_rate"] for event in writing.records]
    assert rates == pytest.approx([0.1 * 0.5**step for step in (3, 6, 9)])


@kinds
def test_accumulated_gradients_cut_no_block(kind):
    step, three = Squares(is_random=False), 3

    _, counts = fit(
        step, as_data(kind, cut(rows(BATCHES), [1] * BATCHES)), accumulate=three, epochs=2
    )

    assert counts == expected([4, 4, 2] * 2)
    assert value(step.optimizer.iterations) == 2 * -(-BATCHES // three)


@kinds
def test_a_ragged_last_batch_is_part_of_the_block_where_the_framework_takes_it(kind):
    batches = [*cut(rows(6), [2, 2, 2]), rows(1)]
    arguments = {"batch_size": 2} if kind == "arrays" else {}
    if kind == "PyDataset":
        arguments["shuffle"] = False
    step = begun(Reading)

    history, counts = fit(step, as_data(kind, batches), epochs=2, **arguments)

    takes = "graph" in TAKES_RAGGED_END if kind == "arrays" else TAKES_RAGGED
    assert counts == expected(([4] if takes else [3, 1]) * 2)
    assert history.history["mean"] == pytest.approx([np.concatenate(batches).mean()] * 2)
    assert value(step.order) == pytest.approx(order_of(batches * 2), rel=1e-5)


@kinds
def test_callbacks_for_batches_see_each_one(kind):
    calls, batches = BatchCalls(), single_rows()

    _, counts = fit(
        begun(Reading),
        as_data(kind, batches),
        calls,
        **({"shuffle": False} if kind == "PyDataset" else {}),
    )

    seen = [call for call in calls.calls if call[0] == "batch end"]
    assert counts == [1] * BATCHES
    assert [index for _, index, _ in seen] == list(range(BATCHES))
    so_far = [np.mean(batches[: index + 1]) for index in range(BATCHES)]
    assert [logs["mean"] for *_, logs in seen] == pytest.approx(so_far)


class TestBatches(keras.callbacks.Callback):
    __test__ = False

    def __init__(self):
        super().__init__()
        self.ended = []

    def on_test_batch_end(self, batch, logs=None):
        self.ended.append(batch)


@kinds
def test_callbacks_for_batches_of_a_validation_cut_only_that(kind):
    looking, batches = TestBatches(), single_rows()

    data, validation = as_data(kind, batches), as_data(kind, batches)
    _, counts = fit(begun(Reading), data, looking, validation=validation)

    assert counts == expected([4, 4, 2])
    assert looking.ended == list(range(BATCHES))


class Stopping(pg.Hook):
    """Asks to stop as soon as it hears of a step."""

    def __init__(self, step, every=None):
        self.every = every and pg.Every(steps=every)
        self._step = step

    def on_steps(self, event):
        if event.clock.step >= self._step:
            event.stop("enough")


@kinds
@pytest.mark.parametrize(
    ("stopping", "counts"),
    [
        (lambda: Stopping(5), [4, 4]),
        (lambda: Stopping(5, every=5), [4, 1]),
        (lambda: Stopping(6, every=3), [3, 3]),
        (lambda: Stopping(10), [4, 4, 2]),
    ],
    ids=["at the end of its block", "at its step", "at a later one", "at the end of the pass"],
)
def test_a_stop_that_is_asked_for_ends_the_training_there(kind, stopping, counts):
    step = begun(Reading)

    history, found = fit(step, as_data(kind, single_rows()), stopping(), epochs=3)

    if FUSES:
        assert found == counts
        assert history.clock.step == value(step.count) == sum(counts)
    assert history.stop_reason == "enough"
    assert history.clock.step == value(step.count) == sum(found)


@kinds
def test_a_value_that_is_not_finite_is_named_by_its_step(kind):
    bad = 6
    batches = single_rows()
    batches[bad - 1] = np.full((1, 1), np.nan, "float32")
    named = []

    for steps_per_call in (1, 2, 4, 8):
        with pytest.raises(NonFiniteError) as raised:
            fit(
                begun(Reading),
                as_data(kind, batches),
                execution=pg.Execution(steps_per_call=steps_per_call),
                **({"shuffle": False} if kind == "PyDataset" else {}),
            )
        named.append(raised.value.step)

    assert named == [bad] * 4


# How long blocks are.


@fused
@kinds
@pytest.mark.parametrize(
    ("seconds", "steps"),
    [(0.0, [1, 1, 4, 16, 64, 114]), (10.0, [1] * 200)],
    ids=["fast", "slow"],
)
def test_blocks_grow_with_the_time_that_they_take(kind, seconds, steps):
    room = blocks._STACK_STEPS
    if kind in HOST_KINDS and not seconds:
        steps = [1, 1, 4, 16, *[room] * 5, 18]
    step = Reading()  # whose first block is compiled

    with timed_by(ticking(seconds)):
        _, counts = fit(step, as_data(kind, single_rows(200)), execution=pg.Execution("graph"))

    assert counts == steps


@fused
@host_kinds
@pytest.mark.parametrize(("room", "counts"), [(3, [3, 3, 3, 1]), (1, [1] * BATCHES)])
def test_batches_are_put_together_only_up_to_some_bytes(kind, room, counts, monkeypatch):
    monkeypatch.setattr(blocks, "_STACK_BYTES", room * single_rows()[0].nbytes)
    step = begun(Reading)

    _, found = fit(step, as_data(kind, single_rows()))

    assert found == counts
    assert value(step.count) == BATCHES


@fused
def test_large_batches_are_put_together_with_nothing():
    batches = [np.full((2, 2**20 + 1), float(index), "float32") for index in range(3)]
    step = begun(Reading)

    history, counts = fit(step, batches)

    assert 2 * batches[0].nbytes > 16 * 2**20
    assert counts == [1, 1, 1]
    assert history.history["mean"] == pytest.approx([1.0])


# Data that ends somewhere, or nowhere.


@kinds
def test_data_of_unknown_length_ends_where_it_ends(kind):
    if kind in ("arrays", "PyDataset", "batches"):
        pytest.skip("it tells its length")
    lengths = iter([5, 3, 8])

    def passes():
        yield from single_rows(next(lengths))

    if kind == "tf.data":
        import tensorflow as tf

        data = tf.data.Dataset.from_generator(
            passes, output_signature=tf.TensorSpec([None, 1], "float32")
        )
    else:
        data = passes
    step = begun(Reading)

    history, counts = fit(step, data, epochs=3)

    assert counts == expected([4, 1, 3, 4, 4])
    assert history.clock == Clock(16, 3, 0)
    assert history.history["mean"] == pytest.approx([2.0, 1.0, 3.5])


@pytest.mark.only_tensorflow
def test_a_filtered_dataset_ends_where_it_ends():
    import tensorflow as tf

    kept = [row for row in range(20) if row % 3]
    data = tf.data.Dataset.range(20).filter(lambda row: row % 3 > 0)
    data = data.map(lambda row: tf.cast(row, "float32")).batch(2)

    history, counts = fit(begun(Reading), data, epochs=2)

    assert sum(counts) == 14
    assert history.history["mean"] == pytest.approx([np.mean(kept)] * 2)


class Endless(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    num_batches = None

    def __getitem__(self, index):
        return self.batches[index % len(self.batches)]


ENDLESS = {
    "function": lambda batches: lambda: itertools.cycle(batches),
    "cycle": itertools.cycle,
    "PyDataset": Endless,
}
if STREAMS:
    ENDLESS["tf.data"] = lambda batches: tf_dataset(batches).repeat()


@pytest.mark.parametrize("kind", ENDLESS)
@pytest.mark.parametrize(
    ("arguments", "clock", "counts"),
    [
        ({"steps": 13}, Clock(13, 0, 13), [4, 4, 4, 1]),
        ({"epochs": 2, "steps_per_epoch": 7}, Clock(14, 2, 0), [4, 3, 4, 3]),
    ],
    ids=str,
)
def test_data_without_an_end_is_trained_on_as_far_as_asked(kind, arguments, clock, counts):
    batches, step = single_rows(), begun(Reading)

    history, found = fit(step, ENDLESS[kind](batches), **arguments)

    trained = list(itertools.islice(itertools.cycle(batches), clock.step))
    assert (history.clock, found) == (clock, expected(counts))
    assert value(step.order) == pytest.approx(order_of(trained))


@pytest.mark.parametrize("kind", ["function", *(["tf.data"] if STREAMS else [])])
def test_nothing_is_drawn_beyond_the_last_step(kind):
    steps, drawn = 6, []

    def endless():
        while True:
            drawn.append(1)
            yield np.ones((2, 1), "float32")

    data = endless
    if kind == "tf.data":
        import tensorflow as tf

        signature = tf.TensorSpec([None, 1], "float32")
        options = tf.data.Options()
        options.experimental_optimization.inject_prefetch = False  # it draws one ahead by itself
        data = tf.data.Dataset.from_generator(endless, output_signature=signature)
        data = data.with_options(options)
    fit(begun(Reading), data, steps=steps)

    assert len(drawn) == steps


@pytest.mark.parametrize("kind", HOST_KINDS + (["tf.data"] if STREAMS else []))
def test_data_without_a_batch_is_refused(kind):
    data = {
        "batches": list,
        "function": lambda: lambda: iter(()),
        "PyDataset": lambda: InBatches([]),
        "tf.data": lambda: tf_dataset(single_rows()).take(0),
    }[kind]()

    with pytest.raises(EmptyDataError):
        fit(begun(Reading), data)


def test_an_iterator_that_is_used_up_ends_the_training_after_its_batches():
    step = begun(Reading)

    with pytest.warns(pg.PerigeeWarning, match="PG332"):
        fit(step, iter(single_rows(6)), epochs=2)

    assert value(step.count) == 6


def test_the_hooks_of_a_pydataset_are_called_once_a_pass():
    data = InBatches(single_rows())

    fit(begun(Reading), data, epochs=3)

    assert data.passes == 3


# Data that fits no block.


class Breaking(keras.utils.PyDataset):
    def __init__(self, batches):
        super().__init__()
        self.batches = batches
        self.num_calls = 0

    num_batches = BATCHES

    def __getitem__(self, index):
        if index == len(self.batches):
            raise OSError("the disk is gone")
        return self.batches[index]


@pytest.mark.parametrize("kind", ["function", "PyDataset"])
@pytest.mark.parametrize("good", [1, 4, 5, 6])
def test_what_the_data_raises_comes_out_after_the_batches_before_it(kind, good):
    batches, step = single_rows(good), begun(Reading)

    def breaking():
        yield from batches
        raise OSError("the disk is gone")

    data = breaking if kind == "function" else Breaking(batches)
    with pytest.raises(OSError, match="the disk is gone") as raised:
        fit(step, data, **({"shuffle": False} if kind == "PyDataset" else {}))

    assert value(step.count) == good
    assert value(step.order) == pytest.approx(order_of(batches))
    notes = " ".join(raised.value.__notes__)
    assert f"at batch {good} of pass 0" in notes
    assert f"after step {good}, epoch 1, batch {good + 1} of the epoch" in notes


def test_what_the_data_would_raise_is_not_raised_where_training_ends_before():
    def breaking():
        yield from single_rows(5)
        raise OSError("the disk is gone")

    history, _ = fit(begun(Reading), breaking, steps=5)

    assert history.clock.step == 5


@host_kinds
def test_batches_of_other_inner_sizes_are_trained_on_in_their_order(kind):
    lengths = [3, 3, 5, 3, 4, 3]
    batches = [
        np.full((2, length), float(index), "float32") for index, length in enumerate(lengths)
    ]
    step = begun(Reading)

    history, counts = fit(
        step, as_data(kind, batches), **({"shuffle": False} if kind == "PyDataset" else {})
    )

    total = sum(float(batch.sum()) for batch in batches)
    assert counts == expected([2, 1, 1, 1, 1])
    assert history.history["mean"] == pytest.approx([total / sum(b.size for b in batches)])
    assert value(step.order) == pytest.approx(order_of(batches))


@host_kinds
@pytest.mark.parametrize(
    ("sizes", "in_graph", "elsewhere"),
    [
        ([2, 2, 3, 2, 2], [2, 1, 2], [2, 1, 2]),
        ([2, 1, 2, 2, 2], [2, 3], [1, 1, 3]),
        ([1, 2, 2], [1, 1, 1], [1, 1, 1]),
    ],
    ids=str,
)
def test_batches_of_other_numbers_of_rows_are_trained_on_in_their_order(
    kind, sizes, in_graph, elsewhere
):
    batches, step = cut(rows(sum(sizes)), sizes), begun(Reading)

    history, counts = fit(
        step, as_data(kind, batches), **({"shuffle": False} if kind == "PyDataset" else {})
    )

    assert counts == expected(in_graph if TAKES_RAGGED else elsewhere)
    assert history.history["mean"] == pytest.approx([np.concatenate(batches).mean()], rel=1e-5)
    assert value(step.order) == pytest.approx(order_of(batches), rel=1e-5)


@host_kinds
def test_batches_of_another_dtype_are_refused_after_those_before_them(kind):
    batches, step = single_rows(6), begun(Reading)
    batches[5] = batches[5].astype("int32")

    with pytest.raises(BatchChangedError):
        fit(step, as_data(kind, batches), **({"shuffle": False} if kind == "PyDataset" else {}))

    assert value(step.count) == 5


@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_text_makes_no_block(kind):
    x, words = np.arange(4, dtype="float32")[:, None], np.array(["a", "bc", "d", "e"])
    data = (x, words) if kind == "arrays" else [(x[:2], words[:2]), (x[2:], words[2:])]
    arguments = {"batch_size": 2} if kind == "arrays" else {}
    if keras.backend.backend() == "jax":
        with pytest.raises(DataTypeError):
            fit(begun(ReadingFirst), data, **arguments)
        return

    history, counts = fit(begun(ReadingFirst), data, **arguments)

    assert counts == [1, 1]
    assert history.history["mean"] == pytest.approx([1.5])


@pytest.mark.parametrize("kind", ["arrays", "batches", "function"])
def test_leaves_may_be_missing(kind):
    x = rows(8)
    step = begun(ReadingFirst)
    data = (x, None) if kind == "arrays" else [(batch, None) for batch in cut(x, [2] * 4)]
    if kind == "function":
        data = (lambda batches: lambda: iter(batches))(data)

    history, counts = fit(step, data, epochs=2, **({"batch_size": 2} if kind == "arrays" else {}))

    assert counts == expected([4, 4])
    assert history.history["mean"] == pytest.approx([x.mean()] * 2, rel=1e-5)


def test_batches_without_a_common_first_axis_make_no_block():
    batches = [(batch, np.ones(5, "float32")) for batch in cut(rows(8), [2] * 4)]

    history, counts = fit(begun(ReadingFirst), batches)

    assert counts == [1] * 4
    assert history.history["mean"] == pytest.approx([rows(8).mean()], rel=1e-5)


OTHER_LEAVES = {
    "tensors": lambda batch: ops.convert_to_tensor(batch),
    "scalars": lambda _: np.array(1.0, "float32"),
    "NumPy numbers": lambda _: np.float32(1.0),
    "numbers": lambda _: 1.0,
}


@pytest.mark.parametrize("leaf", OTHER_LEAVES)
def test_leaves_may_be_no_arrays_with_rows(leaf):
    batches = [(batch, OTHER_LEAVES[leaf](batch)) for batch in cut(rows(8), [2] * 4)]

    history, counts = fit(begun(ReadingFirst), batches)

    if leaf != "tensors":
        assert counts == [1] * 4
    assert history.history["mean"] == pytest.approx([rows(8).mean()], rel=1e-5)


@pytest.mark.parametrize("steps_per_call", [1, 2, 4])
def test_data_may_fill_one_array_anew_for_each_batch(steps_per_call):
    batches, step = single_rows(), begun(Reading)

    def filling():
        array = np.empty((1, 1), "float32")
        for batch in batches:
            array[:] = batch
            yield array

    fit(step, filling, execution=pg.Execution(steps_per_call=steps_per_call))

    assert value(step.order) == pytest.approx(order_of(batches))


# What is compiled, and what it keeps.


@fused
@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_arrays_cost_one_trace_and_one_more_where_a_last_batch_is_run_alone(mode):
    counts = {}

    for count in (8, 7):
        step = Squares(is_random=False)
        fit(step, rows(count), batch_size=2, shuffle=True, epochs=3, execution=mode)
        counts[count] = traces(step)

    assert counts == {8: [1], 7: [1 if mode in TAKES_RAGGED_END else 2]}


@fused
@kinds
def test_later_epochs_fits_and_blocks_of_other_sizes_cost_no_trace(kind):
    step = Squares(is_random=False)
    data = as_data(kind, cut(rows(20), [2] * 10))
    arguments = {"batch_size": 2} if kind == "arrays" else {}
    fit(step, data, execution=pg.Execution("graph", 3), validation=data, **arguments)
    once = traces(step)

    for size in (2, 3, 5, 64, "auto"):
        execution = pg.Execution("graph", size)
        fit(step, data, epochs=2, execution=execution, validation=data, **arguments)

    assert traces(step) == once == [1, 1]


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("kind", [*HOST_KINDS, "tf.data"])
@pytest.mark.parametrize("lengths", [[3, 4, 5, 6, 3, 7], [3, 3, 3, 3, 9, 3]], ids=str)
def test_batches_of_varying_length_cost_two_traces_at_most(kind, lengths):
    step = Reading()
    batches = [np.ones((2, length), "float32") for length in lengths]
    if kind == "tf.data":
        import tensorflow as tf

        signature = tf.TensorSpec([None, None], "float32")
        data = tf.data.Dataset.from_generator(lambda: iter(batches), output_signature=signature)
    else:
        data = as_data(kind, batches)

    fit(step, data, epochs=3)

    assert value(step.count) == 3 * len(lengths)
    [found] = traces(step)
    assert found == 1 if kind == "tf.data" else 1 <= found <= 2


def resident_bytes():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * 4096


class Weighing(pg.Hook):
    """Weighs the process every so many steps."""

    every = pg.Every(steps=500)

    def __init__(self):
        self.traced, self.resident = [], []

    def on_steps(self, event):
        gc.collect()
        self.traced.append(tracemalloc.get_traced_memory()[0])
        self.resident.append(resident_bytes())


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [pytest.param(kind, marks=() if kind == "arrays" else pytest.mark.once) for kind in KINDS],
)
def test_memory_stays_the_same_over_thousands_of_steps(kind):
    steps, weighing = 3000, Weighing()
    data = as_data(kind, single_rows(100))

    tracemalloc.start()
    try:
        fit(begun(Reading), data, weighing, steps=steps, execution="auto")
    finally:
        tracemalloc.stop()

    assert len(weighing.traced) == steps // 500
    # What is held for a while is no leak, so the least of some weighings counts.
    assert min(weighing.traced[-3:]) - weighing.traced[1] < 40_000, weighing.traced
    assert min(weighing.resident[-3:]) - weighing.resident[1] < 20_000_000, weighing.resident
