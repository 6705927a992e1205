"""One process writes to a run: a living one is left alone, a dead one is no obstacle."""

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from perigee._errors import FileKindError, RunInUseError
from perigee.checkpoints import RunLock, lock
from perigee.checkpoints.lock import Process

TIMEOUT_SECS = 60

# Takes the lock as the module here does, with no framework behind it.
HOLDER = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("lock", sys.argv[1])
lock = importlib.util.module_from_spec(spec)
sys.modules["lock"] = lock
spec.loader.exec_module(lock)
if sys.argv[3] == "file":
    lock.fcntl = None
held = lock.RunLock(sys.argv[2])
child = os.fork() if sys.argv[4] == "forks" else None
if child == 0:
    print(os.getpid(), flush=True)
    sys.stdin.read()
    os._exit(0)
if child is None:
    print(os.getpid(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(params=["system", "file"])
def by(request, monkeypatch):
    """How the lock is held: by the system, or by what the file says."""
    if request.param == "file":
        monkeypatch.setattr(lock, "fcntl", None)
    return request.param


@pytest.fixture
def holder(tmp_path):
    """Start a process that takes the lock; it ends with the test."""
    started = []

    def start(by, forks="stays"):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLDER, lock.__file__, tmp_path, by, forks],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process, int(process.stdout.readline())

    yield start
    for process in started:
        process.kill()
        process.stdin.close()  # a child of it ends then
        process.stdout.close()
        process.wait(TIMEOUT_SECS)


@pytest.mark.sample
@pytest.mark.process
def test_a_run_that_is_written_to_is_refused(tmp_path, by, holder):
    _, pid = holder(by)

    with pytest.raises(RunInUseError) as caught:
        RunLock(tmp_path)

    assert (caught.value.pid, caught.value.host) == (pid, socket.gethostname())
    assert str(pid) in str(caught.value)


def test_the_same_process_holds_it_once(tmp_path, by):
    with RunLock(tmp_path), pytest.raises(RunInUseError):
        RunLock(tmp_path)
    with RunLock(tmp_path):
        pass


@pytest.mark.process
def test_a_lock_goes_with_a_process_that_is_killed(tmp_path, by, holder):
    process, _ = holder(by)
    process.send_signal(signal.SIGKILL)
    process.wait(TIMEOUT_SECS)

    with RunLock(tmp_path):
        assert (tmp_path / "run.lock").is_file()


@pytest.mark.process
def test_a_child_that_outlives_it_does_not_keep_the_lock(tmp_path, by, holder):
    process, child = holder(by, "forks")
    process.send_signal(signal.SIGKILL)
    process.wait(TIMEOUT_SECS)
    os.kill(child, 0)  # it lives

    RunLock(tmp_path).release()


@pytest.mark.process
def test_a_child_does_not_release_it(tmp_path, by):
    held = RunLock(tmp_path)
    child = os.fork()
    if child == 0:
        held.release()
        os._exit(0)
    os.waitpid(child, 0)

    with pytest.raises(RunInUseError):
        RunLock(tmp_path)
    held.release()


def test_a_released_lock_is_free_and_released_once(tmp_path, by):
    held = RunLock(tmp_path)
    held.release()
    other = RunLock(tmp_path)
    held.release()

    with pytest.raises(RunInUseError):
        RunLock(tmp_path)
    other.release()


def test_a_lock_is_not_lost_with_the_object(tmp_path, by):
    RunLock(tmp_path)

    with pytest.raises(RunInUseError):
        RunLock(tmp_path)


def test_the_directory_is_made(tmp_path, by):
    with RunLock(tmp_path / "runs" / "digits"):
        pass


def written(tmp_path, **changed):
    me = Process.current()
    said = {"pid": me.pid, "host": me.host, "began": me.began, **changed}
    (tmp_path / "run.lock").write_text(json.dumps(said))


def dead_pid():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def without_locks(monkeypatch):
    monkeypatch.setattr(lock, "fcntl", None)


@pytest.mark.usefixtures("without_locks")
def test_a_number_that_was_given_to_another_process_is_no_obstacle(tmp_path):
    written(tmp_path, began="another boot+12")

    RunLock(tmp_path).release()


@pytest.mark.process
@pytest.mark.usefixtures("without_locks")
def test_a_process_of_another_machine_counts_as_living(tmp_path):
    written(tmp_path, host="elsewhere", pid=dead_pid())

    with pytest.raises(RunInUseError, match=r"elsewhere[\s\S]*delete .*run\.lock"):
        RunLock(tmp_path)


@pytest.mark.process
@pytest.mark.usefixtures("without_locks")
def test_of_two_that_find_it_stale_one_gets_it(tmp_path, monkeypatch):
    written(tmp_path, pid=dead_pid())
    found = Process.may_live

    def meanwhile(process):
        monkeypatch.setattr(Process, "may_live", found)
        written(tmp_path)  # the other one was faster
        return False

    monkeypatch.setattr(Process, "may_live", meanwhile)
    with pytest.raises(RunInUseError):
        RunLock(tmp_path)

    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()
    assert [path.name for path in tmp_path.iterdir()] == ["run.lock"]


@pytest.mark.parametrize(
    "said",
    ["", "{", '{"pid', "\0" * 80, '{"pid": 1}', '{"pid": true, "host": "x", "began": ""}'],
)
def test_a_file_that_says_nothing_is_no_obstacle(tmp_path, by, said):
    (tmp_path / "run.lock").write_text(said)

    with RunLock(tmp_path):
        assert json.loads((tmp_path / "run.lock").read_text())["pid"] == os.getpid()


@pytest.mark.parametrize("said", ["[]", "null", "a thesis\n", "[" * 5000, '{"name": "lock"}'])
def test_a_file_that_no_lock_has_written_is_refused_and_kept(tmp_path, by, said):
    (tmp_path / "run.lock").write_text(said)

    with pytest.raises(FileKindError, match=r"run\.lock is not a file of Perigee"):
        RunLock(tmp_path)

    assert (tmp_path / "run.lock").read_text() == said


@pytest.mark.parametrize("there", [True, False], ids=["to a file", "to nothing"])
def test_a_link_is_refused_and_not_followed(tmp_path, by, there):
    mine = tmp_path / "thesis.txt"
    if there:
        mine.write_text("")
    (tmp_path / "run.lock").symlink_to(mine)

    with pytest.raises(FileKindError, match=r"run\.lock is a link to .*thesis\.txt"):
        RunLock(tmp_path)

    assert (mine.exists() and mine.read_text()) == ("" if there else False)


def test_a_pipe_or_a_directory_is_refused(tmp_path, by):
    for make in (os.mkfifo, os.mkdir):
        path = tmp_path / make.__name__
        path.mkdir()
        make(path / "run.lock")
        with pytest.raises(FileKindError, match="pipe" if make is os.mkfifo else "directory"):
            RunLock(path)


def test_a_lock_that_is_removed_leaves_no_directory_and_one_with_files_stays(tmp_path, by):
    RunLock(tmp_path / "run").release(removes=True)
    assert not (tmp_path / "run").exists()

    held = RunLock(tmp_path / "run")
    (tmp_path / "run" / "notes.txt").write_text("keep")
    held.release(removes=True)

    assert [path.name for path in (tmp_path / "run").iterdir()] == ["notes.txt"]


def test_what_the_file_says_counts_for_nothing_where_the_system_has_locks(tmp_path):
    written(tmp_path, host="elsewhere")  # such as a container of another name, which was killed

    RunLock(tmp_path).release()


@pytest.mark.usefixtures("without_locks")
def test_a_file_system_without_locks_is_told_from_a_lock_that_is_held(tmp_path, monkeypatch):
    class NoLocks:
        LOCK_EX = LOCK_NB = 0

        @staticmethod
        def flock(file, operation):
            raise OSError("no locks here")

    monkeypatch.setattr(lock, "fcntl", NoLocks)
    with RunLock(tmp_path), pytest.raises(RunInUseError):
        RunLock(tmp_path)
    RunLock(tmp_path).release()
