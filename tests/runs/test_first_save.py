"""The save before the first step: where a kill before the next one is resumed."""

import json
import shutil
import time

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._errors import NoCheckpointError
from perigee._step.state import snapshot, track
from perigee.checkpoints import Checkpoints
from perigee.checkpoints import content as contents
from perigee.writers.json_lines import read_json_lines

pytestmark = pytest.mark.filterwarnings("ignore::perigee.PerigeeWarning")


def rows():
    x = np.random.default_rng(5).normal(size=(12, 3)).astype("float32")
    return x, x[:, :1]


def steps_of(path):
    return Checkpoints(path / "checkpoints").steps()


def train(path, *callbacks, keep=3, every=None, resume="auto", **arguments):
    """Train with weights and an order that nobody has seeded."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dropout(0.3), keras.layers.Dense(1)])
    step = pg.Supervised(model, keras.optimizers.Adam(0.05), "mse")
    run = pg.Run(path, keep=keep, save_every=every or pg.Every(epochs=1), resume=resume)
    given = {"epochs": 3, "batch_size": 4, "execution": "eager", "progress": "off", **arguments}
    history = pg.fit(step, rows(), run=run, callbacks=callbacks, **given)
    values = [value.tobytes() for value in snapshot(track(step).variables)]
    return history, values


class Copy(pg.Hook):
    """Copies the run at a step: the copy is what a kill there leaves."""

    def __init__(self, path, step):
        self.path, self.every = path, pg.Every(steps=step)

    def on_steps(self, event):
        copy = self.path.with_name("killed")
        while not copy.exists() and not steps_of(self.path):  # it is saved in the background
            time.sleep(0.001)
        if not copy.exists():
            shutil.copytree(self.path, copy, ignore=shutil.ignore_patterns("run.lock"))


def test_a_kill_before_the_first_regular_save_is_resumed_with_seed_and_weights(tmp_path):
    straight, values = train(tmp_path / "run", Copy(tmp_path / "run", 2))
    assert steps_of(tmp_path / "killed") == [0]

    resumed, again = train(tmp_path / "killed")

    assert resumed.resumed_from.step == 0
    assert again == values
    assert resumed.history == straight.history
    lines = [read_json_lines(tmp_path / name / "metrics.jsonl") for name in ("run", "killed")]
    for line in [line for part in lines for line in part]:
        del line["seconds"]
    assert lines[0] == lines[1]
    assert not list((tmp_path / "killed").glob("abandoned-*"))


@pytest.mark.parametrize("keep", [1, 2, None])
def test_it_does_not_count_and_is_gone_after_the_next_save(tmp_path, keep):
    train(tmp_path, keep=keep)

    assert steps_of(tmp_path) == [3, 6, 9][-keep if keep else 0 :]


def test_a_failed_save_after_it_leaves_it(tmp_path, monkeypatch):
    """It is removed only once there is another one."""
    write = contents.write

    def failing(place, prepared):
        if "00000003" in place.name:
            raise OSError("the disk is full")
        write(place, prepared)

    seen = []

    class Look(pg.Hook):
        every = pg.Every(steps=5)

        def on_steps(self, event):
            seen.extend(steps_of(tmp_path))

    monkeypatch.setattr(contents, "write", failing)
    with pytest.warns(RuntimeWarning, match="the disk is full"):
        # The error of the save comes out at the one after it.
        train(tmp_path, Look(), every=pg.Every(steps=3), steps=6, epochs=None)

    assert seen == [0]
    assert steps_of(tmp_path) == [6]


class Fail(pg.Hook):
    every = pg.Every(steps=2)

    def on_steps(self, event):
        raise ZeroDivisionError


def test_a_beginning_that_an_error_ended_starts_anew_and_its_logs_are_kept(tmp_path):
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, Fail())
    assert steps_of(tmp_path) == [0]
    facts = json.loads((tmp_path / "run.json").read_text())

    with pytest.warns(RuntimeWarning, match="ended before its first save"):
        history, _ = train(tmp_path)

    assert history.resumed_from is None
    [place] = tmp_path.glob("abandoned-*")
    assert json.loads((place / "run.json").read_text()) == facts
    assert facts["stop_reason"] == "error: ZeroDivisionError"
    assert not list(place.rglob("*.safetensors"))
    assert steps_of(tmp_path) == [3, 6, 9]


def test_what_was_added_to_the_first_checkpoint_is_kept(tmp_path):
    with pytest.raises(ZeroDivisionError):
        train(tmp_path, Fail())
    (tmp_path / "checkpoints" / "step-00000000" / "notes.txt").write_text("precious")

    with pytest.warns(RuntimeWarning, match="ended before its first save"):
        train(tmp_path)

    [kept] = tmp_path.glob("checkpoints/set-aside-step-00000000-*/notes.txt")
    assert kept.read_text() == "precious"


def test_a_beginning_that_must_be_resumed_is(tmp_path):
    with pytest.raises(NoCheckpointError):
        train(tmp_path / "run", resume="required")
    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "run", Fail())

    assert train(tmp_path / "run", resume="required")[0].resumed_from.step == 0


def test_the_first_step_does_not_wait_until_it_is_on_the_disk(tmp_path, monkeypatch):
    stepped, write = [], contents.write

    def waiting(place, prepared):
        deadline = time.monotonic() + 60
        while "00000000" in place.name and not stepped and time.monotonic() < deadline:
            time.sleep(0.001)
        stepped.append(place.name)
        write(place, prepared)

    class Note(pg.Hook):
        every = pg.Every(steps=1)

        def on_steps(self, event):
            stepped.append(event.clock.step)

    monkeypatch.setattr(contents, "write", waiting)
    train(tmp_path, Note(), epochs=1)

    assert stepped[0] == 1


def test_a_loop_of_the_users_own_is_not_saved_before_it_has_state(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    step = pg.Supervised(model, keras.optimizers.SGD(0.01), "mse")
    with pg.prepare(step, run=tmp_path, execution="eager", progress="off") as trainer:
        assert trainer.goes_on(steps=1)
        assert steps_of(tmp_path) == []
        trainer.train_step(rows())
        assert not trainer.goes_on(steps=1)

    assert steps_of(tmp_path) == [1]
