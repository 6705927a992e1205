"""A run directory is never taken twice, and `run.json` is whole at any time."""

import json
import multiprocessing
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from perigee import _version
from perigee._errors import MissingMethodError, RunExistsError, RunFileError
from perigee._events.clock import Clock
from perigee._events.events import Ended, Started
from perigee.writers import run_directory
from perigee.writers.run_directory import RunDirectory, read_run


def started(clock=None):
    return Started(
        step=None,
        clock=clock or Clock(),
        epochs=2,
        steps=None,
        steps_per_epoch=10,
        seconds=0.0,
    )


def ended(reason="epochs"):
    return Ended(clock=Clock(step=17, epoch=1, batch=7), reason=reason, seconds=3.5)


def stored(path):
    return json.loads((path / "run.json").read_text())


def tree(path):
    """Everything below `path`, with its content and the time of its last change."""
    return {
        str(each.relative_to(path)): (each.stat().st_mtime_ns, each.is_file() and each.read_bytes())
        for each in sorted(path.rglob("*"))
    }


@pytest.fixture
def git(monkeypatch):
    """Run git in a directory, untouched by the settings of this machine."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_SYSTEM", os.devnull)
    identity = ["-c", "user.name=Someone", "-c", "user.email=someone@example.com"]

    def run(directory, *arguments):
        done = subprocess.run(
            ["git", *identity, *arguments],
            cwd=directory,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    return run


def test_the_directory_is_made_with_its_parents(tmp_path):
    path = tmp_path / "runs" / "digits"
    assert RunDirectory(path).path == path
    assert path.is_dir()
    assert list(path.iterdir()) == []


def test_a_directory_with_other_things_in_it_is_taken(tmp_path):
    (tmp_path / "notes.txt").write_text("keep")
    directory = RunDirectory(tmp_path)
    directory.on_start(started())
    assert (tmp_path / "notes.txt").read_text() == "keep"
    assert stored(tmp_path)["state"] == "running"


@pytest.mark.parametrize("mark", ["run.json", "metrics.jsonl"])
def test_a_directory_that_holds_a_run_is_refused_and_nothing_changes(tmp_path, mark):
    (tmp_path / mark).write_text("{}\n")
    before = tree(tmp_path)
    with pytest.raises(RunExistsError) as caught:
        RunDirectory(tmp_path)
    assert caught.value.path == str(tmp_path)
    assert caught.value.found == mark
    assert tree(tmp_path) == before


def test_a_finished_run_is_refused(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.on_start(started())
    directory.on_end(ended())
    with pytest.raises(RunExistsError):
        RunDirectory(tmp_path)


def test_of_two_that_found_the_directory_empty_only_the_first_starts(tmp_path):
    first, second = RunDirectory(tmp_path, seed=1), RunDirectory(tmp_path, seed=2)
    first.on_start(started())
    before = tree(tmp_path)
    with pytest.raises(RunExistsError):
        second.on_start(started())
    second.on_end(ended("error: RunExistsError"))
    assert tree(tmp_path) == before


def test_of_two_without_hard_links_only_the_first_starts(tmp_path, monkeypatch):
    def no_links(source, target):
        raise PermissionError("no hard links here")

    monkeypatch.setattr(os, "link", no_links)
    first, second = RunDirectory(tmp_path, seed=1), RunDirectory(tmp_path, seed=2)
    first.on_start(started())
    with pytest.raises(RunExistsError):
        second.on_start(started())
    assert stored(tmp_path)["seed"] == 1
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_the_start_says_what_is_needed_to_run_it_again(tmp_path, monkeypatch):
    command = ["python", "-O", "train.py", "--epochs", "2"]
    monkeypatch.setattr(sys, "orig_argv", command)
    began = datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone(timedelta(hours=2)))
    RunDirectory(tmp_path, backend="numpy", seed=7, now=lambda: began).on_start(started())
    facts = stored(tmp_path)
    assert facts["format_version"] == run_directory.FORMAT_VERSION
    assert facts["state"] == "running"
    assert facts["backend"] == "numpy"
    assert facts["seed"] == 7
    assert facts["command"] == command
    assert facts["started"] == "2026-01-02T01:04:05+00:00"
    assert facts["ended"] is facts["stop_reason"] is facts["seconds"] is None
    assert facts["clock"] == {"step": 0, "epoch": 0, "batch": 0}
    assert facts["versions"]["perigee"] == _version.__version__
    for package in ("keras", "numpy"):
        assert facts["versions"][package].count(".") >= 1


def test_a_child_of_multiprocessing_says_what_its_parent_was_called_with(tmp_path, monkeypatch):
    monkeypatch.setattr(multiprocessing, "parent_process", lambda: object())
    monkeypatch.setattr(sys, "orig_argv", ["python", "-c", "from multiprocessing..."])
    monkeypatch.setattr(sys, "argv", ["train.py", "--epochs", "2"])
    RunDirectory(tmp_path).on_start(started())
    assert stored(tmp_path)["command"] == [sys.executable, "train.py", "--epochs", "2"]


def test_start_end_and_seconds_agree(tmp_path):
    called = datetime(2026, 1, 1, 12, tzinfo=UTC)
    planning_secs, total_secs = 7.0, 60.0
    offsets = iter([planning_secs, total_secs])
    directory = RunDirectory(tmp_path, now=lambda: called + timedelta(seconds=next(offsets)))
    directory.on_start(replace(started(), seconds=planning_secs))
    directory.on_end(replace(ended(), seconds=total_secs))
    facts = stored(tmp_path)
    first, last = (datetime.fromisoformat(facts[name]) for name in ("started", "ended"))
    assert (last - first).total_seconds() == facts["seconds"] == total_secs


def test_the_end_says_when_why_and_where_and_keeps_the_rest(tmp_path):
    times = iter([datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)])
    directory = RunDirectory(tmp_path, seed=7, now=lambda: next(times))
    directory.on_start(started())
    at_start = stored(tmp_path)
    directory.on_end(ended("error: ValueError: ☃"))
    assert stored(tmp_path) == at_start | {
        "state": "ended",
        "ended": "2026-01-02T00:00:00+00:00",
        "stop_reason": "error: ValueError: ☃",
        "seconds": 3.5,
        "clock": {"step": 17, "epoch": 1, "batch": 7},
    }
    assert at_start["error"] is None


def test_the_same_directory_may_start_again_after_it_ended(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.on_start(started())
    directory.on_end(ended())
    directory.on_start(started(Clock(step=17, epoch=1, batch=7)))
    assert stored(tmp_path)["state"] == "running"
    assert stored(tmp_path)["clock"]["step"] == 17


def test_the_framework_version_is_that_of_the_loaded_module(tmp_path, monkeypatch):
    class Module:
        __version__ = "9.8.7"

    monkeypatch.setitem(sys.modules, "someframework", Module)
    RunDirectory(tmp_path, backend="someframework").on_start(started())
    assert stored(tmp_path)["versions"]["someframework"] == "9.8.7"


def test_a_framework_that_is_not_there_has_no_version(tmp_path):
    RunDirectory(tmp_path, backend="no-such-framework").on_start(started())
    assert stored(tmp_path)["versions"]["no-such-framework"] is None


def test_a_numpy_seed_is_a_number(tmp_path):
    numpy = pytest.importorskip("numpy")
    RunDirectory(tmp_path, seed=numpy.int64(3)).on_start(started())
    assert stored(tmp_path)["seed"] == 3


def test_a_crash_while_writing_leaves_the_old_file_and_nothing_beside_it(tmp_path, monkeypatch):
    directory = RunDirectory(tmp_path)
    directory.on_start(started())
    before = tree(tmp_path)

    def full(descriptor):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        directory.on_end(ended())
    assert tree(tmp_path) == before


def test_the_content_is_on_the_disk_before_it_gets_its_name_and_the_name_after(
    tmp_path, monkeypatch
):
    directory = RunDirectory(tmp_path)
    directory.on_start(started())
    happened = []
    flush, replace = os.fsync, os.replace

    def noted_flush(descriptor):
        is_directory = os.path.isdir(f"/proc/self/fd/{descriptor}")
        happened.append("directory" if is_directory else "file")
        flush(descriptor)

    def noted_replace(source, target):
        happened.append("replace")
        assert json.loads(source.read_text())["state"] == "ended"
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_flush)
    monkeypatch.setattr(os, "replace", noted_replace)
    directory.on_end(ended())
    assert happened == ["file", "replace", "directory"]


def test_a_path_through_a_file_gives_the_error_of_the_system(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError):
        RunDirectory(tmp_path / "file" / "run")


def test_a_path_that_is_a_file_gives_the_error_of_the_system(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError) as caught:
        RunDirectory(tmp_path / "file")
    assert not isinstance(caught.value, RunExistsError)


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere"
)
def test_a_directory_that_may_not_be_written_to_gives_the_error_of_the_system(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.path.chmod(0o500)
    try:
        with pytest.raises(PermissionError):
            directory.on_start(started())
    finally:
        directory.path.chmod(0o700)


def test_the_commit_is_that_of_the_checkout_around_the_working_directory(
    tmp_path, monkeypatch, git
):
    checkout = tmp_path / "checkout"
    (checkout / "below").mkdir(parents=True)
    git(checkout, "init", "--quiet")
    git(checkout, "commit", "--quiet", "--allow-empty", "--message", "first")
    monkeypatch.chdir(checkout / "below")
    RunDirectory(tmp_path / "run").on_start(started())
    assert stored(tmp_path / "run")["git_commit"] == git(checkout, "rev-parse", "HEAD")


def test_there_is_no_commit_before_the_first_one(tmp_path, monkeypatch, git):
    git(tmp_path, "init", "--quiet")
    monkeypatch.chdir(tmp_path)
    RunDirectory(tmp_path / "run").on_start(started())
    assert stored(tmp_path / "run")["git_commit"] is None


def test_there_is_no_commit_outside_a_checkout_or_without_git(tmp_path, monkeypatch, git):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path)
    RunDirectory(tmp_path / "outside").on_start(started())
    monkeypatch.setenv("PATH", "")
    RunDirectory(tmp_path / "without").on_start(started())
    assert stored(tmp_path / "outside")["git_commit"] is None
    assert stored(tmp_path / "without")["git_commit"] is None


def test_a_git_that_hangs_is_given_up(tmp_path, monkeypatch):
    hanging = tmp_path / "bin" / "git"
    hanging.parent.mkdir()
    hanging.write_text("#!/bin/sh\necho 0123abc\nexec sleep 60\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("PATH", f"{hanging.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(run_directory, "_GIT_TIMEOUT_SECS", 0.05)
    RunDirectory(tmp_path / "run").on_start(started())
    assert stored(tmp_path / "run")["git_commit"] is None


def test_ending_without_a_start_writes_nothing(tmp_path):
    RunDirectory(tmp_path).on_end(ended())
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_is_taken_up_says_from_where_and_when_and_keeps_how_it_began(
    tmp_path, monkeypatch
):
    times = iter(datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2, 3, 4))
    monkeypatch.setattr(sys, "orig_argv", ["train.py"])
    first = RunDirectory(tmp_path, backend="numpy", seed=7, now=lambda: next(times))
    first.on_start(started())  # and is killed
    began = stored(tmp_path)
    (tmp_path / f"run.json.{32 * 'a'}.tmp").write_text("torn")

    monkeypatch.setattr(sys, "orig_argv", ["train.py", "--more"])
    for clock in (Clock(step=12, epoch=1, batch=2), Clock(step=15, epoch=1, batch=5)):
        again = RunDirectory(
            tmp_path, backend="numpy", seed=8, is_resumed=True, now=lambda: next(times)
        )
        again.on_start(started(clock))
    again.on_end(ended())

    facts = stored(tmp_path)
    assert [(each["step"], each["epoch"], each["batch"]) for each in facts["resumed"]] == [
        (12, 1, 2),
        (15, 1, 5),
    ]
    assert [each["when"] for each in facts["resumed"]] == [
        "2026-01-02T00:00:00+00:00",
        "2026-01-03T00:00:00+00:00",
    ]
    assert [each["command"] for each in facts["resumed"]] == [["train.py", "--more"]] * 2
    assert facts["resumed"][0]["versions"] == facts["versions"]
    for kept in ("seed", "started", "command", "backend", "versions"):
        assert facts[kept] == began[kept]
    assert (facts["state"], facts["stop_reason"]) == ("ended", "epochs")
    assert [each.name for each in tmp_path.iterdir()] == ["run.json"]


def test_a_run_that_goes_on_is_running_and_has_no_reason_yet(tmp_path):
    first = RunDirectory(tmp_path)
    first.on_start(started())
    try:
        raise ValueError("bad")
    except ValueError:
        first.on_end(ended("error: ValueError"))
    RunDirectory(tmp_path, is_resumed=True).on_start(started(Clock(step=17, epoch=1, batch=7)))
    facts = stored(tmp_path)
    assert facts["state"] == "running"
    assert facts["stop_reason"] is facts["error"] is facts["ended"] is None
    assert facts["clock"]["step"] == 17


def test_a_run_whose_file_is_gone_is_taken_up_with_a_new_one(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    RunDirectory(tmp_path, seed=3, is_resumed=True).on_start(started(Clock(step=17)))
    facts = stored(tmp_path)
    assert facts["seed"] == 3
    assert [each["step"] for each in facts["resumed"]] == [17]


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "{}", '{"format_version": 99}', "[" * 100_000, '{"a": 1e999', "\xff"]
)
def test_a_damaged_file_is_refused_and_stays(tmp_path, content):
    (tmp_path / "run.json").write_text(content, encoding="latin-1")
    before = tree(tmp_path)
    with pytest.raises(RunFileError):
        RunDirectory(tmp_path, is_resumed=True)
    assert tree(tmp_path) == before


def test_a_huge_file_is_refused_before_it_is_read(tmp_path):
    with (tmp_path / "run.json").open("wb") as file:
        file.truncate(2**40)
    with pytest.raises(RunFileError, match="more than"):
        read_run(tmp_path)


def test_reading_a_run_gives_what_was_kept_and_none_where_there_is_no_run(tmp_path):
    assert read_run(tmp_path) is None
    RunDirectory(tmp_path, more={"plan": {"program": "graph"}}).on_start(started())
    assert read_run(tmp_path) == stored(tmp_path)
    assert read_run(tmp_path)["plan"] == {"program": "graph"}


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [(ValueError("bad ☃"), None, "bad ☃"), (MissingMethodError("S", "train_step"), "PG", "S")],
)
def test_the_end_by_an_error_says_its_class_code_and_message(tmp_path, error, code, words):
    directory = RunDirectory(tmp_path)
    directory.on_start(started())
    try:
        raise error
    except type(error):
        directory.on_end(ended(f"error: {type(error).__name__}"))
    facts = stored(tmp_path)
    assert facts["stop_reason"] == f"error: {type(error).__name__}"
    assert facts["error"]["class"] == type(error).__name__
    assert words in facts["error"]["message"]
    assert (facts["error"]["code"] or "").startswith(code or "")
    assert (facts["error"]["code"] is None) == (code is None)


def test_a_good_end_inside_the_handling_of_another_error_has_no_error(tmp_path):
    directory = RunDirectory(tmp_path)
    directory.on_start(started())
    try:
        raise ValueError("someone else's")
    except ValueError:
        directory.on_end(ended())
    assert stored(tmp_path)["error"] is None
