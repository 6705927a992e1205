"""Whatever happens to the disk or the directory, training continues, and says and counts it."""

import gc
import json
import os
import shutil
import sys
import tempfile
import time
import warnings
from concurrent.futures import Future, wait
from pathlib import Path

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._errors import CheckpointSaveError, RunInUseError
from perigee._events.clock import Clock
from perigee.checkpoints import Checkpoints, Content, RunLock
from perigee.report import FILE_NAME as REPORT
from perigee.writers import Writers, read_json_lines
from tests.reliability import small_disk
from tests.reliability.processes import run as run_apart

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="open files cannot be deleted")

STEPS_AN_EPOCH, EPOCHS = 4, 5
STEPS = STEPS_AN_EPOCH * EPOCHS
ROWS = np.random.default_rng(0).normal(size=(STEPS_AN_EPOCH * 4, 3)).astype("float32")


class At(pg.Hook):
    """Does something after each of some steps."""

    every = pg.Every(steps=1)

    def __init__(self, **acts):
        self.acts = {int(name.removeprefix("step")): act for name, act in acts.items()}

    def on_steps(self, event):
        if event.clock.step in self.acts:
            self.acts[event.clock.step]()


def train(path, *hooks, data=ROWS, epochs=EPOCHS, **run):
    """Train a small step eagerly, and return the history and what was warned of."""
    keras.utils.set_random_seed(0)
    step = pg.Supervised(
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)]),
        keras.optimizers.SGD(0.01),
        keras.losses.MeanSquaredError(),
    )
    keep = {"record_every": pg.Every(steps=1), "save_every": pg.Every(steps=2), **run}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = pg.fit(
            step,
            (data, data[:, :1]) if isinstance(data, np.ndarray) else data,
            epochs=epochs,
            run=pg.Run(path, **keep),
            callbacks=[*hooks],
            execution="eager",
            progress="off",
            seed=0,
            **({"batch_size": 4} if isinstance(data, np.ndarray) else {}),
        )
    said = [str(each.message) for each in caught if each.category is RuntimeWarning]
    return history, said


def lines(path):
    """Return what `metrics.jsonl` says, without the time."""
    return [
        (line["kind"], line["step"], line["epoch"], line["values"])
        for line in read_json_lines(path / "metrics.jsonl")
    ]


def failures(path):
    facts = json.loads((path / "run.json").read_text())
    assert facts["state"] == "ended"
    return facts["failures"]


def wait_for(path, *names):
    """Wait until a directory has entries of these names, however slow the machine is."""
    end = time.monotonic() + 60
    while not {*names} <= ({*os.listdir(path)} if path.is_dir() else set()):
        assert time.monotonic() < end, f"{path} never got {names}"
        time.sleep(0.05)


def wait_for_threads():
    """Wait until no thread of a training of this process writes, whatever came of it."""
    for each in gc.get_objects():
        if isinstance(each, Checkpoints) and each._under_way is not None:
            wait([each._under_way])
        if isinstance(each, Writers) and each._thread is not None:
            wait([each._thread.submit(int)])  # after all that it was given


def delete(path):
    """Delete a directory once no thread is writing into it, which would fail the deletion."""
    wait_for_threads()
    shutil.rmtree(path)


def remains(path):
    """Return what unfinished saves left; a save in progress may remove it meanwhile."""
    names = [name for _, folders, files in os.walk(path) for name in [*folders, *files]]
    return [name for name in names if name.endswith((".tmp", ".old"))]


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    path = tmp_path_factory.mktemp("straight") / "run"
    history, said = train(path)
    assert not said and history.failures == {} == failures(path)
    return lines(path)


def check_whole(path, straight):
    """Check that a directory holds all of a run, which can be resumed."""
    assert lines(path) == straight
    assert {"run.json", "run.lock", "metrics.jsonl", "report.html"} <= set(os.listdir(path))
    assert Checkpoints(path / "checkpoints").load().content.clock.step == STEPS
    assert remains(path) == []
    history, _ = train(path, epochs=EPOCHS + 1)
    assert history.resumed_from.step == STEPS and history.clock.step == STEPS + STEPS_AN_EPOCH


# The directory.


