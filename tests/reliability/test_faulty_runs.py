"""What fails during a training costs no checkpoint, is told, and the run goes on exactly."""

import errno
import itertools
import json
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import keras
import pytest

import perigee as pg
from perigee._errors import CheckpointSaveError, NonFiniteError, RunInUseError
from perigee.checkpoints import Checkpoints
from tests.reliability import small_disk, trainings
from tests.reliability.processes import Child, run
from tests.reliability.trainings import STEPS_AN_EPOCH, Case, KillAtStep, train

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked"),
]

CASE = Case("list", mode="eager")
AT = STEPS_AN_EPOCH + 3
DISK_KB = 1024
PAGE = 4096
FULL_FROM, FREE_FROM = 6, 14
"""Steps between which the disk is full; a save is due in between."""


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return run(folder, train, str(folder / "run"), CASE).returned()


# A full disk


@pytest.fixture(autouse=True, scope="module")
def disks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("disk")
    return run(folder, small_disk.mount, folder / "disk", 4).code == 0


class FullDisk(pg.Hook):
    """Fills the disk for a while, and looks at what is left there in the end."""

    every = pg.Every(steps=1)

    def __init__(self, disk, left_bytes, until=FREE_FROM):
        self.disk, self.left_bytes, self.until = disk, left_bytes, until
        self.filler, self.before, self.found = None, [], None

    def on_steps(self, event):
        checkpoints = Checkpoints(self.disk / "run" / "checkpoints")
        if event.clock.step == FULL_FROM:
            self.filler = small_disk.fill(self.disk, self.left_bytes)
            self.before = checkpoints.steps()
        if event.clock.step == self.until:
            self.found = {
                "before": self.before,
                "intact": [checkpoints.load(step).content.clock.step for step in self.before],
                "remains": [p.name for p in checkpoints.directory.iterdir() if p.suffix],
            }
            self.filler.unlink()


def on_full_disks(disk, rooms):
    """Train on a disk of this process; see `trained_for_each`."""
    small_disk.mount(disk, DISK_KB)
    return trained_for_each(disk, rooms)


def trained_for_each(disk, rooms):
    """Train once for each room that may be left: how many bytes, and until which step."""
    found = []
    for left_bytes, until in rooms:
        hook = FullDisk(disk, left_bytes, until)
        outcome = train(str(disk / "run"), CASE, None, (hook,), run={"keep": None, "best": None})
        failures = json.loads((disk / "run/run.json").read_text())["failures"]
        found.append([outcome, hook.found, failures])
        shutil.rmtree(disk / "run")
    return found


@pytest.mark.once  # files are written the same way everywhere
def test_a_training_outlives_a_full_disk(tmp_path, straight, disks):
    if not disks:
        pytest.skip("no disk can be mounted here")
    rooms = [(pages * PAGE, FREE_FROM) for pages in (0, 1, 3, 6)]

    ended = run(tmp_path, on_full_disks, tmp_path / "disk", rooms)

    for outcome, found, failures in ended.returned():
        assert outcome == straight
        assert found["before"] and found["intact"] == found["before"]
        assert found["remains"] == []
        assert failures["checkpoints"]["failed"] >= 1
    assert len(ended.returned()) == len(rooms)
    assert ended.output.count("could not be written: No space left on device") >= len(rooms)
    assert ended.output.count("Training continues.") >= len(rooms)


@pytest.mark.once  # files are written the same way everywhere
def test_a_save_in_the_background_that_failed_does_not_keep_the_last_one_back(
    tmp_path, straight, disks
):
    if not disks:
        pytest.skip("no disk can be mounted here")

    until = straight["clock"]["step"]
    [[outcome, _, failures]] = run(
        tmp_path, on_full_disks, tmp_path / "disk", [(0, until)]
    ).returned()

    assert outcome == straight
    assert failures["checkpoints"]["failed"] >= 1


POINTS = 20


