"""What is asked of a run that goes on: refused where it would be another training, and told."""

import io
import os
import signal
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from rich.console import Console

import perigee as pg
from perigee import PerigeeWarning, writers
from perigee import data as feeds
from perigee._errors import ArgumentError, RunArgumentError, StepAheadError

ROWS, BATCH = 24, 4
STEPS_AN_EPOCH = ROWS // BATCH


def rows():
    x = np.random.default_rng(5).normal(size=(ROWS, 3)).astype("float32")
    return x, x[:, :1]


def new_step():
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4), keras.layers.Dense(1)])
    return pg.Supervised(model, keras.optimizers.Adam(0.05), "mse")


class Stop(pg.Hook):
    """Leaves the training as a `Preemption` does, or fails."""

    def __init__(self, step, error=None):
        self.every, self.step, self.error = pg.Every(steps=step), step, error

    def on_steps(self, event):
        if event.clock.step == self.step:
            if self.error:
                raise self.error
            event.stop("deadline")


def train(path, *hooks, step=None, data=None, **arguments):
    arguments = {"epochs": 3, "progress": "off", "callbacks": hooks, **arguments}
    if data is None:
        arguments.setdefault("batch_size", BATCH)
    run = pg.Run(path, save_every=pg.Every(steps=2))
    return pg.fit(step or new_step(), rows() if data is None else data, run=run, **arguments)


def test_another_seed_is_refused_with_both_and_the_same_or_none_goes_on(tmp_path):
    train(tmp_path / "run", Stop(4), seed=11)

    with pytest.raises(RunArgumentError, match=r"seed=11, and cannot be resumed with seed=12"):
        train(tmp_path / "run", seed=12)

    assert train(tmp_path / "run", Stop(8), seed=11).resumed_from.step == 4
    assert train(tmp_path / "run").resumed_from.step == 8


compiled = pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="torch runs steps in one way only"
)


@pytest.mark.spread(1)
@compiled
@pytest.mark.parametrize(
    "then, now",
    [("eager", "graph"), ("graph", "eager"), (pg.Execution("graph", 1), pg.Execution("graph", 4))],
    ids=["eager, graph", "graph, eager", "one step a call, several"],
)
def test_another_execution_is_refused_with_both(tmp_path, then, now):
    first = train(tmp_path / "run", Stop(4), execution=then)

    with pytest.raises(RunArgumentError, match="and cannot be resumed with"):
        train(tmp_path / "run", execution=now)

    assert train(tmp_path / "run", Stop(6), execution=then).plan.mode == first.plan.mode
    assert train(tmp_path / "run").plan.mode == first.plan.mode


@compiled
def test_several_steps_a_call_may_be_other_ones(tmp_path):
    train(tmp_path / "run", Stop(4), execution=pg.Execution("graph", 4))

    history = train(tmp_path / "run", execution=pg.Execution("graph", 8))

    assert history.resumed_from.step == 4


def test_keras_own_way_to_resume_is_refused_with_a_run(tmp_path):
    backup = keras.callbacks.BackupAndRestore(tmp_path / "backup")

    with pytest.raises(ArgumentError, match="one way to resume"):
        train(tmp_path / "run", backup)

    assert not (tmp_path / "run").exists()


def test_a_step_ahead_of_the_run_is_refused_and_a_new_or_restored_one_goes_on(tmp_path):
    step = new_step()
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run", Stop(5, ZeroDivisionError()), step=step)
    before = step.model.get_weights()

    with pytest.raises(StepAheadError, match=r"has made 5 updates.*saved after 4"):
        train(tmp_path / "run", step=step)

    assert all(map(np.array_equal, before, step.model.get_weights()))
    pg.Run(tmp_path / "run").restore(step)
    assert train(tmp_path / "run", Stop(7), step=step).resumed_from.step == 4
    assert train(tmp_path / "run", step=step).resumed_from.step == 7  # as it was saved
    assert train(tmp_path / "run").stop_reason == "epochs"


# What the terminal says


