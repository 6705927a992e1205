"""Trainings that are started again by an edited program."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import keras
import pytest
from keras.optimizers.schedules import ExponentialDecay
from typer.testing import CliRunner

import perigee as pg
from perigee._cli.main import app
from perigee._errors import (
    DataChangedError,
    RunArgumentError,
    RunChangedError,
    StateMismatchError,
)
from perigee.writers.json_lines import read_json_lines
from tests.runs.programs import Distill, arrays, supervised

pytestmark = pytest.mark.mostly_once

STEPS = 4  # an epoch of 64 rows


def train(path, step=None, epochs=1, data=None, on_change="refuse", **arguments):
    """Train as a user would; returns the history and the Step."""
    step = supervised() if step is None else step
    arguments = {"batch_size": 16, "seed": 0, "execution": "eager", **arguments}
    run = pg.Run(path, on_change=on_change)
    data = arrays() if data is None else data
    return pg.fit(step, data, epochs=epochs, run=run, progress="off", **arguments), step


def adam(rate):
    return supervised(optimizer=keras.optimizers.Adam(rate))


def rate_of(step):
    return float(keras.ops.convert_to_numpy(step.optimizer.learning_rate))


def facts_of(path):
    return json.loads((Path(path) / "run.json").read_text())


def content(path):
    """Every file of a directory, with its time."""
    files = sorted(file for file in Path(path).rglob("*") if file.is_file())
    return {str(file): (file.read_bytes(), file.stat().st_mtime_ns) for file in files}


@pytest.fixture
def path(tmp_path):
    """A run of one epoch."""
    train(tmp_path / "run")
    return tmp_path / "run"


@pytest.mark.parametrize("epochs", [1, 3], ids=["finished", "to be trained"])
def test_a_changed_start_is_refused_with_all_changes_and_touches_nothing(path, epochs):
    before = content(path)
    x, y = arrays()
    step = supervised("mae", keras.optimizers.Adam(0.5), rate=0.1)

    with pytest.raises(RunChangedError) as caught:
        train(path, step, epochs, (x + 1, y), accumulate=2)

    told = str(caught.value)
    for line in (
        "step.optimizer.learning_rate: 0.01 -> 0.5",
        "step.loss: mse -> mae",
        "step.model.layers[1].rate: 0.5 -> 0.1",
        "accumulate: 1 -> 2",
        "data[0] (values): other values",
    ):
        assert f"  - {line}" in told
    assert 'on_change="accept"' in told and "--accept-changes" in told
    after = content(path)
    lock = str(path / "run.lock")  # of the same process, and so the same
    assert before.pop(lock)[0] == after.pop(lock)[0]
    assert after == before


def test_the_same_program_and_more_epochs_go_on(path):
    history, _ = train(path, epochs=2)

    assert len(history.history["loss"]) == 2
    assert facts_of(path)["changes"] == []


def test_what_is_accepted_holds_and_is_marked_once(path):
    history, step = train(path, adam(0.5), 2, on_change="accept")

    assert history.history["learning_rate"] == pytest.approx([0.01, 0.5])
    assert rate_of(step) == pytest.approx(0.5)
    (change,) = facts_of(path)["changes"]
    assert change["changed"] == ["step.optimizer.learning_rate: 0.01 -> 0.5"]
    assert (change["step"], change["epoch"]) == (STEPS, 1) and change["when"]
    records = read_json_lines(path / "metrics.jsonl")
    (record,) = [record for record in records if record["kind"] == "changes"]
    assert (record["step"], record["changed"]) == (STEPS, change["changed"])
    page = (path / "report.html").read_text()
    assert "step.optimizer.learning_rate: 0.01 -&gt; 0.5" in page
    assert f"continued with other settings after step {STEPS}" in page

    history, _ = train(path, adam(0.5), 3)  # accepted once for all

    assert history.history["learning_rate"] == pytest.approx([0.01, 0.5, 0.5])
    assert len(facts_of(path)["changes"]) == 1
    with pytest.raises(RunChangedError, match=r"0\.5 -> 0\.01"):
        train(path, epochs=4)


@pytest.mark.parametrize("is_first", [True, False], ids=["schedule first", "rate first"])
def test_a_schedule_and_a_rate_take_turns(tmp_path, is_first):
    def scheduled():
        return adam(ExponentialDecay(0.1, 1, 0.5))

    first, second = (scheduled, lambda: adam(0.25)) if is_first else (lambda: adam(0.25), scheduled)
    train(tmp_path, first())
    with pytest.raises(RunChangedError, match=r"learning_rate: .* -> "):
        train(tmp_path, second(), 2)

    history, step = train(tmp_path, second(), 2, on_change="accept")

    rates = [0.1 * 0.5**STEPS, 0.25] if is_first else [0.25, 0.1 * 0.5 ** (2 * STEPS)]
    assert history.history["learning_rate"] == pytest.approx(rates)
    assert int(step.optimizer.iterations) == 2 * STEPS
    history, _ = train(tmp_path, second(), 3)
    assert len(history.history["loss"]) == 3


class Lowers(keras.callbacks.Callback):
    """Lowers the rate at the end of the first epoch, as `ReduceLROnPlateau` does."""

    def on_epoch_end(self, epoch, logs=None):
        if epoch == 0:
            self.model.optimizer.learning_rate = 0.001


def test_a_rate_that_a_callback_lowered_stays_where_the_program_states_the_same(tmp_path):
    train(tmp_path, callbacks=[Lowers()])

    history, _ = train(tmp_path, supervised(rate=0.1), 2, on_change="accept", callbacks=[Lowers()])

    assert history.history["learning_rate"] == pytest.approx([0.01, 0.001])
    assert len(facts_of(tmp_path)["changes"]) == 1
    other = supervised(rate=0.1, optimizer=keras.optimizers.Adam(0.5))
    history, _ = train(tmp_path, other, 3, on_change="accept")
    assert history.history["learning_rate"][2] == pytest.approx(0.5)


def test_an_accepted_rate_holds_also_where_nothing_was_saved_since(path, tmp_path):
    kept = tmp_path / "kept"
    shutil.copytree(path / "checkpoints", kept)
    train(path, adam(0.5), 2, on_change="accept")
    shutil.rmtree(path / "checkpoints")  # as if it had been killed before its first save
    shutil.copytree(kept, path / "checkpoints")

    history, _ = train(path, adam(0.5), 2)

    assert history.history["learning_rate"] == pytest.approx([0.01, 0.5])
    (change,) = facts_of(path)["changes"]
    assert change["step"] == STEPS
    kinds = [record["kind"] for record in read_json_lines(path / "metrics.jsonl")]
    assert kinds.count("changes") == 1


def test_a_finished_run_trains_nothing_and_records_nothing(path):
    before = content(path)

    history, _ = train(path, adam(0.5), 1, on_change="accept")

    assert history.stop_reason == "epochs"
    after, lock = content(path), str(path / "run.lock")
    assert before.pop(lock)[0] == after.pop(lock)[0]
    assert after == before


class Anneals(pg.Hook):
    every = pg.Every(epochs=1)

    def on_record(self, event):
        STEP.temperature *= 0.5


STEP = None


def test_a_step_that_training_itself_has_changed_goes_on(tmp_path):
    global STEP
    STEP = Distill()
    callbacks = [Lowers(), Anneals()]
    train(tmp_path, STEP, callbacks=callbacks)
    assert STEP.temperature < 4.0

    history, _ = train(tmp_path, STEP, 2, callbacks=callbacks)
    assert history.history["learning_rate"] == pytest.approx([0.01, 0.001])

    STEP.weights = [5.0, 2.0]
    with pytest.raises(RunChangedError) as caught:
        train(tmp_path, STEP, 3, callbacks=callbacks)
    assert caught.value.changes == ("step.weights[0]: 1 -> 5",)
    STEP = Distill()  # a new process
    history, _ = train(tmp_path, STEP, 3, callbacks=callbacks)
    assert len(history.history["loss"]) == 3


def test_more_data_can_be_accepted_between_two_epochs(path):
    with pytest.raises(RunChangedError, match="data: 64 rows -> 96 rows"):
        train(path, epochs=2, data=arrays(96))

    history, step = train(path, epochs=3, data=arrays(96), on_change="accept")

    assert len(history.history["loss"]) == 3
    assert int(step.optimizer.iterations) == STEPS + 2 * 6
    history, _ = train(path, epochs=4, data=arrays(96))
    assert len(history.history["loss"]) == 4


def test_other_data_within_an_epoch_is_refused_with_what_else_changed(tmp_path):
    train(tmp_path, epochs=None, steps=STEPS + 1)

    with pytest.raises(DataChangedError) as caught:
        train(tmp_path, adam(0.5), 3, arrays(96), on_change="accept")

    assert "step.optimizer.learning_rate: 0.01 -> 0.5" in caught.value.__notes__[0]


def test_another_length_of_the_epoch_that_has_begun_is_refused(tmp_path):
    train(tmp_path, epochs=None, steps=3, steps_per_epoch=4)

    with pytest.raises(RunArgumentError, match="steps_per_epoch"):
        train(tmp_path, epochs=2, steps_per_epoch=2, on_change="accept")


def test_accumulation_can_change_between_two_epochs(path):
    history, step = train(path, epochs=2, accumulate=2, on_change="accept")
    assert int(step.optimizer.iterations) == STEPS + STEPS // 2

    history, step = train(path, epochs=3, on_change="accept")
    assert int(step.optimizer.iterations) == 2 * STEPS + STEPS // 2
    assert len(history.history["loss"]) == 3


def test_a_state_that_does_not_fit_raises_with_what_changed(path):
    with pytest.raises(StateMismatchError) as caught:
        train(path, supervised(units=5), 2, on_change="accept")

    assert "step.model.layers[0].units: 3 -> 5" in caught.value.__notes__[0]


@pytest.mark.parametrize("compared", [None, {}, [1], {"compared": {"a": [{}]}}, "x"])
def test_a_run_without_a_record_resumes_and_says_so_once(path, compared):
    facts = facts_of(path)
    del facts["compared"]
    if compared is not None:
        facts["compared"], facts["changes"] = compared, compared
    (path / "run.json").write_text(json.dumps(facts))

    with pytest.warns(RuntimeWarning, match="without a record of its settings"):
        train(path, epochs=2)

    with pytest.raises(RunChangedError):
        train(path, adam(0.5), 3)
    history, _ = train(path, epochs=3)
    assert len(history.history["loss"]) == 3


def test_an_edited_step_is_named_in_the_run_and_goes_on(tmp_path):
    def loss(y_true, y_pred):
        return keras.ops.square(y_true - y_pred)

    train(tmp_path, supervised(loss))
    loss.__code__ = (lambda y_true, y_pred: keras.ops.abs(y_true - y_pred)).__code__

    with pytest.warns(pg.PerigeeWarning, match=r"PG432.*\n.*loss was edited"):
        history, _ = train(tmp_path, supervised(loss), 2)

    assert [finding.code for finding in history.findings] == ["PG432"]
    assert "PG432" in [finding["code"] for finding in facts_of(tmp_path)["findings"]]
    train(tmp_path, supervised(loss), 3)  # said once


def test_how_data_was_compared_stands_in_the_file(path):
    assert facts_of(path)["compared"]["data"] == {"data": "by values of some of its rows"}


def test_a_loop_of_the_users_own_is_compared_too(tmp_path):
    def play(rate, steps, **run):
        step = supervised(optimizer=keras.optimizers.Adam(rate))
        run = pg.Run(tmp_path, save_every=pg.Every(steps=1), **run)
        with pg.prepare(step, run, execution="eager", progress="off") as trainer:
            while trainer.goes_on(steps=steps):
                trainer.train_step(tuple(part[:8] for part in arrays()))
        return rate_of(step)

    play(0.01, 2)
    with pytest.raises(RunChangedError, match=r"learning_rate: 0\.01 -> 0\.5"):
        play(0.5, 4)

    assert play(0.5, 4, on_change="accept") == pytest.approx(0.5)
    assert play(0.5, 6) == pytest.approx(0.5)


def test_another_word_for_on_change_is_refused(tmp_path):
    with pytest.raises(pg.PerigeeError, match="on_change"):
        pg.Run(tmp_path, on_change="ignore")


# The command line.

FILE = """
import keras
import numpy as np

