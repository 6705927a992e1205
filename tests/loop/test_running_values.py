"""Metrics in records within an epoch: their results over the epoch so far, under a name of it."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._execution import Blocks
from perigee.writers.json_lines import read_json_lines

ROWS, BATCH = 22, 4
AN_EPOCH = 6  # five batches of 4 rows, one of 2

EXECUTIONS: dict = {
    "eager": "eager",
    "single": pg.Execution("graph", 1),
    "blocks of 2": pg.Execution("graph", 2),
    "blocks of 64": pg.Execution("graph", 64),
}
BLOCKS = EXECUTIONS["blocks of 64"]
if keras.backend.backend() == "torch":
    EXECUTIONS, BLOCKS = {"eager": "eager"}, "eager"


class Measuring(pg.Step):
    """Trains nothing; metrics see the rows."""

    def __init__(self):
        self.size = keras.metrics.Mean(name="size")
        self.above = keras.metrics.BinaryAccuracy(name="above", threshold=0.5)

    def train_step(self, batch):
        self.size.update_state(batch)
        self.above.update_state(ops.ones_like(batch), batch)
        return {"mean": ops.mean(batch)}

    def test_step(self, batch):
        self.size.update_state(100.0 + batch)
        return {}


@pytest.fixture
def rows():
    return np.random.default_rng(4).random((ROWS, 1)).astype("float32")


class Records(pg.Hook):
    """Keeps what is recorded; `may_lag` as a writer's."""

    def __init__(self, may_lag=True):
        self.may_lag = may_lag
        self.all = []

    def on_record(self, event):
        self.all.append((event.scope, event.clock, dict(event.values)))

    def of(self, scope):
        return [(clock, values) for kind, clock, values in self.all if kind == scope]

    def windows(self):
        return {clock.step: values for clock, values in self.of("steps")}


class Stop(pg.Hook):
    """Leaves the training as a `Preemption` does."""

    def __init__(self, step):
        self.every = pg.Every(steps=step)

    def on_steps(self, event):
        event.stop("deadline")


def train(step, data, folder, *hooks, every=4, **arguments):
    """Train for two epochs, and return what was recorded."""
    records = Records()
    arguments = {"epochs": 2, "shuffle": False, "batch_size": BATCH, **arguments}
    if isinstance(data, list):
        del arguments["shuffle"], arguments["batch_size"]
    run = pg.Run(folder / "run", record_every=None if every is None else pg.Every(steps=every))
    pg.fit(step, data, run=run, callbacks=[records, *hooks], progress="off", **arguments)
    return records


def so_far(rows, step):
    """Return the rows of the epoch in which `step` is, up to it."""
    begun = (step - 1) // AN_EPOCH * AN_EPOCH
    return rows[: (step - begun) * BATCH]


@pytest.mark.parametrize("execution", EXECUTIONS.values(), ids=EXECUTIONS)
@pytest.mark.parametrize("kind", ["arrays", "batches"])
def test_a_window_holds_results_up_to_its_last_step_beside_its_own_means(
    rows, execution, kind, tmp_path
):
    every = 5
    batches = [rows[first : first + BATCH] for first in range(0, ROWS, BATCH)]
    data = rows if kind == "arrays" else batches

    records = train(Measuring(), data, tmp_path, every=every, execution=execution)

    windows = records.windows()
    assert list(windows) == [5, 10]
    for step, values in windows.items():
        seen = so_far(rows, step)
        own = np.concatenate([(batches * 2)[i] for i in range(step - every, step)])
        assert set(values) == {"mean", "running/size", "running/above"}
        assert values["mean"] == pytest.approx(own.mean(), rel=1e-6)
        assert values["running/size"] == pytest.approx(seen.mean(), rel=1e-6)
        assert values["running/above"] == pytest.approx((seen > 0.5).mean(), rel=1e-6)


def test_the_last_window_of_an_epoch_holds_what_the_epoch_does_and_the_next_begins_anew(
    rows, tmp_path
):
    records = train(Measuring(), rows, tmp_path, every=1, execution=BLOCKS)

    windows, epochs = records.windows(), dict(enumerate(v for _, v in records.of("epoch")))
    for number in (0, 1):
        last, ended = windows[(number + 1) * AN_EPOCH], epochs[number]
        assert {name: ended[name] for name in ("size", "above")} == {
            name: last[f"running/{name}"] for name in ("size", "above")
        }
        assert not any(name.startswith("running/") for name in ended)
    assert windows[AN_EPOCH + 1]["running/size"] == pytest.approx(rows[:BATCH].mean(), rel=1e-6)


