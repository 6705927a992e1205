"""Signals and deadlines: the training stops, is saved where it stands, and goes on exactly."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest

import perigee as pg
from perigee._events.signals import ECHO_SECS
from perigee.checkpoints import Checkpoints
from tests.reliability import trainings
from tests.reliability.processes import Child, run
from tests.reliability.trainings import Case, KillAtStep, train

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="processes are forked"),
]

ROOT = Path(__file__).parents[2]
CASE = Case(mode="eager")
AT = trainings.MID_EPOCH.number
SIGNALS = [signal.SIGTERM, signal.SIGINT]


class Raise:
    """Sends a signal to the process that calls it."""

    def __init__(self, number):
        self.number = number

    def __call__(self):
        os.kill(os.getpid(), self.number)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    return run(folder, train, str(folder / "run"), CASE).returned()


def stopped(path, number):
    return train(path, CASE, None, (KillAtStep(AT, Raise(number)),))


def newest(folder):
    return Checkpoints(folder / "run" / "checkpoints").load().content.clock.step


def said(folder):
    return json.loads((folder / "run" / "run.json").read_text())


def test_sigterm_saves_the_step_that_was_reached_and_the_run_goes_on_exactly(tmp_path, straight):
    path = str(tmp_path / "run")

    ended = run(tmp_path, stopped, path, signal.SIGTERM)

    assert ended.code == -signal.SIGTERM, ended.output  # 143 in a shell
    assert newest(tmp_path) == AT
    assert (said(tmp_path)["state"], said(tmp_path)["stop_reason"]) == ("ended", "signal")
    assert run(tmp_path, train, path, CASE).returned() == straight


@pytest.mark.slow
@pytest.mark.parametrize("number, status", [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_in_a_shell_the_code_is_the_conventional_one(tmp_path, straight, number, status):
    """The one place with a process that imports everything itself: the command of a user."""
    path = tmp_path / "run"
    command = [sys.executable, "-m", "tests.reliability.trainings", str(path)]
    command.append(json.dumps(asdict(CASE)))
    shell = subprocess.Popen(
        ["sh", "-c", '"$@" & echo $!; wait $!; echo $?', "sh", *command]
        if number == signal.SIGTERM  # what a shell starts in the background ignores SIGINT
        else command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    with shell:
        pid = int(shell.stdout.readline()) if number == signal.SIGTERM else shell.pid
        while not list(path.glob("checkpoints/step-*[0-9]")):
            assert shell.poll() is None
            time.sleep(0.02)
        os.kill(pid, number)
        left, _ = shell.communicate(timeout=300)
    code = int(left) if number == signal.SIGTERM else 128 - shell.returncode
    assert code == status
    assert newest(tmp_path) < straight["clock"]["step"]

    again = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, text=True)
    assert json.loads(again.stdout.splitlines()[-1]) == straight


def handled(path):
    """Train with handlers of the user's, and return what they heard, and whether they are back."""
    heard = []
    mine = [lambda number, frame: heard.append(number) for _ in SIGNALS]
    for number, handler in zip(SIGNALS, mine, strict=True):
        signal.signal(number, handler)
    during = []

    def look():
        during.extend([list(heard), [signal.getsignal(n) in mine for n in SIGNALS]])

    class Look(pg.Hook):
        every = pg.Every(steps=1)

        def on_record(self, event):
            look()

        def on_end(self, event):
            look()

    train(path, CASE, None, (KillAtStep(AT, Raise(signal.SIGTERM)), Look()))
    return [during[-2:], heard, [signal.getsignal(n) in mine for n in SIGNALS]]


def test_handlers_of_the_user_are_put_back_and_get_the_signal_after_the_save(tmp_path):
    during, heard, are_back = run(tmp_path, handled, str(tmp_path / "run")).returned()

    assert during == [[], [False, False]]
    assert heard == [signal.SIGTERM]
    assert are_back == [True, True]
    assert newest(tmp_path) == AT