def at_points(disk, points):
    """Train with each room that may be left, from none to more than a checkpoint takes."""
    small_disk.mount(disk, DISK_KB)
    train(str(disk / "sized"), CASE)
    [*_, newest] = sorted((disk / "sized" / "checkpoints").iterdir())
    needed = sum(file.stat().st_size for file in newest.rglob("*") if file.is_file())
    shutil.rmtree(disk / "sized")
    room = needed + 4 * PAGE
    return trained_for_each(disk, [(room * point // points, FREE_FROM) for point in range(points)])


@pytest.mark.slow
@pytest.mark.once  # the writers are the same everywhere
def test_a_training_outlives_a_disk_that_is_full_at_any_of_20_points(tmp_path, straight, disks):
    if not disks:
        pytest.skip("no disk can be mounted here")

    ended = run(tmp_path, at_points, tmp_path / "disk", POINTS)

    failed = 0
    for outcome, found, failures in ended.returned():
        assert outcome == straight
        assert found["before"] and found["intact"] == found["before"]
        assert found["remains"] == []
        failed += "checkpoints" in failures
    assert len(ended.returned()) == POINTS and failed >= POINTS // 2
    print(f"{POINTS} points, at {failed} of them a save failed")


class ReadOnly(pg.Hook):
    every = pg.Every(steps=FULL_FROM)

    def __init__(self, disk):
        self.disk = disk

    def on_steps(self, event):
        if event.clock.step == FULL_FROM:
            small_disk.freeze(self.disk / "run" / "checkpoints")


def on_read_only_disk(disk):
    """Return what is said of a disk that cannot be written to: from the start, and in mid-run."""
    small_disk.mount(disk, DISK_KB)
    said, path = [], str(disk / "run")
    for hooks, frozen in (((), disk), ((ReadOnly(disk),), disk / "run" / "checkpoints")):
        if not hooks:
            small_disk.freeze(disk)
        try:
            train(path, CASE, None, hooks)
        except OSError as error:
            said.append([type(error).__name__, error.errno, str(error)])
        small_disk.thaw(frozen)
    return said, Checkpoints(disk / "run/checkpoints").steps(), train(path, CASE)


@pytest.mark.once  # files are written the same way everywhere
def test_a_disk_that_may_only_be_read_is_refused_or_ends_in_an_error_and_costs_nothing(
    tmp_path, straight, disks
):
    if not disks:
        pytest.skip("no disk can be mounted here")

    ended = run(tmp_path, on_read_only_disk, tmp_path / "disk")

    (first, last), steps, outcome = ended.returned()
    assert first[1] == errno.EROFS and str(tmp_path / "disk" / "run") in first[2]
    assert last[:2] == ["CheckpointSaveError", errno.EROFS]
    assert "make the directory writable" in last[2]
    assert steps and max(steps) <= FULL_FROM
    assert outcome == straight


# A writer that dies


class Dies(pg.Hook):
    """Lets every write to `metrics.jsonl` fail from one step to another."""

    every = pg.Every(steps=1)

    def __init__(self, until):
        self.until = until

    def on_steps(self, event):
        if event.clock.step == FULL_FROM:
            links = {int(p.name): os.readlink(p) for p in Path("/proc/self/fd").iterdir()
                     if p.is_symlink()}  # fmt: skip
            [self.file] = [n for n, link in links.items() if link.endswith("metrics.jsonl")]
            self.kept = os.dup(self.file)
            with open("/dev/full", "wb") as full:
                os.dup2(full.fileno(), self.file)
        if event.clock.step == self.until:
            os.dup2(self.kept, self.file)


def with_a_dying_writer(path, until):
    outcome = train(path, CASE, None, (Dies(until),))
    return outcome, json.loads(Path(path, "run.json").read_text())["failures"]


@pytest.mark.once
@pytest.mark.parametrize("until", [FREE_FROM, 10**6], ids=["for a while", "for good"])
def test_a_training_outlives_a_writer_that_dies(tmp_path, straight, until):
    ended = run(tmp_path, with_a_dying_writer, str(tmp_path / "run"), until)

    outcome, failures = ended.returned()
    assert ended.output.count("The writer 'metrics' failed after step") == 1
    assert failures["metrics"]["failed"] >= 1
    if until == FREE_FROM:
        assert outcome == straight and failures["metrics"]["lost"] == 0
        return
    assert failures["metrics"]["lost"] >= 1
    assert {**outcome, "metrics": None} == {**straight, "metrics": None}
    kept = outcome["metrics"]
    assert kept and kept == straight["metrics"][: len(kept)]


def with_a_failing_save(disk, is_strict, until):
    """Return the error, what `run.json` says, and what the run comes to once there is room."""
    small_disk.mount(disk, DISK_KB)
    hook = FullDisk(disk, 0, until)
    try:
        train(str(disk / "run"), CASE, None, (hook,), run={"strict": is_strict})
    except CheckpointSaveError as error:
        said = error.code
    else:
        said = None
    hook.filler.unlink(missing_ok=True)
    steps = Checkpoints(disk / "run/checkpoints").steps()
    return said, steps, train(str(disk / "run"), CASE)


@pytest.mark.once
@pytest.mark.parametrize("is_strict", [True, False], ids=["any save, strictly", "the last save"])
def test_a_save_that_must_not_fail_ends_the_training_which_goes_on_later(
    tmp_path, straight, disks, is_strict
):
    if not disks:
        pytest.skip("no disk can be mounted here")

    code, steps, outcome = run(
        tmp_path, with_a_failing_save, tmp_path / "disk", is_strict, 10**6
    ).returned()

    assert code == "PG523"
    assert steps and max(steps) <= FULL_FROM
    assert outcome == straight


# Errors


class Raises:
    def __init__(self, error):
        self.error = error

    def __call__(self):
        raise self.error


def failing_callback(path):
    train(path, CASE, None, (KillAtStep(AT, Raises(ZeroDivisionError("mine"))),))


def failing_feed(path):
    drawn = itertools.count()

    def batches():
        for batch in trainings.feed(CASE):
            if next(drawn) == AT:
                raise ZeroDivisionError("mine")
            yield batch

    train(path, GENERATED, data=batches)


GENERATED = Case("generator", mode="eager")


def failing_step(path):
    batches = trainings.feed(CASE)
    x, y = batches[(AT - 1) % STEPS_AN_EPOCH]
    bad = [*batches]
    bad[(AT - 1) % STEPS_AN_EPOCH] = x * float("nan"), y

    class FromThere(pg.Hook):
        every = pg.Every(steps=1)

        def on_steps(self, event):
            if event.clock.step == STEPS_AN_EPOCH:
                batches[:] = bad

    train(path, CASE, None, (FromThere(),), data=batches)


def failing_memory(path):
    class TooMuch(pg.Hook):
        every = pg.Every(steps=1)

        def on_steps(self, event):
            if event.clock.step == AT:
                keras.ops.ones((10**8, 10**8))

    train(path, CASE, None, (TooMuch(),))


WITHOUT_MEMORY = {
    "tensorflow": "ResourceExhaustedError",
    "jax": "JaxRuntimeError",
    "torch": "RuntimeError",
}[keras.backend.backend()]


@pytest.mark.parametrize(
    "fails, case, error, code",
    [
        (failing_memory, CASE, WITHOUT_MEMORY, None),
        pytest.param(failing_callback, CASE, "ZeroDivisionError", None, marks=pytest.mark.once),
        pytest.param(failing_feed, GENERATED, "ZeroDivisionError", None, marks=pytest.mark.once),
        pytest.param(
            failing_step, CASE, "NonFiniteError", NonFiniteError.code, marks=pytest.mark.once
        ),
    ],
)
def test_after_an_error_the_last_checkpoint_stands_and_the_run_goes_on(
    tmp_path, straight, fails, case, error, code
):
    path = tmp_path / "run"

    failed = run(tmp_path, fails, str(path))

    assert failed.code == 1
    assert f"{error}" in failed.output and "While training with Perigee" in failed.output
    assert ("A smaller `batch_size`" in failed.output) == (fails is failing_memory)
    said = json.loads((path / "run.json").read_text())
    assert (said["state"], said["stop_reason"]) == ("ended", f"error: {error}")
    assert (said["error"]["class"], said["error"]["code"]) == (error, code)
    assert 0 < Checkpoints(path / "checkpoints").steps()[-1] < AT
    outcome = run(tmp_path, train, str(path), case).returned()
    if case != CASE:
        straight = run(tmp_path, train, str(tmp_path / "straight"), case).returned()
    assert outcome == straight


# Two processes


def hanging(path, started):
    def hang():
        Path(started).touch()
        time.sleep(600)

    train(path, CASE, None, (KillAtStep(AT, hang),))


def refused(path):
    try:
        train(path, CASE)
    except RunInUseError as error:
        return [error.pid, str(error)]


@pytest.mark.once  # files are written the same way everywhere
def test_a_run_that_another_process_writes_to_is_refused_until_that_is_gone(tmp_path, straight):
    path, started = str(tmp_path / "run"), tmp_path / "started"
    with Child(tmp_path, hanging, path, str(started)) as first:
        while not started.exists():
            assert first.is_running(), first.output()
            time.sleep(0.02)
        held = (tmp_path / "run" / "run.json").read_bytes()

        pid, said = run(tmp_path, refused, path).returned()

        assert pid == first.pid and str(pid) in said
        assert (tmp_path / "run" / "run.json").read_bytes() == held
        first.send(signal.SIGKILL)
        assert first.ending().was_killed()
    assert run(tmp_path, train, path, CASE).returned() == straight