def test_a_validation_within_the_window_is_not_in_them(rows, tmp_path):
    records = train(
        Measuring(), rows, tmp_path, validation=rows, validate_every=pg.Every(steps=3), every=4
    )

    for step, values in records.windows().items():
        assert values["running/size"] == pytest.approx(so_far(rows, step).mean(), rel=1e-6)
    assert len(records.of("validation")) > 1


class Regressing(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)
        self.error = keras.metrics.MeanSquaredError(name="error")

    def train_step(self, batch):
        def objective():
            y_pred = self.model(batch, training=True)
            return ops.mean(ops.square(y_pred - 1.0)), y_pred

        loss, y_pred = self.minimize(objective, self.optimizer)
        self.error.update_state(ops.ones_like(y_pred), y_pred)
        return {"loss": loss}


def test_with_micro_batches_each_of_them_counts(rows, tmp_path):
    step = Regressing()
    records = train(step, rows[:20], tmp_path, every=1, epochs=1, accumulate=5)

    windows = records.windows()
    losses = [windows[number]["loss"] for number in range(1, 6)]
    running = [windows[number]["running/error"] for number in range(1, 6)]
    assert running == pytest.approx([np.mean(losses[: i + 1]) for i in range(5)], rel=1e-5)


# What is not there, and where it costs nothing.


def counted(metric):
    """Count the calls of a metric's `result`."""
    calls = []
    original = metric.result

    def result():
        calls.append(None)
        return original()

    metric.result = result
    return calls


def test_without_windows_no_result_is_read_within_an_epoch(rows, tmp_path):
    step = Measuring()
    pg.fit(step, rows, batch_size=BATCH, progress="off", execution=BLOCKS)
    calls = counted(step.size)

    pg.fit(step, rows, batch_size=BATCH, epochs=2, progress="off", execution=BLOCKS)
    without_a_run = len(calls)
    step = Measuring()
    pg.fit(step, rows, batch_size=BATCH, progress="off", execution=BLOCKS)
    calls = counted(step.size)
    pg.fit(
        step,
        rows,
        batch_size=BATCH,
        epochs=2,
        progress="off",
        execution=BLOCKS,
        run=pg.Run(tmp_path / "run", record_every=None),
    )

    # One at the end of each epoch, but where the block that ended there told it already.
    expected = 2 if BLOCKS == "eager" else 0
    assert (without_a_run, len(calls)) == (expected, expected)


class OnSteps(pg.Hook):
    def __init__(self, act, every):
        self.act, self.every = act, every and pg.Every(steps=every)

    def on_steps(self, event):
        self.act()


class OnBatches(keras.callbacks.Callback):
    def __init__(self, act):
        super().__init__()
        self.act = act

    def on_train_batch_end(self, batch, logs=None):
        self.act()


class Doubled(keras.metrics.Mean):
    """A metric of one's own, whose result Python computes."""

    def result(self):
        return 2.0 * float(ops.convert_to_numpy(super().result()))


@pytest.mark.parametrize(
    "kind",
    [lambda act: OnSteps(act, 6), lambda act: OnSteps(act, None), OnBatches],
    ids=["hook", "hook of blocks", "callback"],
)
def test_what_a_hook_makes_of_a_metric_is_in_what_is_logged(rows, kind, tmp_path):
    step = Measuring()

    def act():
        step.size.update_state([50.0])

    records = train(step, rows, tmp_path, kind(act), every=6, epochs=1, execution=BLOCKS)

    (_, epoch), (_, window) = records.of("epoch")[0], records.of("steps")[0]
    assert epoch["size"] == float(step.size.result())
    assert epoch["size"] >= window["running/size"] > rows.mean() + 1


def test_a_metric_whose_result_is_python_is_read_from_the_host(rows, tmp_path):
    step = Measuring()
    step.size = Doubled(name="size")

    records = train(step, rows, tmp_path, every=3, epochs=2, execution=BLOCKS)

    expected = pytest.approx(2 * rows.mean(), rel=1e-5)
    assert [values["size"] for _, values in records.of("epoch")] == [expected, expected]
    assert records.windows()[6]["running/size"] == expected