def test_a_directory_that_is_deleted_is_made_again_whole(tmp_path, straight):
    path, found = tmp_path / "run", {}

    def look():
        wait_for(path, "checkpoints", "events")
        found["files"] = set(os.listdir(path))
        with pytest.raises(RunInUseError):
            RunLock(path)

    def until_found():
        wait_for(path, "run.json")

    history, said = train(
        path, At(step6=lambda: delete(path), step8=until_found, step12=look), tensorboard=True
    )

    assert [text.startswith(f"{path} was deleted in training") for text in said] == [True]
    assert found["files"] >= {"run.json", "run.lock", "metrics.jsonl", "checkpoints", "events"}
    assert history.failures == failures(path) == {"directory": {"failed": 1, "lost": 0}}
    check_whole(path, straight)


def test_a_directory_that_is_deleted_is_made_again_without_a_record_or_a_save(tmp_path):
    path = tmp_path / "run"
    acts = {
        "step2": lambda: delete(path),
        "step3": lambda: time.sleep(1.2),  # the writers look once a second
        "step5": lambda: wait_for(path, "run.json", "metrics.jsonl"),
        "step7": lambda: wait_for(path, "checkpoints"),  # a save was due at once
    }
    every = pg.Every(steps=10**6)
    history, said = train(path, At(**acts), record_every=None, save_every=every, epochs=2)

    assert len(said) == 1 and "was deleted in training" in said[0]
    assert history.failures["directory"]["failed"] == 1


@pytest.mark.parametrize("vanish", [delete, lambda path: path.rename(path.parent.parent / "old")])
def test_checkpoints_that_vanish_alone_are_said_and_made_again(tmp_path, straight, vanish):
    path = tmp_path / "run"

    history, said = train(path, At(step6=lambda: vanish(path / "checkpoints")))

    assert len(said) == 1 and "was deleted or renamed in training" in said[0]
    assert str(path / "checkpoints") in said[0]
    assert history.failures == failures(path) == {"directory": {"failed": 1, "lost": 0}}
    check_whole(path, straight)


def test_a_directory_that_is_renamed_is_followed(tmp_path, straight):
    path, new = tmp_path / "run", tmp_path / "elsewhere" / "better"
    new.parent.mkdir()

    history, said = train(path, At(step6=lambda: path.rename(new)), tensorboard=True)

    assert [text.startswith(f"{path} was renamed in training") for text in said] == [True]
    assert str(new) in said[0]
    assert not path.exists()
    assert history.failures == failures(new) == {"directory": {"failed": 1, "lost": 0}}
    check_whole(new, straight)


def test_a_directory_whose_parent_is_renamed_or_whose_link_changes_is_followed(tmp_path, straight):
    old, new, other = tmp_path / "old", tmp_path / "new", tmp_path / "other"
    old.mkdir(), other.mkdir()
    (tmp_path / "runs").symlink_to(old)

    def change():
        old.rename(new)
        (tmp_path / "runs").unlink()
        (tmp_path / "runs").symlink_to(other)

    _, said = train(tmp_path / "runs" / "run", At(step6=change))

    assert len(said) == 1 and f"continues in {new / 'run'}" in said[0]
    assert os.listdir(other) == []
    check_whole(new / "run", straight)


def test_a_relative_path_is_that_of_the_start(tmp_path, monkeypatch, straight):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")

    _, said = train(Path("run"), At(step6=lambda: os.chdir(tmp_path / "b")))

    assert said == [] and os.listdir(tmp_path / "b") == []
    check_whole(tmp_path / "a" / "run", straight)


def test_what_others_put_in_the_place_of_the_directory_is_not_touched(tmp_path, straight):
    path, found = tmp_path / "run", {}

    def replace():
        delete(path)
        path.mkdir()
        (path / "thesis.txt").write_text("precious\n")

    def look():
        found["files"] = os.listdir(path)
        delete(path)

    history, said = train(path, At(step6=replace, step15=look))

    assert found["files"] == ["thesis.txt"]
    assert "something else is in its place" in said[0] and "was deleted" in said[-1]
    assert len(said) == 2, said
    assert history.failures["metrics"]["failed"] >= 1
    assert history.failures["metrics"]["lost"] == 0
    assert history.failures["checkpoints"]["failed"] >= 1
    check_whole(path, straight)