def without_run(number):
    step = trainings.Everything()
    act = KillAtStep(2, Raise(number))
    try:
        pg.fit(step, trainings.rows(), epochs=2, callbacks=[act], execution="eager")
    except KeyboardInterrupt as error:
        return error.__notes__


def test_without_a_run_signals_do_what_they_do_in_python(tmp_path):
    assert run(tmp_path, without_run, signal.SIGTERM).code == -signal.SIGTERM
    notes = run(tmp_path, without_run, signal.SIGINT).returned()
    assert "after step 2" in notes[0]


def endless(path, started):
    """Hang in a step, as a call that never comes back does."""

    def hang():
        Path(started).touch()
        time.sleep(600)

    train(path, CASE, None, (KillAtStep(AT, hang),))


def test_a_second_signal_ends_at_once_and_the_run_goes_on_exactly(
    tmp_path, straight, record_property
):
    path, started = str(tmp_path / "run"), tmp_path / "started"
    with Child(tmp_path, endless, path, str(started)) as child:
        while not started.exists():
            assert child.is_running(), child.output()
            time.sleep(0.02)
        child.send(signal.SIGTERM)
        time.sleep(ECHO_SECS + 0.3)
        assert child.is_running()
        child.send(signal.SIGTERM)
        sent = time.monotonic()
        ended = child.ending()
        secs = time.monotonic() - sent

    record_property("secs", secs)
    assert ended.code == -signal.SIGTERM
    assert "a second signal, SIGTERM" in ended.output
    assert secs < 5  # below 1 on a machine that does nothing else
    assert run(tmp_path, train, path, CASE).returned() == straight


def validating(path, at):
    """Train with a validation that takes minutes, of which the second one notes its progress."""
    x, y = trainings.rows()
    passes = []

    def slow():
        passes.append(1)
        for index in range(600):
            if len(passes) > 1:
                Path(at).write_text(str(index))
                time.sleep(0.2)
            elif index == 3:
                return
            yield x[:8], y[:8]

    pg.fit(
        trainings.Everything(),
        (x, y),
        epochs=2,
        batch_size=trainings.BATCH,
        validation=slow,
        run=path,
        execution="eager",
        progress="off",
    )


def test_sigterm_leaves_a_validation_and_the_steps_before_it_are_saved(tmp_path, record_property):
    at = tmp_path / "at"
    with Child(tmp_path, validating, str(tmp_path / "run"), str(at)) as child:
        while not at.exists() or at.read_text() in ("", "0", "1", "2"):
            assert child.is_running(), child.output()
            time.sleep(0.02)
        child.send(signal.SIGTERM)
        sent = time.monotonic()
        ended = child.ending()
        secs = time.monotonic() - sent

    record_property("secs", secs)
    assert ended.code == -signal.SIGTERM, ended.output
    assert newest(tmp_path) == 2 * trainings.STEPS_AN_EPOCH
    assert int(at.read_text()) < 300  # of 600 batches, which take 120 seconds
    assert said(tmp_path)["stop_reason"] == "signal"


def preempted(path):
    """Stop at the deadline that comes while the step of the kill is under way."""
    seconds = iter([0.0] * AT + [10**6] * 10**6)
    hook = pg.Preemption(limit_secs=100, margin_secs=1, now=lambda: next(seconds))
    return train(path, CASE, None, (Remembered(hook),))


class Remembered(pg.Hook):
    """A hook at every step, whatever else it hears."""

    every = pg.Every(steps=1)

    def __init__(self, hook):
        self.hook = hook

    def on_steps(self, event):
        self.hook.on_steps(event)


def test_a_deadline_stops_in_time_and_the_run_goes_on_exactly(tmp_path, straight):
    path = str(tmp_path / "run")

    first = run(tmp_path, preempted, path).returned()

    assert first["stop_reason"] == "deadline"
    assert 0 < newest(tmp_path) == first["clock"]["step"] < straight["clock"]["step"]
    assert run(tmp_path, train, path, CASE).returned() == straight
