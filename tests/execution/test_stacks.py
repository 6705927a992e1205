"""Stacked batches of `tf.data` train what single batches train, and resume to the bit."""

import functools
import random
import signal

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee.data import TFDatasetFeed
from tests.data.pipelines import plain
from tests.execution.trainings import Beginning, Counting

pytestmark = [
    pytest.mark.only_tensorflow,
    pytest.mark.filterwarnings("ignore:Recompiled", "ignore:InexactResume"),
]
tf = pytest.importorskip("tensorflow")

BATCH, FEATURES = 4, 3


def rows(count):
    rng = np.random.default_rng(7)
    x = rng.normal(size=(count, FEATURES)).astype("float32")
    return x, (x.sum(axis=1) > 0).astype("int32")


def dataset(count, seed=3):
    return tf.data.Dataset.from_tensor_slices(rows(count)).shuffle(count, seed=seed).batch(BATCH)


class Fitting(pg.Step):
    """Trains a small classifier with slots and a metric."""

    def __init__(self):
        keras.utils.set_random_seed(3)
        self.model = keras.Sequential(
            [keras.Input((FEATURES,)), keras.layers.Dense(4, "tanh"), keras.layers.Dense(2)]
        )
        self.optimizer = keras.optimizers.Adam(0.02)
        self.optimizer.build(self.model.trainable_variables)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self.count = keras.Variable(0, dtype="int32", trainable=False)

    def train_step(self, batch):
        x, y = batch

        def objective():
            y_pred = self.model(x, training=True)
            # By one-hot rows: XLA does not check the indices of a lookup, so it would be left out.
            log = ops.log_softmax(y_pred)
            return -ops.sum(log * ops.one_hot(y, 2)) / BATCH, y_pred

        loss, y_pred = self.minimize(objective, self.optimizer, self.model)
        self.accuracy.update_state(y, y_pred)
        self.count.assign_add(1)
        return {"loss": loss}

    def test_step(self, batch):
        x, y = batch
        self.accuracy.update_state(y, self.model(x, training=False))
        return {"size": pg.mean(ops.sum(x * x, axis=1))}


@functools.cache
def beginning():
    return Beginning(Fitting())


def begun():
    start = beginning()
    start.go_back()
    return start.step


def state_of(step):
    from perigee._step.state import snapshot, track

    entries = track(step).entries
    values = snapshot([entry.variable for entry in entries])
    return {e.key: v for e, v in zip(entries, values, strict=True) if e.kind != "metric"}


def bits(step):
    return {key: value.tobytes() for key, value in state_of(step).items()}


def without_stacks(monkeypatch):
    monkeypatch.setattr(TFDatasetFeed, "stacks", property(lambda self: None))


def fit(step, data, **arguments):
    return pg.fit(step, data, progress="off", seed=0, **arguments)


def close(one, other):
    assert one.keys() == other.keys()
    for key, value in one.items():
        np.testing.assert_allclose(value, other[key], rtol=2e-4, atol=2e-5, err_msg=key)


# What is trained.


@pytest.mark.parametrize("count", [64, 61, 65, 3])
@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_stacks_train_what_single_batches_train(count, mode, monkeypatch):
    step = begun()
    history = fit(step, dataset(count), epochs=3, execution=mode)
    stacked = state_of(step)
    step = begun()
    without_stacks(monkeypatch)
    alone = fit(step, dataset(count), epochs=3, execution="graph")

    close(stacked, state_of(step))
    assert history.clock == alone.clock
    np.testing.assert_allclose(history.history["loss"], alone.history["loss"], rtol=1e-4)
    assert history.history["accuracy"] == pytest.approx(alone.history["accuracy"])


def test_a_graph_of_stacks_trains_the_same_bits_as_a_graph_that_draws(monkeypatch):
    step = begun()
    fit(step, dataset(61), epochs=3, execution="graph")
    stacked = bits(step)
    step = begun()
    without_stacks(monkeypatch)
    fit(step, dataset(61), epochs=3, execution="graph")

    assert stacked == bits(step)


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_many_steps_run_in_one_call(mode):
    counting = Counting()

    fit(begun(), dataset(64 * BATCH), epochs=3, execution=mode, callbacks=[counting])

    assert max(counting.counts) > 16


# Cadences.


def drawn_arguments(seed, folder):
    draw = random.Random(seed)
    count = draw.choice([4 * BATCH, 9 * BATCH + 1, 23 * BATCH, 70 * BATCH + 3])
    arguments = {"execution": draw.choice(["graph", "xla", pg.Execution("xla", 5)])}
    if draw.random() < 0.4:
        arguments["steps_per_epoch"] = draw.choice([3, 7, 20])
    save = draw.choice([None, pg.Every(steps=draw.choice([1, 3, 10])), pg.Every(epochs=1)])
    record = draw.choice([None, pg.Every(steps=draw.choice([2, 5, 9]))])
    run = pg.Run(folder, save_every=save, record_every=record)
    if draw.random() < 0.5:
        arguments["validation"] = dataset(9, seed=5)
        if draw.random() < 0.5:
            arguments["validate_every"] = pg.Every(steps=draw.choice([4, 11]))
    if draw.random() < 0.3:
        arguments["accumulate"] = 2
    endless = draw.random() < 0.3 and "steps_per_epoch" in arguments
    make = (lambda: dataset(count).repeat()) if endless else (lambda: dataset(count))
    return make, run, arguments, draw.randint(1, 12)