def test_another_run_that_began_in_the_place_of_the_directory_is_not_touched(tmp_path):
    path, found = tmp_path / "run", {}

    def replace():
        delete(path)
        train(path, epochs=1)
        found["before"] = {p: p.read_bytes() for p in path.rglob("*") if p.is_file()}

    with pytest.raises(CheckpointSaveError, match="something else is in its place"):
        train(path, At(step6=replace))

    assert {p: p.read_bytes() for p in path.rglob("*") if p.is_file()} == found["before"]


@pytest.mark.parametrize("name", ["metrics.jsonl", "run.json"])
def test_a_file_that_is_deleted_is_written_again(tmp_path, straight, name):
    path = tmp_path / "run"

    _, said = train(path, At(step6=lambda: (path / name).unlink()))

    assert [text.startswith(f"{path / name} was deleted in training") for text in said] == [True]
    check_whole(path, straight)


def test_a_log_that_is_replaced_by_another_file_is_not_written_to(tmp_path, straight):
    path = tmp_path / "run"
    log = path / "metrics.jsonl"

    def replace():
        log.unlink()
        log.write_text("precious\n")

    def look():
        assert log.read_text() == "precious\n"
        log.unlink()

    history, said = train(path, At(step6=replace, step15=look))

    assert len(said) == 2 and "another file is in its place" in said[0]
    assert history.failures["metrics"]["lost"] == 0
    check_whole(path, straight)


# The system.


