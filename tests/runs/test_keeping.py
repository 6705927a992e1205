"""A run directory keeps what the run did not write, and follows no link but one."""

import json
import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._errors import (
    ArgumentError,
    FileKindError,
    ForeignFilesError,
    RunExistsError,
    RunFileError,
    RunInUseError,
)
from perigee.checkpoints import Checkpoints, RunLock
from perigee.writers import read_json_lines

ROWS = np.ones((16, 4), "float32")


class Step(pg.Step):
    """A step that logs a sample; it runs eagerly, so that a test is short."""

    def __init__(self):
        keras.utils.set_random_seed(0)
        self.model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.01)

    def train_step(self, batch):
        loss = self.minimize(
            lambda: keras.ops.mean(keras.ops.square(self.model(batch))), self.optimizer
        )
        return {"loss": loss, "shown": pg.sample(image=keras.ops.zeros((1, 4, 4, 1)))}


def train(path, epochs=1, hooks=(), **run):
    keep = {"tensorboard": True, "record_every": pg.Every(steps=1), **run}
    return pg.fit(
        Step(),
        ROWS,
        batch_size=8,
        epochs=epochs,
        run=pg.Run(path, **keep),
        callbacks=[*hooks],
        execution="eager",
        progress="off",
        seed=0,
    )


class Fail(pg.Hook):
    """Ends the training with an error, after a number of steps."""

    def __init__(self, step=1, act=None):
        self.every, self.act = pg.Every(steps=step), act

    def on_steps(self, event):
        if self.act is not None:
            self.act()
        raise ZeroDivisionError


def begin(path, **given):
    """Begin a run that fails before its first save."""
    # `fit` saves what it can when an error ends it, as a last save: none is left of it here.
    with pytest.raises(ZeroDivisionError):
        train(path, hooks=[Fail(**given)])
    for step in Checkpoints(path / "checkpoints").steps():
        if (path / "checkpoints" / f"step-{step:08d}" / "state.safetensors").exists():
            shutil.rmtree(path / "checkpoints" / f"step-{step:08d}")


def content(path, *but):
    """Return what is below a path, by name: bytes, the target of a link, or `None`."""
    found = {}
    for each in sorted(path.rglob("*")):
        name = str(each.relative_to(path))
        if each.is_symlink():
            found[name] = os.readlink(each)
        elif name not in but:
            found[name] = each.read_bytes() if each.is_file() else None
    return found