def values_of(history):
    return {k: v for k, v in history.history.items() if "seconds" not in k}


@pytest.mark.parametrize("seed", range(12))
def test_a_training_that_was_left_anywhere_resumes_to_the_bit(seed, tmp_path):
    step = begun()  # first: it sets the global seed, on which the shuffles depend
    make, run, arguments, stop_at = drawn_arguments(seed, tmp_path / "straight")
    straight = fit(step, make(), steps=30, run=run, **arguments)
    expected = bits(step)

    make, run, arguments, _ = drawn_arguments(seed, tmp_path / "left")
    with pytest.raises(KeyboardInterrupt):
        fit(begun(), make(), steps=30, run=run, callbacks=[Leaving(stop_at)], **arguments)
    # A data set counts its passes, so that of a new process is a new one.
    make, run, arguments, _ = drawn_arguments(seed, tmp_path / "left")
    step = begun()
    resumed = fit(step, make(), steps=30, run=run, **arguments)

    assert bits(step) == expected
    assert resumed.clock == straight.clock
    assert values_of(resumed) == values_of(straight)


class Leaving(pg.Hook):
    """Lets a signal come at the end of the first call that reaches a step."""

    def __init__(self, step):
        self._step, self._is_done = step, False

    def on_steps(self, event):
        if event.clock.step >= self._step and not self._is_done:
            self._is_done = True
            signal.raise_signal(signal.SIGINT)


# Positions.


@pytest.mark.parametrize("trained", [0, 1, 5, 15, 16, 17])
def test_a_saved_position_is_that_of_the_batches_trained(trained):
    feed = TFDatasetFeed(dataset(18 * BATCH + 1))
    straight = [plain(batch) for batch in drawn(TFDatasetFeed(dataset(18 * BATCH + 1)), 40)]
    left = trained
    while left:
        stack = feed.stack(8)
        feed.stack_ahead(8)
        count = min(left, stack.steps)
        feed.skip_stacked(count)
        left -= count

    again = TFDatasetFeed(dataset(18 * BATCH + 1))
    state = feed.state()
    again.load_state(state)

    if "iterator" in state:  # at the end of a shuffle's first pass it is replayed instead
        assert state["cursor"]["batches"] == trained + len(state["ahead"])
    assert again.position == feed.position
    assert [plain(batch) for batch in drawn(again, 20)] == straight[trained : trained + 20]
    assert [plain(batch) for batch in drawn(feed, 20)] == straight[trained : trained + 20]


def drawn(feed, count):
    return [feed.draw() for _ in range(count)]


def test_a_stack_ends_where_the_number_of_rows_changes():
    data = tf.data.Dataset.range(11).batch(4).repeat(2)
    feed = TFDatasetFeed(data)
    found = []
    while (stack := feed.stack(16)) is not None:
        found.append((stack.rows, stack.steps, stack.number))
        feed.skip_stacked(stack.steps)

    assert found == [(4, 2, 0), (3, 1, 1), (4, 2, 0), (3, 1, 1)]
    assert feed.draw() is None


def test_leaves_without_a_common_first_axis_are_trained_alone():
    data = tf.data.Dataset.range(1, 9).map(lambda i: (tf.range(2), tf.range(i % 3 + 1)))
    feed, one_by_one = TFDatasetFeed(data), TFDatasetFeed(data)
    found = []
    while True:
        stack = feed.stack(16)
        batch = feed.draw() if stack is None else stack.batch()
        if batch is None:
            break
        found.append(plain(batch))
        if stack is not None:
            feed.skip_stacked(1)

    assert found == [plain(batch) for batch in drawn(one_by_one, 8)]


def test_an_error_of_the_data_comes_out_with_where_it_was():
    def checked(i):
        with tf.control_dependencies([tf.debugging.assert_less(i, tf.constant(9, tf.int64))]):
            return tf.reshape(tf.cast(i, tf.float32), [1])

    feed = TFDatasetFeed(tf.data.Dataset.range(20).map(checked).batch(2))

    with pytest.raises(tf.errors.InvalidArgumentError) as raised:
        while feed.stack(3) is not None:
            feed.skip_stacked(3)

    assert "batches 3 to 5 of pass 0" in raised.value.__notes__[0]
    assert feed.position.batches == 3


# Data as people write it.


def of_dicts():
    x, y = rows(50)
    data = tf.data.Dataset.from_tensor_slices({"x": x, "y": y}).batch(BATCH)
    return data.map(lambda d: (d["x"] * 2.0, d["y"]), num_parallel_calls=2).prefetch(2)