@pytest.mark.only_tensorflow
def test_a_temporary_folder_that_is_gone_ends_no_training(tmp_path, straight, monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    data = tf.data.Dataset.from_tensor_slices((ROWS, ROWS[:, :1])).shuffle(8, seed=1).batch(4)

    history, said = train(tmp_path / "run", data=data)

    assert said == [] and history.failures == {}
    again, _ = train(tmp_path / "run", data=data, epochs=EPOCHS + 1)
    assert again.resumed_from.step == STEPS


def limit(kind, value):
    import resource

    number = getattr(resource, kind)
    _, most = resource.getrlimit(number)
    resource.setrlimit(number, (most if value is None else value, most))


LIMITS = {
    "RLIMIT_NOFILE": (3, "Too many open files", "ulimit -n"),
    "RLIMIT_FSIZE": (200, "File too large", "free space"),
}


@pytest.mark.parametrize("kind", LIMITS)
def test_a_limit_of_the_system_is_said_once_and_counted_and_nothing_is_lost(
    tmp_path, straight, kind
):
    value, reason, fix = LIMITS[kind]
    path, found = tmp_path / "run", {}

    def impose():
        wait_for_threads()
        found["before"] = Checkpoints(path / "checkpoints").steps()
        limit(kind, value)

    def lift():
        limit(kind, None)
        found["after"] = Checkpoints(path / "checkpoints").steps()

    import resource

    before = resource.getrlimit(getattr(resource, kind))
    try:
        history, said = train(path, At(step5=impose, step15=lift), keep=None)
    finally:
        resource.setrlimit(getattr(resource, kind), before)

    assert len(said) == 1, said
    assert reason in said[0] and fix in said[0] and "Training continues" in said[0]
    assert set(found["before"]) <= set(found["after"])
    assert history.failures == failures(path)
    assert history.failures["checkpoints"]["failed"] >= 4
    assert all(counts["lost"] == 0 for counts in history.failures.values())
    check_whole(path, straight)


def test_a_cause_that_comes_again_after_it_was_over_is_said_again(tmp_path):
    acts = {f"step{at}": lambda: limit("RLIMIT_NOFILE", 3) for at in (3, 11)}
    acts |= {f"step{at}": lambda: limit("RLIMIT_NOFILE", None) for at in (7, 15)}

    _, said = train(tmp_path / "run", At(**acts))

    assert len(said) == 2 and all("Too many open files" in text for text in said)


def test_a_strict_run_ends_at_the_first_failure_without_waiting_for_the_next_save(tmp_path):
    ended = []

    def impose():
        limit("RLIMIT_FSIZE", 200)

    class Last(pg.Hook):
        def on_end(self, event):
            limit("RLIMIT_FSIZE", None)
            ended.append(event.clock.step)

    every = pg.Every(steps=4)
    try:
        with pytest.raises(CheckpointSaveError, match="File too large"):
            train(
                tmp_path / "run",
                At(step3=impose, step5=wait_for_threads),  # that of step 4 fails
                Last(),
                strict=True,
                record_every=None,
                save_every=every,
            )
    finally:
        limit("RLIMIT_FSIZE", None)
    assert ended and ended[0] <= 6


def on_a_disk(disk, seconds_that_fail):
    """Train on a disk of this process, a part of which may only be read for a while."""
    small_disk.mount(disk, 4096)
    path, found = disk / "run", {}
    part = path / "checkpoints"

    def freeze():
        wait_for_threads()
        found["part"] = part / f"step-{2:08d}" if seconds_that_fail == "removal" else part
        small_disk.freeze(found["part"])

    def thaw():
        found["steps"] = Checkpoints(part).steps()
        small_disk.thaw(found["part"])

    history, said = train(path, At(step3=freeze, step15=thaw), keep=2)
    steps = Checkpoints(part).steps()
    return (
        said,
        {name: dict(each) for name, each in history.failures.items()},
        found["steps"],
        (
            steps,
            failures(path),
            remains(path),
            [line[:3] for line in lines(path)],  # another process may round otherwise
        ),
    )


@pytest.fixture(scope="module")
def disks(tmp_path_factory):
    if sys.platform != "linux":
        pytest.skip("no disk can be mounted here")
    folder = tmp_path_factory.mktemp("disk")
    if run_apart(folder, small_disk.mount, folder / "disk", 4).code != 0:
        pytest.skip("no disk can be mounted here")


@pytest.mark.process
@pytest.mark.once
def test_a_place_that_may_only_be_read_for_a_while_costs_its_saves_only(tmp_path, straight, disks):
    said, counts, _, rest = run_apart(tmp_path, on_a_disk, tmp_path / "disk", "saves").returned()
    steps, written, left, logged = rest

    assert len(said) == 1 and "Read-only file system" in said[0] and "make the dir" in said[0]
    assert counts == written and counts["checkpoints"]["failed"] >= 4
    assert steps[-1] == STEPS and left == []
    assert logged == [list(line[:3]) for line in straight]


@pytest.mark.process
@pytest.mark.once
def test_an_old_checkpoint_that_cannot_be_removed_is_no_failed_save(tmp_path, disks):
    said, counts, then, rest = run_apart(
        tmp_path, on_a_disk, tmp_path / "disk", "removal"
    ).returned()
    steps, written, left, _ = rest

    assert len(said) == 1 and said[0].startswith("Old checkpoints in")
    assert list(counts) == ["old checkpoints"] and counts == written
    assert 2 in then and len(then) > 2  # the new ones are there
    assert 2 not in steps and len(steps) == 2 and left == []  # it went when that was possible


# What remains of killed processes, and the order of writing.


def test_remains_of_a_killed_process_are_removed_and_nothing_else(tmp_path):
    path, hex_ = tmp_path / "run", "0" * 32
    train(path, epochs=1)
    own = [f"{name}.{hex_}.tmp" for name in ("run.json", "metrics.jsonl", REPORT)][::2]
    foreign = [f"{REPORT}.tmp", f"thesis.html.{hex_}.tmp", f"{REPORT}.{hex_}.tmp.bak"]
    for name in own + foreign:
        (path / name).write_text("<")

    train(path, epochs=2)

    assert not any((path / name).exists() for name in own)
    assert all((path / name).exists() for name in foreign)


def test_a_checkpoint_gets_its_name_only_when_what_its_facts_wait_for_is_known(tmp_path):
    pending: Future[dict[str, int]] = Future()
    facts = {"logs": {"metrics": pending}}
    saved = Content(Clock(3, 0, 3), {"w": np.ones(2)}, facts, {})
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        checkpoints.save(saved, background=True)
        time.sleep(0.2)
        assert checkpoints.steps() == []

        pending.set_result({"size_bytes": 7})
        checkpoints.wait()

        assert checkpoints.load().content.facts == {"logs": {"metrics": {"size_bytes": 7}}}


def test_a_checkpoint_whose_facts_never_come_is_not_saved_and_the_error_comes_out(tmp_path):
    pending: Future[int] = Future()
    pending.set_exception(KeyError("mistake"))
    saved = Content(Clock(3, 0, 3), {"w": np.ones(2)}, {"logs": pending}, {})
    checkpoints = Checkpoints(tmp_path / "checkpoints")

    with pytest.raises(KeyError, match="mistake"):
        checkpoints.save(saved)

    assert checkpoints.steps() == [] and remains(tmp_path) == []