def put(path, text="precious\n"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


# Files of others where a run is to begin.

FOREIGN = [
    "metrics.jsonl",
    "report.html",
    "checkpoints/best.keras",
    "checkpoints/step-00000001/weights.h5",
    "checkpoints/step-00000001/manifest.json",
    "events/notes.txt",
    "events/train/events.out.tfevents.123.host",
    "samples/photo.png",
    "samples/cats/step-00000001.png",
    "run.json",
]


@pytest.mark.parametrize("name", FOREIGN)
def test_files_of_a_runs_names_without_a_run_are_refused_and_nothing_is_written(tmp_path, name):
    put(tmp_path / "train.py")
    put(tmp_path / name, '{"name": "another tool"}\n')
    before = content(tmp_path)

    for resume in ("auto", "never", "required"):
        with pytest.raises(ForeignFilesError, match="choose another directory") as caught:
            train(tmp_path, resume=resume)
        assert caught.value.found == (name.split("/")[0] + "/" * ("/" in name),)

    assert content(tmp_path) == before


def test_a_folder_of_another_tool_is_refused_with_all_that_is_there(tmp_path):
    for name in FOREIGN[:3]:
        put(tmp_path / name)

    with pytest.raises(ForeignFilesError, match=r"metrics\.jsonl, report\.html, checkpoints/, but"):
        train(tmp_path)


def test_a_run_json_that_cannot_be_read_is_refused_and_nothing_is_written(tmp_path):
    put(tmp_path / "run.json", '{"format_version": 1, "versions"')

    with pytest.raises(RunFileError):
        train(tmp_path)

    assert os.listdir(tmp_path) == ["run.json"]


def test_files_of_other_names_stay_beside_the_run_and_after_it(tmp_path):
    others = [
        "train.py",
        "photos/cat.png",
        "metrics.jsonl.bak",
        "run.json.old.tmp",
        "step-00000001",
    ]
    for name in others:
        put(tmp_path / name)
    for folder in ("checkpoints", "samples", "events"):
        (tmp_path / folder).mkdir()  # such as those that a script has prepared
    put(tmp_path / "checkpoints" / ".gitkeep", "")
    before = {name: value for name, value in content(tmp_path).items() if value is not None}

    for epochs in (1, 2, 3):
        train(tmp_path, epochs, keep=1)

    assert {name: content(tmp_path)[name] for name in before} == before
    assert Checkpoints(tmp_path / "checkpoints").steps() == [6]


def test_what_a_run_that_never_began_found_in_its_new_directory_stays(tmp_path):
    path = tmp_path / "run"

    class Writing(Step):
        def train_step(self, batch):
            put(path / "mine.txt")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        pg.fit(Writing(), ROWS, run=path, execution="eager", progress="off")

    assert content(path) == {"mine.txt": b"precious\n"}


# Files of others within a run.

WITHIN = [
    "checkpoints/epoch-1.keras",
    "checkpoints/step-1/weights.h5",
    "checkpoints/step-00000000/weights.h5",
    "checkpoints/unfinished-00000001.tmp/weights.h5",
    "checkpoints/step-00000099.old",
    "samples/photo.png",
    "samples/shown/step-one.png",
    "samples/shown/step-00000077.jpg",
    "events/notes.txt",
    "events/train/events.out.tfevents.123.host",
    "events/older/events.out.tfevents.0000000007.perigee",
    "profile/trace.json",
    "run.json.old.tmp",
    "notes/metrics.jsonl",
]


@pytest.mark.parametrize("stops", ["after a save", "before a save", "in the middle"])
def test_files_of_others_within_a_run_stay_as_they_are(tmp_path, stops):
    names = WITHIN
    if stops == "before a save":  # it might be a damaged checkpoint, which is an error
        names = [name for name in WITHIN if "step-00000000" not in name]

    def write():
        for name in names:
            put(tmp_path / name)

    if stops == "after a save":
        train(tmp_path)
        write()
    elif stops == "before a save":
        begin(tmp_path, act=write)
    else:
        with pytest.raises(ZeroDivisionError):
            train(tmp_path, hooks=[Fail(3, write)], epochs=4, save_every=pg.Every(steps=2))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for epochs in (2, 3, 5):
            train(tmp_path, epochs, keep=1)

    assert {(tmp_path / name).read_text() for name in names} == {"precious\n"}


def test_a_page_of_anothers_is_not_overwritten_and_said(tmp_path):
    train(tmp_path)
    put(tmp_path / "report.html", "<html>a thesis</html>")

    with pytest.warns(RuntimeWarning, match="not a page of Perigee"):
        train(tmp_path, 2)

    assert (tmp_path / "report.html").read_text() == "<html>a thesis</html>"


# A beginning that failed before its first save.


def test_a_beginning_that_failed_is_moved_and_said_once(tmp_path):
    begin(tmp_path / "run")
    before = content(tmp_path / "run", "run.lock")
    logs = {name for name, value in before.items() if value is not None}
    assert {"run.json", "metrics.jsonl", "report.html"} < logs
    assert any(name.startswith("events/train/") for name in logs)

    with pytest.warns(RuntimeWarning, match="before its first save") as said:
        train(tmp_path / "run")

    [place] = (tmp_path / "run").glob("abandoned-*")
    texts = [str(each.message) for each in said if "first save" in str(each.message)]
    assert [str(place) in text for text in texts] == [True]
    assert {name: content(place)[name] for name in logs} == {name: before[name] for name in logs}
    lines = read_json_lines(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if line["kind"] == "steps"] == [1, 2]
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["id"] != json.loads(before["run.json"])["id"]
    assert facts["resumed"] == []
    train(tmp_path / "run", 2)  # which says nothing more


def test_each_beginning_that_failed_has_a_place_of_its_own(tmp_path):
    begin(tmp_path)
    for count in (1, 2, 3):
        with pytest.warns(RuntimeWarning, match="before its first save"):
            begin(tmp_path)
        assert len(list(tmp_path.glob("abandoned-*/run.json"))) == count


def test_a_move_that_was_interrupted_is_finished_by_the_next_start(tmp_path, monkeypatch):
    begin(tmp_path)
    before = content(tmp_path, "run.lock")
    rename, count = Path.rename, iter(range(2))

    def interrupted(self, target):
        next(count)
        return rename(self, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", interrupted)
        with pytest.raises((StopIteration, RuntimeError)):
            train(tmp_path)
    with pytest.warns(RuntimeWarning, match="before its first save"):
        train(tmp_path)

    for name in (name for name, value in before.items() if value is not None):
        [kept] = tmp_path.glob(f"abandoned-*/{name}")
        assert kept.read_bytes() == before[name]


def test_a_beginning_may_fail_again_before_it_writes(tmp_path):
    """Files that callbacks wrote to `checkpoints/` do not make it a directory of another tool."""
    begin(tmp_path, act=lambda: put(tmp_path / "checkpoints" / "epoch-1.keras"))

    class Wrong(Step):
        def train_step(self, batch):
            raise ZeroDivisionError

    with (
        pytest.warns(RuntimeWarning, match="before its first save"),
        pytest.raises(ZeroDivisionError),
    ):
        pg.fit(Wrong(), ROWS, run=tmp_path, execution="eager", progress="off")
    train(tmp_path)

    assert (tmp_path / "checkpoints" / "epoch-1.keras").read_text() == "precious\n"


def test_a_run_of_version_0_1_which_has_no_id_is_known(tmp_path):
    train(tmp_path / "saved")
    begin(tmp_path / "begun")
    for name in ("saved", "begun"):
        path = tmp_path / name / "run.json"
        facts = json.loads(path.read_text())
        del facts["id"]
        path.write_text(json.dumps(facts))

    assert train(tmp_path / "saved", 2).resumed_from.step == 2
    with pytest.warns(RuntimeWarning, match="before its first save"):
        train(tmp_path / "begun")


def test_a_run_keeps_its_id_and_checkpoints_without_a_run_json_are_a_run(tmp_path):
    train(tmp_path)
    ids = [json.loads((tmp_path / "run.json").read_text())["id"]]
    train(tmp_path, 2)
    ids.append(json.loads((tmp_path / "run.json").read_text())["id"])
    assert ids[0] == ids[1]
    (tmp_path / "run.json").unlink()

    with pytest.warns(RuntimeWarning, match="without a record of its settings"):
        assert train(tmp_path, 3).resumed_from.step == 4


def test_a_run_is_refused_where_none_may_be_and_a_failed_one_too(tmp_path):
    begin(tmp_path)
    before = content(tmp_path, "run.lock")

    with pytest.raises(RunExistsError):
        train(tmp_path, resume="never")

    assert content(tmp_path, "run.lock") == before


@pytest.mark.process
def test_files_of_callbacks_survive_a_kill_before_the_first_save(tmp_path):
    code = """
import os, signal, sys, warnings, keras, numpy as np, perigee as pg
warnings.simplefilter("ignore")
class Die(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3 and sys.argv[1] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
x = np.ones((32, 4), "float32")
model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
step = pg.Supervised(model, keras.optimizers.SGD(0.01), keras.losses.MeanSquaredError())
kept = keras.callbacks.ModelCheckpoint("mine/checkpoints/epoch-{epoch}.keras")
run = pg.Run("mine", save_every=pg.Every(epochs=5))
epochs = 4 if sys.argv[1] == "die" else 1
pg.fit(step, (x, x[:, :1]), epochs=epochs, run=run, callbacks=[kept, Die()], progress="off",
       execution="eager")
"""

    def start(how):
        command = [sys.executable, "-c", code, how]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True).returncode

    assert start("die") == -signal.SIGKILL
    assert start("again") == 0

    kept = sorted(path.name for path in (tmp_path / "mine" / "checkpoints").glob("*.keras"))
    assert kept == ["epoch-1.keras", "epoch-2.keras", "epoch-3.keras"]


# Links.


@pytest.mark.parametrize("is_new", [True, False], ids=["a new run", "a run"])
@pytest.mark.parametrize("name", ["run.lock", "run.json", "metrics.jsonl", "report.html"])
def test_a_link_to_a_file_is_refused_and_the_file_stays(tmp_path, name, is_new):
    path, mine = tmp_path / "run", put(tmp_path / "thesis.txt")
    path.mkdir()
    if not is_new:
        train(path)
        (path / name).unlink()
    (path / name).symlink_to(mine)
    before = content(tmp_path)

    with pytest.raises(FileKindError, match=rf"{name} is a link to .*thesis\.txt"):
        train(path, 2)

    assert content(tmp_path) == before


@pytest.mark.parametrize("name", ["events", "samples", "events/train", "samples/shown"])
def test_a_link_to_a_folder_is_refused_and_nothing_in_it_changes(tmp_path, name):
    path, mine = tmp_path / "run", tmp_path / "mine"
    train(path)
    shutil.move(path / name, mine)
    put(mine / "step-00000009.png")
    put(mine / "events.out.tfevents.0000000009.perigee")
    (path / name).symlink_to(mine)
    before = content(mine)

    if name == "samples/shown":  # found when it is written to, which ends no training
        with (
            pytest.warns(RuntimeWarning, match="shown is a link to"),
            pytest.warns(RuntimeWarning, match="lost 1 records"),
        ):
            train(path, 2)
    else:
        with pytest.raises(FileKindError, match="is a link to"):
            train(path, 2)

    assert content(mine) == before


@pytest.mark.parametrize("target", ["file", "nothing"])
def test_checkpoints_as_a_link_to_anything_but_a_folder_is_refused(tmp_path, target):
    put(tmp_path / "file")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(tmp_path / target)

    with pytest.raises(FileKindError, match="checkpoints is a link to"):
        train(tmp_path / "run")

    assert os.listdir(tmp_path / "run") == ["checkpoints"]


def test_checkpoints_may_be_a_link_to_a_folder_in_which_others_are_left_alone(tmp_path):
    path, scratch = tmp_path / "run", tmp_path / "scratch"
    path.mkdir()
    put(scratch / "other.bin")
    put(scratch / "step-1" / "weights.h5")
    before = content(scratch)
    (path / "checkpoints").symlink_to(scratch)

    begin(path)
    with pytest.warns(RuntimeWarning, match="before its first save"):
        train(path, keep=1)
    assert train(path, 2, keep=1).resumed_from.step == 2

    assert (path / "checkpoints").is_symlink()
    assert Checkpoints(scratch).steps() == [4]
    assert {name: content(scratch)[name] for name in before} == before


def test_a_link_to_the_checkpoints_of_another_run_is_refused(tmp_path):
    train(tmp_path / "first")
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / "checkpoints").symlink_to(tmp_path / "first" / "checkpoints")

    with pytest.raises(ForeignFilesError, match="checkpoints/"):
        train(tmp_path / "second", 2)

    assert train(tmp_path / "first", 2).resumed_from.step == 2