import perigee as pg


def make_step(rate=0.01, folder="/a"):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    return pg.Supervised(model, keras.optimizers.SGD(rate), "mse")


def load(rows=32, folder="/a"):
    x = np.random.default_rng(0).normal(size=(rows, 4)).astype("float32")
    return x, x[:, :1]


experiment = pg.Experiment(step=make_step, data=load, fit={"batch_size": 16, "seed": 0})
"""


def test_the_command_line_refuses_and_accepts(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("file.py").write_text(FILE)

    def perigee(epochs, *more):
        usual = ["--epochs", str(epochs), "--run", "a", "--execution", "eager", "--progress", "off"]
        return CliRunner().invoke(app, ["fit", "file.py", *usual, *more])

    assert perigee(1, "--set", "data.folder=/b").exit_code == 0
    moved = perigee(2, "--set", "step.rate=0.01", "--set", "data.folder=/c")
    assert moved.exit_code == 0, moved.output  # what it was by default

    refused = perigee(3, "--set", "step.rate=0.5")

    assert refused.exit_code != 0
    assert "set.step.rate: 0.01 -> 0.5" in refused.output
    assert "step.optimizer.learning_rate: 0.01 -> 0.5" in refused.output
    accepted = perigee(3, "--set", "step.rate=0.5", "--accept-changes")
    assert accepted.exit_code == 0, accepted.output
    (change,) = facts_of("a")["changes"]
    assert "step.optimizer.learning_rate: 0.01 -> 0.5" in change["changed"]
    without = CliRunner().invoke(app, ["fit", "file.py", "--accept-changes"])
    assert without.exit_code != 0 and "--accept-changes: there is no run" in without.output


# Other processes, other frameworks.


RECORDS = """
import json, warnings
warnings.simplefilter("ignore")
from tests.runs.programs import Distill, arrays, recorded, supervised, wired
records = [recorded(Distill(), validation=arrays(16)), recorded(supervised(kind=wired))]
said = json.dumps([record.facts() for record in records], sort_keys=True)
"""


@pytest.mark.process
@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_the_record_is_the_same_in_every_process_and_on_every_framework(backend):
    pytest.importorskip(backend)
    here: dict = {}
    exec(RECORDS, here)

    there = subprocess.run(
        [sys.executable, "-c", f"{RECORDS}\nprint(said)"],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONHASHSEED": "7"},
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    )

    assert there.stdout.splitlines()[-1] == here["said"]