def filtered():
    data = tf.data.Dataset.from_tensor_slices(rows(80)).filter(lambda x, y: x[0] > -0.5)
    return data.shuffle(20, seed=1).batch(BATCH).prefetch(tf.data.AUTOTUNE)


def repeated():
    return tf.data.Dataset.from_tensor_slices(rows(30)).repeat(4).batch(BATCH).cache()


def interleaved():
    x, y = rows(60)

    def part(i):
        return tf.data.Dataset.from_tensor_slices((x, y)).shard(3, i)

    return tf.data.Dataset.range(3).interleave(part, cycle_length=2).batch(BATCH)


def generated():
    def examples():
        yield from zip(*rows(40), strict=True)

    spec = tf.TensorSpec([FEATURES], tf.float32), tf.TensorSpec([], tf.int32)
    return tf.data.Dataset.from_generator(examples, output_signature=spec).batch(BATCH)


def short_in_the_middle():
    return tf.data.Dataset.from_tensor_slices(rows(BATCH * 5 + 2)).batch(BATCH).repeat(3)


def of_many_sizes():
    sizes = tf.data.Dataset.from_tensor_slices([4, 3, 4, 2, 1, 5, 6, 7, 4, 4, 6, 6, 1, 2])
    x, y = (tf.constant(a) for a in rows(8))
    return sizes.map(lambda n: (x[:n], y[:n]))


@pytest.mark.parametrize(
    "make",
    [of_dicts, filtered, repeated, interleaved, generated, short_in_the_middle, of_many_sizes],
)
@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_data_as_people_write_it_trains_and_resumes_as_batch_by_batch(
    make, mode, tmp_path, monkeypatch
):
    step = begun()
    straight = fit(step, make(), epochs=2, execution=mode)
    expected = bits(step)
    run = pg.Run(tmp_path / "run", save_every=pg.Every(steps=3))
    with pytest.raises(KeyboardInterrupt):
        fit(begun(), make(), epochs=2, execution=mode, run=run, callbacks=[Leaving(5)])
    step = begun()
    resumed = fit(step, make(), epochs=2, execution=mode, run=run)

    assert (bits(step), resumed.clock) == (expected, straight.clock)
    stacked, step = state_of(step), begun()
    without_stacks(monkeypatch)
    fit(step, make(), epochs=2, execution="graph")
    close(stacked, state_of(step))


def test_xla_compiles_few_sizes():
    from perigee._step.updates import internals

    step = Fitting()
    fit(step, of_many_sizes(), epochs=1, execution="xla")

    [program] = internals(step).programs.values()
    sizes = [key for key in program._compiled if key[0] == "block"]
    assert sorted(size for _, mode, size in sizes if mode == "xla") == [1, 2, 3, 4]


def test_text_is_drawn_by_the_graph():
    data = tf.data.Dataset.from_tensor_slices((rows(8)[0], ["a"] * 8)).batch(4)

    assert TFDatasetFeed(data).stacks is None


@pytest.mark.parametrize("kind", ["variable", "Python"])
def test_what_others_may_change_is_not_drawn_before_its_turn(kind):
    factor = tf.Variable(1.0)
    data = tf.data.Dataset.from_tensor_slices(rows(40)).batch(BATCH)
    if kind == "variable":
        data = data.map(lambda x, y: (x * factor, y))
    else:
        data = data.map(lambda x, y: (tf.py_function(lambda v: v, [x], tf.float32), y))

    assert TFDatasetFeed(data).stacks is None


class Remembering(pg.Step):
    """Predicts the next value of series that go on from batch to batch."""

    def __init__(self, stateful=True):
        keras.utils.set_random_seed(3)
        self.model = keras.Sequential(
            [
                keras.Input((5, 1), batch_size=BATCH),
                keras.layers.LSTM(3, stateful=stateful),
                keras.layers.Dense(1),
            ]
        )
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        loss = self.minimize(
            lambda: ops.mean(ops.square(self.model(x, training=True) - y)),
            self.optimizer,
            self.model,
        )
        return {"loss": loss}


@pytest.mark.parametrize("mode", ["graph", "xla"])
def test_memory_of_recurrent_layers_is_carried_through_a_stack(mode):
    count = 24
    series = np.sin(np.arange(count * BATCH * 5)).reshape(count * BATCH, 5, 1).astype("float32")
    data = tf.data.Dataset.from_tensor_slices((series, series[:, -1])).batch(BATCH)

    def trained(step, execution):
        pg.fit(step, data, epochs=2, execution=execution, progress="off")
        return np.concatenate([np.ravel(w) for w in step.model.get_weights()])

    expected = trained(Remembering(), "eager")
    np.testing.assert_allclose(trained(Remembering(), mode), expected, atol=1e-5)
    assert np.abs(trained(Remembering(stateful=False), mode) - expected).max() > 1e-3