class Bare(pg.Step):
    def train_step(self, batch):
        return {"mean": ops.mean(batch)}


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="torch makes no blocks")
@pytest.mark.parametrize(
    "make, every, ends",
    [(Measuring, 4, [4, 6, 8, 12]), (Measuring, None, [6, 12]), (Bare, 4, [6, 12])],
    ids=["metrics", "metrics and no windows", "no metrics"],
)
def test_blocks_end_at_windows_only_where_a_metric_is_to_be_read(
    make, every, ends, tmp_path, monkeypatch
):
    data = np.ones((AN_EPOCH * BATCH, 1), "float32")
    found = []
    run = Blocks.run

    def noted(self, program, most):
        rows = run(self, program, most)
        found.append(0 if rows is None else len(rows))
        return rows

    monkeypatch.setattr(Blocks, "run", noted)

    train(make(), data, tmp_path, every=every, execution=BLOCKS)

    assert sorted({int(end) for end in np.cumsum(found)}) == ends


def test_a_metric_of_a_phase_that_did_not_run_yet_is_absent(rows, tmp_path):
    class Alternating(pg.Step):
        train_step = pg.alternate(first=2, second=1)

        def __init__(self):
            self.one, self.two = keras.metrics.Mean(name="one"), keras.metrics.Mean(name="two")
            self.both = keras.metrics.Sum(name="both")

        def first(self, batch):
            self.one.update_state(batch)
            self.both.update_state(ops.zeros(()))
            return {"loss": ops.mean(batch)}

        def second(self, batch):
            self.two.update_state(batch)
            self.both.update_state(ops.zeros(()))
            return {"loss": ops.mean(batch)}

    records = train(Alternating(), rows[:8], tmp_path, every=1, execution=BLOCKS)  # 2 steps

    names = {
        clock.step: sorted(n.removeprefix("running/") for n in values if n.startswith("running/"))
        for clock, values in records.of("steps")
    }
    assert names == {
        1: ["both", "one"],
        2: ["both", "one"],
        3: ["both", "two"],
        4: ["both", "one", "two"],
    }
    epochs = [set(values) & {"one", "two", "both"} for _, values in records.of("epoch")]
    assert epochs == [{"one", "both"}, {"one", "two", "both"}]


def test_a_metric_of_an_inner_phase_that_did_not_run_yet_is_absent(rows, tmp_path):
    class Nested(pg.Step):
        inner = pg.alternate(first=1, second=1)
        train_step = pg.alternate(inner=2, third=1)

        def __init__(self):
            self.one, self.two = keras.metrics.Mean(name="one"), keras.metrics.Mean(name="two")

        def first(self, batch):
            self.one.update_state(batch)
            return {"loss": ops.mean(batch)}

        def second(self, batch):
            self.two.update_state(batch)
            return {"loss": ops.mean(batch)}

        def third(self, batch):
            return {"loss": ops.mean(batch)}

    records = train(Nested(), rows[:12], tmp_path, every=1, epochs=1, execution=BLOCKS)

    running = [{n for n in values if "running" in n} for values in records.windows().values()]
    assert running == [{"running/one"}, *[{"running/one", "running/two"}] * 2]


def test_metrics_of_steps_that_were_all_skipped_are_absent(rows, tmp_path):
    rows[: 2 * BATCH] = np.nan

    records = train(
        Regressing(), rows, tmp_path, every=1, epochs=1, nonfinite="skip", execution=BLOCKS
    )

    windows = records.windows()
    assert [("running/error" in windows[step]) for step in (1, 2, 3)] == [False, False, True]
    assert windows[3]["running/error"] == pytest.approx(windows[3]["loss"], rel=1e-5)


# Names.


def test_a_result_that_the_step_returns_runs_on_too_and_is_named_so(rows, tmp_path):
    class Returning(pg.Step):
        def __init__(self):
            self.size = keras.metrics.Mean(name="size")

        def train_step(self, batch):
            self.size.update_state(batch)
            return {"mean": ops.mean(batch), "size": self.size.result()}

    records = train(Returning(), rows, tmp_path, every=4, execution=BLOCKS)

    for step, values in records.windows().items():
        assert set(values) == {"mean", "running/size"}
        assert values["running/size"] == pytest.approx(so_far(rows, step).mean(), rel=1e-6)
    assert [set(values) for _, values in records.of("epoch")] == [{"mean", "size"}] * 2


@pytest.mark.parametrize("name", ["size", "running/size"])
def test_a_mean_under_either_name_of_a_metric_is_refused(rows, name, tmp_path):
    class Colliding(Measuring):
        def train_step(self, batch):
            return {**super().train_step(batch), name: ops.mean(batch)}

    with pytest.raises(ValueError, match=rf"PG404.*'{name}'.*'size'"):
        train(Colliding(), rows, tmp_path)