def test_one_line_says_that_a_run_goes_on_and_from_where(tmp_path, monkeypatch):
    train(tmp_path / "run", Stop(STEPS_AN_EPOCH + 2))
    shown = io.StringIO()
    monkeypatch.setattr(
        writers.terminal.rich, "get_console", lambda: Console(file=shown, width=300)
    )

    train(tmp_path / "run", progress="lines")

    place = tmp_path / "run" / "checkpoints" / f"step-{STEPS_AN_EPOCH + 2:08d}"
    expected = f"Resumes after step {STEPS_AN_EPOCH + 2} (1 epoch), from {place}"
    assert shown.getvalue().splitlines()[0] == expected
    assert shown.getvalue().count("Resumes") == 1


@pytest.mark.process
@pytest.mark.once
def test_one_line_says_what_the_first_signal_does():
    code = (
        "import os, signal, time\n"
        "from perigee._events.signals import Signals\n"
        "with Signals() as signals:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.3)\n"
        "    assert signals.received\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ}, check=True
    )

    [line] = done.stderr.splitlines()
    assert line.startswith("Perigee: SIGTERM ends this training after the current steps")
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


# tf.data


def large_pipeline(tf, floats):
    """64 elements of so many floats, buffered by the shuffle until batches are drawn, not ahead."""
    options = tf.data.Options()
    options.experimental_optimization.inject_prefetch = False

    def element(i):
        wide = tf.random.stateless_normal([floats], [i, 0])
        return wide[:3], wide

    return (
        tf.data.Dataset.range(64)
        .map(element)
        .shuffle(64, seed=1)
        .map(lambda x, wide: (x, x[:1]))
        .batch(BATCH)
        .with_options(options)
    )


def found(findings, code):
    return [finding for finding in findings if finding.code == code]


@pytest.mark.spread(1)
@pytest.mark.parametrize("floats, is_told", [(2**17, True), (2**6, False)], ids=["large", "small"])
def test_a_large_position_of_a_pipeline_is_told_with_advice(tmp_path, floats, is_told):
    tf = pytest.importorskip("tensorflow")

    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", PerigeeWarning)
        history = train(tmp_path / "run", data=large_pipeline(tf, floats), epochs=1)

    told = found(history.findings, "PG431")
    assert len(told) == is_told
    assert sum("PG431" in str(warning.message) for warning in said) == is_told
    if is_told:
        all_of_it = 64 * floats * 4 / 1e6
        megabytes = float(told[0].happened.split(" takes ")[1].split(" MB")[0])
        assert feeds.LARGE_STATE_BYTES / 1e6 < megabytes < 1.1 * all_of_it
        assert told[0].fix == feeds.SMALLER_STATE


@pytest.mark.spread(1)
@pytest.mark.parametrize("cut", [None, 2], ids=["whole", "cut"])
@pytest.mark.parametrize("at", [1, 7, STEPS_AN_EPOCH])
def test_validations_over_a_shuffled_pipeline_go_on_with_the_orders_that_follow(tmp_path, cut, at):
    tf = pytest.importorskip("tensorflow")

    def go(path, *hooks):
        keras.utils.set_random_seed(4)  # on which the order depends too
        shuffled = tf.data.Dataset.from_tensor_slices(rows()).shuffle(ROWS, seed=6).batch(5)
        return train(
            path,
            *hooks,
            validation=shuffled,
            validation_steps=cut,
            validate_every=pg.Every(steps=2),
            seed=1,
        )

    straight = go(tmp_path / "straight").history
    go(tmp_path / "run", Stop(at))

    assert go(tmp_path / "run").history == straight
    if cut:
        assert len({*straight["val_loss"]}) > 1


def test_validation_data_whose_orders_cannot_be_saved_is_told(tmp_path):
    tf = pytest.importorskip("tensorflow")
    tf.random.set_seed(None)
    unseeded = tf.data.Dataset.from_tensor_slices(rows()).shuffle(ROWS).batch(BATCH)

    with pytest.warns(PerigeeWarning, match="The validation data"):
        history = train(tmp_path / "run", validation=unseeded)

    assert found(history.findings, "PG430")