def test_a_run_directory_may_be_reached_through_a_link(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "runs").symlink_to("disk")
    (tmp_path / "latest").symlink_to("disk/first")

    train(tmp_path / "runs" / "first")

    assert train(tmp_path / "latest", 2).resumed_from.step == 2


def test_a_link_that_appears_in_training_is_not_followed(tmp_path):
    mine = put(tmp_path / "thesis.txt")

    class Link(pg.Hook):
        every = pg.Every(steps=1)

        def on_steps(self, event):
            (tmp_path / "run" / "run.json").unlink()
            (tmp_path / "run" / "run.json").symlink_to(mine)

    train(tmp_path / "run", hooks=[Link()])

    assert mine.read_text() == "precious\n"


def test_a_copy_by_hard_links_is_trained_without_a_change_of_the_original(tmp_path):
    train(tmp_path / "run", 2)
    shutil.copytree(tmp_path / "run", tmp_path / "copy", copy_function=os.link)
    (tmp_path / "copy" / "run.lock").unlink()
    before = content(tmp_path / "run")

    train(tmp_path / "copy", 3)

    assert content(tmp_path / "run") == before


@pytest.mark.parametrize("name", ["run.lock", "run.json", "metrics.jsonl", "report.html"])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["a pipe", "a directory"])
def test_what_is_no_file_in_the_place_of_one_is_refused(tmp_path, name, make):
    make(tmp_path / name)

    with pytest.raises(FileKindError, match=rf"{name} is a (pipe|directory)"):
        train(tmp_path)


