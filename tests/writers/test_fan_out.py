"""A writer that fails: training goes on, it is said and counted, and no file is corrupted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from perigee._errors import RunExistsError, WriterError
from perigee._events.clock import Clock
from perigee._events.events import Ended, Hook, Recorded, Started
from perigee.writers import JsonLines, RunDirectory, Writers, fan_out
from tests.writers import reading
from tests.writers.pretended import SOURCE, open_writers

FULL = "No space left on device"


class Unsteady(Hook):
    """Fails while `is_full`; keeps what it takes."""

    def __init__(self):
        self.is_full = False
        self.steps, self.calls = [], []

    def _check(self, call):
        self.calls.append(call)
        if self.is_full:
            raise OSError(28, FULL)

    def on_start(self, event):
        self._check("start")

    def on_record(self, event):
        self._check("record")
        self.steps.append(event.clock.step)

    def on_end(self, event):
        self._check("end")

    def state(self):
        self._check("state")
        return {"count": len(self.steps)}

    def load_state(self, state):
        self.loaded = state


def started(clock=None):
    return Started(None, clock or Clock(), 1, None, 200, 0.0)


def ended(step=9, reason="epochs"):
    return Ended(Clock(step, 1, 0), reason, 1.0)


def record(step, scope="steps", prefix=""):
    values = {f"{prefix}loss": 1 / step, f"{prefix}accuracy": step / 7}
    return Recorded(Clock(step, 0, step), scope, values, lambda reason: None, step / 10)


def run_json(path):
    return json.loads((path / "run.json").read_text())


def test_the_directory_hears_of_the_start_first_and_of_the_end_last(tmp_path):
    heard = []

    class Noting(RunDirectory):
        def on_start(self, event):
            heard.append("directory starts")

        def on_end(self, event):
            heard.append("directory ends")

    class Writing(Hook):
        def on_start(self, event):
            heard.append("writer starts")

        def on_end(self, event):
            heard.append("writer ends")

    writers = Writers({"one": Writing()}, directory=Noting(tmp_path))
    writers.on_start(started())
    writers.on_end(ended())
    assert heard == ["directory starts", "writer starts", "writer ends", "directory ends"]


def test_a_writer_that_cannot_begin_raises_before_anything_is_lost(tmp_path):
    writer = Unsteady()
    writer.is_full = True
    with pytest.raises(OSError, match=FULL):
        Writers({"one": writer}).on_start(started())


def test_a_run_that_exists_is_refused(tmp_path):
    directory = RunDirectory(tmp_path)
    RunDirectory(tmp_path).on_start(started())
    with pytest.raises(RunExistsError):
        Writers({"metrics": JsonLines(tmp_path)}, directory=directory).on_start(started())
    assert os.listdir(tmp_path) == ["run.json"]


def test_records_of_the_time_when_it_failed_are_written_in_order_when_it_can(tmp_path):
    bad, good = Unsteady(), Unsteady()
    writers = Writers({"bad": bad, "good": good}, directory=RunDirectory(tmp_path))
    writers.on_start(started())
    writers.on_record(record(1))
    bad.is_full = True
    with pytest.warns(RuntimeWarning, match=f"'bad' failed after step 2: .*{FULL}") as warned:
        for step in (2, 3, 4):
            writers.on_record(record(step))
    assert len(warned) == 1  # said once
    assert (bad.steps, good.steps) == ([1], [1, 2, 3, 4])
    bad.is_full = False
    writers.on_record(record(5))
    assert bad.steps == good.steps == [1, 2, 3, 4, 5]
    writers.on_end(ended())
    assert run_json(tmp_path)["failures"] == {"bad": {"failed": 3, "lost": 0}}


def test_a_second_failure_is_said_again():
    writer = Unsteady()
    writers = Writers({"one": writer})
    writers.on_start(started())
    for step in (1, 3):
        writer.is_full = True
        with pytest.warns(RuntimeWarning, match=f"after step {step}"):
            writers.on_record(record(step))
        writer.is_full = False
        writers.on_record(record(step + 1))
    assert writer.steps == [1, 2, 3, 4]


def test_what_never_could_be_written_is_counted_and_said_at_the_end(tmp_path):
    writer = Unsteady()
    writers = Writers({"one": writer}, directory=RunDirectory(tmp_path))
    writers.on_start(started())
    writer.is_full = True
    with pytest.warns(RuntimeWarning, match="failed after step 1"):
        writers.on_record(record(1))
        writers.on_record(record(2))
    with pytest.warns(RuntimeWarning, match="'one' lost 2 records"):
        writers.on_end(ended())
    assert run_json(tmp_path)["failures"] == {"one": {"failed": 4, "lost": 2}}
    assert run_json(tmp_path)["stop_reason"] == "epochs"
    assert writer.calls[-1] == "end"


def test_what_waits_is_written_at_the_end_if_that_is_possible_by_then(tmp_path):
    writer = Unsteady()
    writers = Writers({"one": writer}, directory=RunDirectory(tmp_path))
    writers.on_start(started())
    writer.is_full = True
    with pytest.warns(RuntimeWarning, match="failed"):
        writers.on_record(record(1))
    writer.is_full = False
    writers.on_end(ended())
    assert writer.steps == [1]
    assert run_json(tmp_path)["failures"] == {"one": {"failed": 1, "lost": 0}}


def test_what_waits_is_bounded_and_the_oldest_go(monkeypatch):
    most = 3
    monkeypatch.setattr(fan_out, "MOST_WAITING", most)
    writer = Unsteady()
    writers = Writers({"one": writer})
    writers.on_start(started())
    writer.is_full = True
    with pytest.warns(RuntimeWarning, match=f"at most {most}"):
        for step in range(1, 6):
            writers.on_record(record(step))
    writer.is_full = False
    writers.on_record(record(6))
    assert writer.steps == [4, 5, 6]
    assert writers.failures == {"one": {"failed": 5, "lost": 3}}


def test_strict_writers_end_the_training_with_the_reason_of_the_system(tmp_path):
    first, second = Unsteady(), Unsteady()
    writers = Writers(
        {"first": first, "second": second}, directory=RunDirectory(tmp_path), is_strict=True
    )
    writers.on_start(started())
    first.is_full = True
    with pytest.raises(WriterError, match=FULL) as caught:
        writers.on_record(record(7))
    assert (caught.value.name, caught.value.step) == ("first", 7)
    assert isinstance(caught.value, OSError)
    assert isinstance(caught.value.__cause__, OSError)
    with pytest.warns(RuntimeWarning, match="lost 1"), pytest.raises(WriterError):
        writers.on_end(ended(reason="error: WriterError"))
    assert second.calls[-1] == "end"
    assert run_json(tmp_path)["failures"]["first"]["lost"] == 1


def test_an_exception_that_is_no_failure_of_the_system_comes_out():
    class Wrong(Hook):
        def on_record(self, event):
            raise KeyError("mistake")

    writers = Writers({"one": Wrong()})
    writers.on_start(started())
    with pytest.raises(KeyError, match="mistake"):
        writers.on_record(record(1))


def test_a_run_file_that_cannot_be_written_at_the_end_is_said_and_the_old_one_stays(
    tmp_path, monkeypatch
):
    writers = Writers({}, directory=RunDirectory(tmp_path))
    writers.on_start(started())
    before = (tmp_path / "run.json").read_bytes()

    def full(descriptor):
        raise OSError(28, FULL)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(RuntimeWarning, match=r"'run\.json' failed"):
        writers.on_end(ended())
    assert (tmp_path / "run.json").read_bytes() == before
    assert os.listdir(tmp_path) == ["run.json"]


def test_the_states_of_all_writers_come_back_by_name():
    saved = Writers({"one": Unsteady(), "gone": Unsteady()})
    saved.on_start(started())
    saved.on_record(record(1))
    state = json.loads(json.dumps(saved.state()))
    one, new = Unsteady(), Unsteady()
    Writers({"new": new, "one": one}).load_state(state)
    assert one.loaded == {"count": 1}
    assert not hasattr(new, "loaded")


def test_a_writer_that_cannot_flush_promises_what_it_did_before():
    writer = Unsteady()
    writers = Writers({"one": writer})
    writers.on_start(started())
    writers.on_record(record(1))
    assert writers.state()["one"]["writer"] == {"count": 1}
    writers.on_record(record(2))
    writer.is_full = True
    with pytest.warns(RuntimeWarning, match="failed after step 2"):
        assert writers.state()["one"]["writer"] == {"count": 1}


def test_records_that_waited_at_a_checkpoint_count_as_lost_for_who_goes_on_from_it():
    writer = Unsteady()
    writers = Writers({"one": writer})
    writers.on_start(started())
    writer.is_full = True
    with pytest.warns(RuntimeWarning, match="failed"):
        writers.on_record(record(1))
    writer.is_full = False
    again = Writers({"one": Unsteady()})
    again.load_state(writers.state())
    assert again.failures == {"one": {"failed": 1, "lost": 1}}
    writers.on_record(record(2))
    assert writers.failures == {"one": {"failed": 1, "lost": 0}}


RECORDS = [
    each
    for step in range(1, 121)
    for each in (record(step), record(step, "validation", prefix="val_"))
]


def tell(writers, records):
    for each in records:
        writers.on_record(each)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    directory = tmp_path_factory.mktemp("straight")
    writers = open_writers(directory)
    writers.on_start(started())
    tell(writers, RECORDS)
    writers.on_end(ended())
    return directory


def check_like(directory, straight):
    assert reading.lines(directory) == reading.lines(straight)
    assert reading.scalars(directory) == reading.scalars(straight)
    assert (directory / "metrics.csv").read_bytes() == (straight / "metrics.csv").read_bytes()


@pytest.fixture
def disk(tmp_path):
    """A small disk of its own."""
    directory = tmp_path / "disk"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(directory)]
    try:
        is_mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        is_mounted = False
    if not is_mounted:
        pytest.skip("may not mount a file system")
    yield directory
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def fill(disk):
    with (disk / "ballast").open("wb", buffering=0) as file, pytest.raises(OSError, match=FULL):
        while True:
            file.write(bytes(4096))


@pytest.mark.parametrize("point", range(0, 200, 10))
def test_a_disk_that_is_full_for_a_while_loses_nothing(disk, straight, point):
    run = disk / "run"
    writers = open_writers(run)
    writers.on_start(started())
    tell(writers, RECORDS[:point])
    fill(disk)
    with pytest.warns(RuntimeWarning, match=FULL):
        tell(writers, RECORDS[point:])
    for line in reading.lines(run):  # whole lines, also while the disk is full
        assert line["kind"] in ("steps", "validation")
    reading.scalars(run)
    (disk / "ballast").unlink()
    writers.on_end(ended())
    check_like(run, straight)
    facts = run_json(run)
    assert (facts["state"], facts["stop_reason"]) == ("ended", "epochs")
    assert {counts["lost"] for counts in facts["failures"].values()} == {0}
    assert not list(run.rglob("*.tmp"))


def test_a_disk_that_stays_full_leaves_whole_records_and_the_counts_are_said(disk, straight):
    run = disk / "run"
    writers = open_writers(run)
    writers.on_start(started())
    tell(writers, RECORDS[:20])
    fill(disk)
    with pytest.warns(RuntimeWarning) as warned:
        tell(writers, RECORDS[20:])
        writers.on_end(ended())
    said = " ".join(str(each.message) for each in warned)
    whole = reading.lines(straight)
    found = reading.lines(run)
    assert found == whole[: len(found)]
    assert f"'metrics' lost {len(whole) - len(found)} records" in said
    assert said.count("No space left") == 1  # one warning for one cause
    assert writers.failures["run.json"]["failed"] == 1
    assert run_json(run)["state"] == "running"  # the last that could be written
    assert not list(run.rglob("*.tmp"))
    points = reading.scalars(run)[("train", "batch_loss")]
    assert points == reading.scalars(straight)[("train", "batch_loss")][: len(points)]


LIMITED = """
import resource, sys, warnings
from pathlib import Path
from tests.writers.test_fan_out import RECORDS, ended, open_writers, started, tell
warnings.simplefilter("ignore")
directory, limit_bytes = Path(sys.argv[1]), int(sys.argv[2])
writers = open_writers(directory)
writers.on_start(started())
_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, most))
tell(writers, RECORDS)
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
writers.on_end(ended())
sys.exit(0 if writers.failures else 1)
"""


@pytest.mark.process
@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("limit_bytes", [1, 701, 5003])
def test_a_limit_that_cuts_records_in_two_leaves_no_half_of_one(tmp_path, straight, limit_bytes):
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(tmp_path / "run"), str(limit_bytes)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(SOURCE), str(root)])},
        check=False,
    )
    assert done.returncode == 0
    check_like(tmp_path / "run", straight)