def test_a_result_of_several_numbers_has_a_name_for_each(rows, tmp_path):
    class Scored(pg.Step):
        def __init__(self):
            self.f1 = keras.metrics.F1Score(threshold=0.5, name="f1")

        def train_step(self, batch):
            both = ops.concatenate([batch, 1.0 - batch], axis=1)
            self.f1.update_state(ops.cast(both > 0.3, "float32"), both)
            return {"mean": ops.mean(batch)}

    records = train(Scored(), rows, tmp_path, every=AN_EPOCH)

    for (_, values), (_, ended) in zip(records.of("steps"), records.of("epoch"), strict=True):
        for name in ("f1/0", "f1/1"):
            assert values[f"running/{name}"] == ended[name]


# A model of Keras's, and a loop of the user's own.


@pytest.mark.parametrize("door", ["fit", "keras_fit"])
def test_what_a_model_of_keras_returns_is_named_as_running(rows, door, tmp_path):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    targets = np.ones_like(rows)

    if door == "fit":
        train(pg.KerasStep(model), (rows, targets), tmp_path, every=AN_EPOCH)
    else:
        run = pg.Run(tmp_path / "run", record_every=pg.Every(steps=AN_EPOCH))
        pg.keras_fit(model, rows, targets, batch_size=BATCH, epochs=2, verbose=0, run=run)

    lines = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    windows = [line["values"] for line in lines if line["kind"] == "steps"]
    epochs = [line["values"] for line in lines if line["kind"] == "epoch"]
    assert len(windows) == 2
    for values, ended in zip(windows, epochs, strict=True):
        assert set(values) == {"running/loss", "running/mae", "learning_rate"}
        assert values["running/loss"] == ended["loss"]
        assert values["running/mae"] == ended["mae"]


def test_a_loop_of_ones_own_records_them_too(rows, tmp_path):
    records = Records()
    run = pg.Run(tmp_path / "run", record_every=pg.Every(steps=4))

    with pg.prepare(
        Measuring(), run, steps_per_epoch=AN_EPOCH, callbacks=[records], progress="off"
    ) as trainer:
        while trainer.goes_on(epochs=2):
            first = trainer.clock.batch * BATCH
            trainer.train_step(rows[first : first + BATCH])

    windows = records.windows()
    assert list(windows) == [4, 8]  # at the end of an epoch stands the epoch
    for step, values in windows.items():
        assert values["running/size"] == pytest.approx(so_far(rows, step).mean(), rel=1e-6)
    assert all("size" in values for _, values in records.of("epoch"))


# A resume.


@pytest.mark.parametrize("stop_at", [2, 3, AN_EPOCH, AN_EPOCH + 1])
def test_a_run_resumed_in_mid_epoch_logs_the_same(rows, stop_at, tmp_path):
    straight, broken = tmp_path / "straight", tmp_path / "broken"
    train(Regressing(), rows, straight, every=2, execution=BLOCKS)

    keras.utils.set_random_seed(7)
    train(Regressing(), rows, broken, Stop(stop_at), every=2, execution=BLOCKS)
    keras.utils.set_random_seed(8)  # restored from the run
    train(Regressing(), rows, broken, every=2, execution=BLOCKS)

    def logged(folder):
        lines = read_json_lines(folder / "run" / "metrics.jsonl")
        return [(line["kind"], line["step"], line["values"]) for line in lines]

    assert logged(broken) == logged(straight)
    assert any("running/error" in values for kind, _, values in logged(broken) if kind == "steps")


def test_a_loop_of_ones_own_resumed_in_mid_epoch_logs_the_same(rows, tmp_path):
    def drive(folder, steps):
        keras.utils.set_random_seed(7)
        run = pg.Run(folder, record_every=pg.Every(steps=2))
        with pg.prepare(Regressing(), run, steps_per_epoch=AN_EPOCH, progress="off") as trainer:
            while trainer.goes_on(steps=steps):
                first = trainer.clock.batch * BATCH
                trainer.train_step(rows[first : first + BATCH])
        return read_json_lines(folder / "metrics.jsonl")

    straight = drive(tmp_path / "straight", 10)
    drive(tmp_path / "broken", 3)
    resumed = drive(tmp_path / "broken", 10)

    values = [(line["kind"], line["step"], line["values"]) for line in straight]
    assert [(line["kind"], line["step"], line["values"]) for line in resumed] == values
    assert "running/error" in resumed[1]["values"]