def test_a_file_in_the_place_of_a_directory_is_refused(tmp_path):
    put(tmp_path / "file")
    with pytest.raises(FileKindError, match="is not a directory"):
        train(tmp_path / "file")
    for name in ("checkpoints", "events", "samples"):
        put(tmp_path / name / name)
        with pytest.raises(FileKindError, match=f"{name} is a file"):
            train(tmp_path / name)


def test_a_lock_of_another_tool_is_kept(tmp_path):
    mine = put(tmp_path / "run.lock", "held by nightly.sh\n")

    with pytest.raises(FileKindError, match="not a file of Perigee"):
        train(tmp_path)

    assert mine.read_text() == "held by nightly.sh\n"


# The lock, and URLs.


def test_the_lock_is_let_go_after_the_last_write(tmp_path, monkeypatch):
    seen = []
    release = RunLock.release

    def noted(self, **given):
        seen.append(content(tmp_path, "run.lock"))
        with pytest.raises(RunInUseError):
            RunLock(tmp_path)
        release(self, **given)

    monkeypatch.setattr(RunLock, "release", noted)
    train(tmp_path)

    assert seen == [content(tmp_path, "run.lock")]


@pytest.mark.parametrize(
    "url", ["gs://bucket/run", "s3://bucket/run", "hdfs://x/y", "file:///tmp/run", "https://a.b/c"]
)
def test_a_url_is_refused_by_name(tmp_path, monkeypatch, url):
    monkeypatch.chdir(tmp_path)
    for given in (url, Path(url)):
        with pytest.raises(ArgumentError, match=rf"{url.partition(':')[0]}:.*is not"):
            pg.fit(Step(), ROWS, run=given)
        with pytest.raises(ArgumentError, match="mount the storage"):
            pg.Run(given)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("path", ["C:\\runs\\a", "C:/runs/a", "a:b/c", "runs/gs:x", "x+y/z"])
def test_a_path_that_looks_a_little_like_a_url_is_taken(path):
    assert pg.Run(path).path == path
