"""Progress: what a reader of the terminal, or of the log file, sees."""

import fcntl
import io
import math
import os
import pty
import random
import re
import struct
import subprocess
import sys
import termios
import threading
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.console import Console

from perigee._errors import ArgumentError
from perigee._events.clock import Clock
from perigee._events.events import Ended, Recorded, Started, StepsDone
from perigee.writers.terminal import Terminal, format_duration, format_value, terminal

HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"


@pytest.fixture(autouse=True)
def usual_environment(monkeypatch):
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")


class Training:
    """A training without a model: sends events to a hook, at times that it is told."""

    def __init__(self, hook, *, epochs=None, steps=None, steps_per_epoch=None, clock=None):
        self.hook, self.clock, self.seconds = hook, clock or Clock(), 0.0
        self.reads_at = []
        self.hook.on_start(Started(None, self.clock, epochs, steps, steps_per_epoch, 0.0))

    def steps(self, count, *, calls=1, took_secs=0.0, values=None):
        """Report `count` steps in each of `calls` calls."""

        def read():
            self.reads_at.append(self.seconds)
            return values or {}

        for _ in range(calls):
            self.seconds += took_secs / calls
            self.clock = self.clock.after_steps(count)
            self.hook.on_steps(StepsDone(self.clock, count, read, self._stop, self.seconds))

    def record(self, scope, values, *, took_secs=0.0, is_whole=True):
        self.seconds += took_secs
        if scope == "epoch" and is_whole:
            self.clock = self.clock.after_epoch()
        self.hook.on_record(Recorded(self.clock, scope, values, self._stop, self.seconds))

    def end(self, reason):
        self.hook.on_end(Ended(self.clock, reason, self.seconds))

    def _stop(self, reason):
        raise AssertionError("a writer does not stop the training")


class PseudoTerminal:
    """A real one. `text` is all that was written to it so far."""

    def __init__(self, *, width, encoding="utf-8"):
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, width, 0, 0))
        self.file = os.fdopen(slave, "w", encoding=encoding)
        self.console = Console(file=self.file, width=width, height=24)
        self.width = width
        self._encoding, self._bytes = encoding, b""
        self._reader = threading.Thread(target=self._drain, daemon=True)
        self._reader.start()

    def _drain(self):
        while True:
            try:
                chunk = os.read(self._master, 65536)
            except OSError:  # the other end is closed
                chunk = b""
            if not chunk:
                os.close(self._master)
                return
            self._bytes += chunk

    def close(self):
        if not self.file.closed:
            self.file.close()
        self._reader.join()

    @property
    def text(self):
        """All that was written; closes the terminal."""
        self.close()
        return self._bytes.decode(self._encoding)


@contextmanager
def pseudo_terminal(**keywords):
    opened = PseudoTerminal(**keywords)
    try:
        yield opened
    finally:
        opened.close()


@dataclass
class Screen:
    """What is left on a terminal of endless height, and each line as it was before a redraw."""

    lines: list[str]
    redrawn: list[str]
    is_cursor_hidden: bool


def screen(text):
    """Play what was written to a terminal, for the control sequences that Rich uses."""
    lines, redrawn, row, column, is_cursor_hidden = [""], [], 0, 0, False
    for token in re.findall(r"\x1b\[\??[0-9;]*[A-Za-z]|[\s\S]", text):
        if token == "\r":
            column = 0
        elif token == "\n":
            row += 1
            lines.extend([""] * (row + 1 - len(lines)))
        elif token in (HIDE_CURSOR, SHOW_CURSOR):
            is_cursor_hidden = token == HIDE_CURSOR
        elif token == "\x1b[2K":
            redrawn.append(lines[row])
            lines[row] = ""
        elif re.fullmatch(r"\x1b\[\d+A", token):
            row -= int(token[2:-1])
        elif re.fullmatch(r"\x1b\[[0-9;]*m", token):
            pass
        else:
            assert token.isprintable(), f"unknown control: {token!r}"
            lines[row] = lines[row][:column].ljust(column) + token + lines[row][column + 1 :]
            column += 1
    return Screen([line.rstrip() for line in lines], redrawn, is_cursor_hidden)


def log_file():
    """A console that writes to no terminal."""
    return Console(file=io.StringIO(), width=80)


def log_lines(console):
    return console.file.getvalue().splitlines()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (0.5, "0.5"),
        (0.1, "0.1"),
        (1 / 3, "0.3333"),
        (-1 / 3, "-0.3333"),
        (0.987, "0.987"),
        (0.99996, "1"),
        (12.0, "12"),
        (12.345, "12.35"),
        (100.0, "100"),
        (123.456, "123.5"),
        (1234.5678, "1235"),
        (10000.0, "10000"),
        (12345.6, "12346"),
        (99999.0, "99999"),
        (99999.9, "1e5"),
        (1e5, "1e5"),
        (123456.0, "1.235e5"),
        (-2.5e12, "-2.5e12"),
        (1e100, "1e100"),
        (0.001, "0.001"),
        (0.0012345, "0.001234"),
        (0.00099999, "0.001"),
        (0.0009, "9e-4"),
        (3e-4, "3e-4"),
        (-1.23456e-7, "-1.235e-7"),
        (5e-324, "4.941e-324"),
        (math.nan, "nan"),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
    ],
)
def test_a_number_is_shown_with_four_digits(value, shown):
    assert format_value(value) == shown


def test_a_shown_number_is_close_to_the_number_and_short():
    rng = random.Random(0)
    for _ in range(5000):
        value = rng.choice([-1, 1]) * 10 ** rng.uniform(-12, 12)
        shown = format_value(value)
        assert float(shown) == pytest.approx(value, rel=5.001e-4)
        assert len(shown) <= len("-1.234e-12")
        assert not re.search(r"\.\d*0$|\.$|\.\d*0e|\.e", shown)


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.0, "0.00 s"),
        (1.234, "1.23 s"),
        (9.999, "10.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1:00"),
        (123.4, "2:03"),
        (3599.6, "1:00:00"),
        (3723.0, "1:02:03"),
        (100000.0, "27:46:40"),
    ],
)
def test_a_duration_is_shown_in_few_characters(seconds, shown):
    assert format_duration(seconds) == shown


def test_a_log_file_gets_one_line_an_epoch_and_one_a_validation():
    console = log_file()
    training = Training(terminal("auto", console), epochs=2, steps_per_epoch=100)
    training.steps(50, took_secs=1.0)
    training.record("validation", {"val_loss": 0.5})
    training.steps(50, took_secs=1.0)
    training.record("epoch", {"loss": 0.25, "val_loss": 0.4}, took_secs=0.5)
    training.steps(50, calls=2, took_secs=2.0)
    training.record("epoch", {"loss": 0.125, "val_loss": 0.3}, took_secs=0.25)
    training.end("epochs")
    assert log_lines(console) == [
        "Step 50  val_loss 0.5",
        "Epoch 1/2  2.50 s  loss 0.25  val_loss 0.4",
        "Epoch 2/2  2.25 s  loss 0.125  val_loss 0.3",
        "Finished at step 200 (2 epochs) after 4.75 s",
    ]
    assert training.reads_at == []


def test_a_long_epoch_gets_a_line_each_30_seconds_in_a_log_file():
    console = log_file()
    training = Training(terminal("auto", console), epochs=10, steps_per_epoch=1000)
    training.steps(1, calls=1000, took_secs=125.0, values={"loss": 0.5})
    training.record("epoch", {"loss": 0.25})
    training.steps(1, calls=200, took_secs=25.0, values={"loss": 0.2})
    training.end("asked")
    assert log_lines(console) == [
        "Epoch  1/10  step  240/1000  8.0 steps/s  1:35 left  loss 0.5",
        "Epoch  1/10  step  480/1000  8.0 steps/s  1:05 left  loss 0.5",
        "Epoch  1/10  step  720/1000  8.0 steps/s  0:35 left  loss 0.5",
        "Epoch  1/10  step  960/1000  8.0 steps/s  0:05 left  loss 0.5",
        "Epoch  1/10  2:05  loss 0.25",
        "Stopped at step 1200 (1 epoch) after 2:30: asked",
    ]
    assert training.reads_at == [30, 60, 90, 120]


def test_a_log_file_has_no_control_characters_and_no_folded_lines(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # colors are no reason to move a cursor
    console = log_file()
    values = {f"metric_{number}": 0.1 * number for number in range(50)}
    values |= {"[red]markup[/red] :smile:": 1.0, "tab\tand\x1b[31mescape\nline": 2.0}
    training = Training(terminal("auto", console), epochs=1, steps_per_epoch=2)
    training.steps(1, took_secs=60.0, values=values)
    training.record("epoch", values)
    training.end("epochs")
    lines = log_lines(console)
    assert len(lines) == 3
    assert all(line.isprintable() for line in lines)
    for line in lines[:2]:
        assert "  metric_49 4.9  [red]markup[/red] :smile: 1  tab?and?[31mescape?line 2" in line


@pytest.mark.parametrize("progress", ["auto", "bar", "lines"])
def test_the_live_line_comes_by_itself_on_a_terminal_only(progress):
    with pseudo_terminal(width=80) as tty:
        Training(terminal(progress, tty.console), epochs=1).end("epochs")
        assert (HIDE_CURSOR in tty.text) == (progress != "lines")


def test_a_dumb_terminal_gets_lines(monkeypatch):
    monkeypatch.setenv("TERM", "dumb")
    with pseudo_terminal(width=80) as tty:
        Training(terminal("auto", tty.console), epochs=1).end("epochs")
        assert "\x1b" not in tty.text


def test_a_bar_that_is_asked_for_is_drawn_where_no_terminal_is_seen():
    console = log_file()
    Training(terminal("bar", console), epochs=1).end("epochs")
    assert HIDE_CURSOR in console.file.getvalue()


def test_off_is_no_hook():
    assert terminal("off") is None


def test_another_word_is_refused_with_the_right_ones():
    with pytest.raises(ArgumentError, match='"auto", "bar", "lines" and "off"'):
        terminal("verbose")


def test_the_bar_leaves_only_its_lines_on_the_terminal():
    with pseudo_terminal(width=100) as tty:
        training = Training(terminal("auto", tty.console), epochs=2, steps_per_epoch=100)
        for loss in (0.5, 0.25):
            training.steps(10, calls=5, took_secs=2.0, values={"loss": loss, "accuracy": 0.9})
            training.record("validation", {"val_loss": 2 * loss})
            training.steps(10, calls=5, took_secs=2.0, values={"loss": loss, "accuracy": 0.9})
            training.record("epoch", {"loss": loss, "accuracy": 0.95})
        training.end("epochs")
        seen = screen(tty.text)
    assert seen.lines == [
        "Step 50  val_loss 1",
        "Epoch 1/2  4.00 s  loss 0.5  accuracy 0.95",
        "Step 150  val_loss 0.5",
        "Epoch 2/2  4.00 s  loss 0.25  accuracy 0.95",
        "Finished at step 200 (2 epochs) after 8.00 s",
        "",
    ]
    assert not seen.is_cursor_hidden


def test_the_live_line_says_where_training_is_how_fast_and_how_well():
    with pseudo_terminal(width=100) as tty:
        training = Training(terminal("auto", tty.console), epochs=12, steps_per_epoch=400)
        training.steps(100, calls=3, took_secs=3.0, values={"loss": 0.12345, "accuracy": 0.987})
        training.end("asked")
        seen = screen(tty.text)
    assert seen.redrawn[0] == "Epoch  1/12  step   0/400  ────────────"
    assert seen.redrawn[-1] == (
        "Epoch  1/12  step 300/400  ━━━━━━━━━───  100 steps/s  0:01 left  "
        "loss 0.1235  accuracy 0.987"
    )


def test_the_epoch_that_follows_is_shown_as_soon_as_one_has_ended():
    with pseudo_terminal(width=80) as tty:
        training = Training(terminal("auto", tty.console), epochs=2, steps_per_epoch=4)
        training.steps(4, took_secs=1.0, values={"loss": 0.5})
        training.record("epoch", {"loss": 0.5})
        training.end("asked")
        assert "Epoch 2/2  step 0/4  ──────────" in screen(tty.text).redrawn


def test_steps_count_where_no_epochs_are_asked_for():
    with pseudo_terminal(width=80) as tty:
        training = Training(terminal("auto", tty.console), steps=1000, steps_per_epoch=70)
        training.steps(50, calls=10, took_secs=5.0, values={"loss": 0.5})
        training.end("data")
        seen = screen(tty.text)
    assert seen.redrawn[-1] == "Step  500/1000  ━━━━━─────  100 steps/s  0:05 left  loss 0.5"
    assert seen.lines[0] == "Stopped at step 500 after 5.00 s: the data ended"


def test_the_device_is_waited_for_at_most_five_times_a_second():
    seconds = 10.0
    with pseudo_terminal(width=80) as tty:
        training = Training(terminal("auto", tty.console), epochs=1, steps_per_epoch=20000)
        training.steps(1, calls=20000, took_secs=seconds, values={"loss": 0.5})
        training.end("epochs")
    apart = [
        later - earlier
        for earlier, later in zip(training.reads_at, training.reads_at[1:], strict=False)
    ]
    assert 5 * seconds - 2 <= len(training.reads_at) <= 5 * seconds
    assert min(apart) >= 0.2 - 1e-9


def test_many_short_epochs_read_no_value_of_an_epoch_under_way():
    with pseudo_terminal(width=80) as tty:
        training = Training(terminal("auto", tty.console), epochs=50, steps_per_epoch=2)
        for _ in range(50):
            training.steps(1, calls=2, took_secs=0.1, values={"loss": 0.5})
            training.record("epoch", {"loss": 0.5})
        training.end("epochs")
    assert training.reads_at == []


def test_the_rate_leaves_out_compilation_and_validation():
    console = log_file()
    training = Training(terminal("lines", console), epochs=1, steps_per_epoch=1000)
    training.steps(100, took_secs=29.0)
    training.record("validation", {"val_loss": 1.0}, took_secs=500.0)
    training.steps(100, calls=3, took_secs=30.0, values={"loss": 0.5})
    assert log_lines(console)[-1].endswith("step  400/1000  10.0 steps/s  1:00 left  loss 0.5")


def test_the_rate_follows_a_change_of_pace():
    console = log_file()
    training = Training(terminal("lines", console), epochs=1)
    training.steps(100, calls=20, took_secs=20.0)
    training.steps(1, calls=10, took_secs=40.0, values={"loss": 0.5})
    training.steps(1, calls=20, took_secs=80.0, values={"loss": 0.5})
    rates = [line.split("  ")[2] for line in log_lines(console)]
    assert rates[0] == "24.3 steps/s"
    assert rates[-1] == "4.0 s/step"


@pytest.mark.parametrize("progress", ["bar", "lines"])
@pytest.mark.parametrize(
    "plan",
    [
        {},
        {"epochs": 0},
        {"steps": 0},
        {"epochs": 1, "steps_per_epoch": 0},
        {"epochs": 3},
        {"steps": 3},
        {"epochs": 1, "steps_per_epoch": 2},
        {"epochs": 1, "steps": 1, "steps_per_epoch": 1},
    ],
    ids=str,
)
def test_totals_may_be_unknown_zero_or_wrong(progress, plan):
    with pseudo_terminal(width=80) as tty:
        Training(terminal(progress, tty.console), **plan).end("epochs")
        training = Training(terminal(progress, tty.console), **plan)
        training.record("epoch", {})
        training.steps(5, calls=3, took_secs=100.0, values={"loss": 0.5})
        training.record("steps", {"loss": 0.5})
        training.record("epoch", {"loss": 0.5})
        training.steps(0, took_secs=100.0)
        training.steps(7, took_secs=0.0)
        training.end("")
        seen = screen(tty.text)
    assert "Stopped at step 22 (2 epochs) after 3:20: no reason given" in seen.lines
    assert not seen.is_cursor_hidden


def test_an_epoch_of_unknown_length_shows_its_steps_and_teaches_the_next_one():
    with pseudo_terminal(width=80) as tty:
        training = Training(terminal("auto", tty.console), epochs=2)
        training.steps(10, calls=4, took_secs=4.0, values={"loss": 0.5})
        training.record("epoch", {"loss": 0.5})
        training.steps(10, calls=2, took_secs=2.0, values={"loss": 0.25})
        training.steps(10, calls=3, took_secs=3.0, values={"loss": 0.125})
        training.end("asked")
        seen = screen(tty.text).redrawn
    assert "Epoch 1/2  step 40  10.0 steps/s  loss 0.5" in seen
    assert "Epoch 2/2  step 20/40  ━━━━━─────  10.0 steps/s  0:02 left  loss 0.25" in seen
    assert seen[-1] == "Epoch 2/2  step 50  10.0 steps/s  loss 0.125"


def test_a_window_of_steps_stays_only_as_the_last_word():
    console = log_file()
    training = Training(terminal("lines", console), steps=30)
    for loss in (0.5, 0.25, 0.125):
        training.steps(10, took_secs=1.0)
        training.record("steps", {"loss": loss, "running/accuracy": 1 - loss})
    training.end("steps")
    assert log_lines(console) == [
        "Step 30/30  loss 0.125  running/accuracy 0.875",
        "Finished at step 30 after 3.00 s",
    ]
    assert training.reads_at == []


@pytest.mark.parametrize("width", [1, 5, 20, 40, 60, 80, 200])
@pytest.mark.parametrize(
    "name", ["loss", "discriminator/gradient_penalty_loss", "x" * 500, "損失" * 20, ""]
)
def test_the_live_line_stays_one_line_for_names_of_any_length(width, name):
    with pseudo_terminal(width=width) as tty:
        training = Training(terminal("bar", tty.console), epochs=100, steps_per_epoch=1000)
        values = {name: 0.12345, f"val_{name}": 1e-7, "accuracy": 0.5}
        training.steps(100, calls=3, took_secs=3.0, values=values)
        training.end("asked")
        text = tty.text
    drawn = screen(text).redrawn
    assert len(drawn) == 5  # at the start, after each of the steps, and when it was taken away
    assert all(cell_len(line) <= width for line in drawn)
    if width >= 80:
        assert " 0.1235" in drawn[-1]
    if width == 80 and len(name) > 30:
        assert re.search(r"  \S{2,}… 0\.1235 …$", drawn[-1])


def test_a_narrow_terminal_shows_a_value_rather_than_the_pace():
    with pseudo_terminal(width=40) as tty:
        training = Training(terminal("bar", tty.console), epochs=3, steps_per_epoch=400)
        training.steps(100, calls=2, took_secs=2.0, values={"loss": 0.5, "accuracy": 0.25})
        training.end("asked")
        assert screen(tty.text).redrawn[-1] == "Epoch 1/3  step 200/400  loss 0.5 …"


@pytest.mark.parametrize(
    ("plan", "expected"),
    [
        ({"epochs": 3, "steps_per_epoch": 400}, "Epoch 2/3  step  50/400  1.00 s  loss 0.25"),
        ({"epochs": 3}, "Epoch 2/3  step  50/100  1.00 s  loss 0.25"),
        ({"steps": 150, "steps_per_epoch": 100}, "Step 150/150  1.00 s  loss 0.25"),
    ],
)
def test_an_epoch_that_was_cut_short_says_how_far_it_came(plan, expected):
    console = log_file()
    training = Training(terminal("lines", console), **plan)
    training.steps(100, took_secs=2.0)
    training.record("epoch", {"loss": 0.5})
    training.steps(50, took_secs=1.0)
    training.record("epoch", {"loss": 0.25}, is_whole=False)
    training.end("asked")
    assert log_lines(console)[1:] == [
        expected,
        "Stopped at step 150 (1 epoch) after 3.00 s: asked",
    ]


def test_many_values_of_an_epoch_are_folded_under_the_first_one():
    with pseudo_terminal(width=40) as tty:
        training = Training(terminal("bar", tty.console), epochs=1, steps_per_epoch=1)
        training.steps(1, took_secs=1.0)
        training.record("epoch", {"loss": 0.5, "accuracy": 0.25, "learning_rate": 3e-4})
        training.end("epochs")
        assert screen(tty.text).lines == [
            "Epoch 1/1  1.00 s  loss 0.5",
            "                   accuracy 0.25",
            "                   learning_rate 3e-4",
            "Finished at step 1 (1 epoch) after 1.00 s",
            "",
        ]


@pytest.mark.parametrize("progress", ["bar", "lines"])
def test_a_terminal_that_knows_only_ascii_is_written_in_ascii(progress):
    with pseudo_terminal(width=80, encoding="ascii") as tty:
        training = Training(terminal(progress, tty.console), epochs=1, steps_per_epoch=100)
        values = {"потеря": 0.5, "accuracy_of_the_classifier": 0.25, "x" * 100: 1.0}
        training.steps(25, calls=2, took_secs=60.0, values=values)
        training.record("validation", values)
        training.end("причина")
        text = tty.text
    assert "?????? 0.5" in text
    assert text.isascii()
    if progress == "bar":
        assert "=====-----" in screen(text).redrawn[-1]


def test_the_reason_of_an_error_takes_one_line():
    console = log_file()
    training = Training(terminal("lines", console), epochs=1)
    training.steps(3, took_secs=1.0)
    training.end("error: ValueError: shapes differ:\n  - (3,)\n  - (4,)")
    assert log_lines(console) == [
        "Stopped at step 3 after 1.00 s: error: ValueError: shapes differ:"
    ]


def test_an_end_without_a_start_says_nothing():
    console = log_file()
    terminal("lines", console).on_end(Ended(Clock(), "error: ValueError", 0.0))
    terminal("bar", console).on_end(Ended(Clock(), "error: ValueError", 0.0))
    assert console.file.getvalue() == ""


def test_one_hook_can_show_several_trainings():
    with pseudo_terminal(width=80) as tty:
        hook = Terminal(tty.console, is_live=True)
        for _ in range(2):
            training = Training(hook, epochs=1, steps_per_epoch=2)
            training.steps(2, took_secs=1.0, values={"loss": 0.5})
            training.record("epoch", {"loss": 0.5})
            training.end("epochs")
        seen = screen(tty.text)
    assert seen.lines == [
        "Epoch 1/1  1.00 s  loss 0.5",
        "Finished at step 2 (1 epoch) after 1.00 s",
    ] * 2 + [""]


def test_a_training_inside_a_training_leaves_both_their_lines():
    with pseudo_terminal(width=80) as tty:
        outer = Training(terminal("bar", tty.console), epochs=1, steps_per_epoch=2)
        inner = Training(terminal("bar", tty.console), epochs=1, steps_per_epoch=4)
        inner.steps(4, took_secs=1.0, values={"loss": 0.5})
        inner.record("epoch", {"loss": 0.5})
        inner.end("epochs")
        outer.steps(2, took_secs=2.0, values={"loss": 0.25})
        outer.record("epoch", {"loss": 0.25})
        outer.end("epochs")
        text = tty.text
    shown = [line for line in screen(text).lines if line]
    assert shown == [
        "Epoch 1/1  1.00 s  loss 0.5",
        "Finished at step 4 (1 epoch) after 1.00 s",
        "Epoch 1/1  2.00 s  loss 0.25",
        "Finished at step 2 (1 epoch) after 2.00 s",
    ]
    assert text.rindex(SHOW_CURSOR) > text.rindex(HIDE_CURSOR)


def in_a_terminal(code, *, width=80):
    """Run Python code in a process whose terminal is a pseudo-terminal; return what it wrote."""
    source = Path(__file__).parents[2] / "src"
    with pseudo_terminal(width=width) as tty:
        environment = os.environ | {"PYTHONPATH": str(source)}
        streams = {"stdin": tty.file, "stdout": tty.file, "stderr": tty.file}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment, check=False, timeout=60, **streams
        )
        return done.returncode, tty.text


@pytest.mark.process
def test_an_error_gives_back_the_cursor_and_standard_output():
    code = """
import sys
from perigee._events.clock import Clock
from perigee._events.events import Ended, Started, StepsDone
from perigee.writers.terminal import terminal

def read():
    raise FloatingPointError("on the device")

hook, stdout = terminal("auto"), sys.stdout
hook.on_start(Started(None, Clock(), 2, None, 10, 0.0))
try:
    print("printed while training")
    hook.on_steps(StepsDone(Clock(1, 0, 1), 1, read, print, 1.0))
except FloatingPointError as error:
    hook.on_end(Ended(Clock(1, 0, 1), f"error: FloatingPointError: {error}", 1.5))
    assert sys.stdout is stdout
    raise
"""
    status, text = in_a_terminal(code)
    seen = screen(text)
    assert status == 1
    assert HIDE_CURSOR in text
    assert not seen.is_cursor_hidden
    assert seen.lines[:3] == [
        "printed while training",
        "Stopped at step 1 after 1.50 s: error: FloatingPointError: on the device",
        "Traceback (most recent call last):",
    ]
    assert seen.lines[-2] == "FloatingPointError: on the device"


@pytest.mark.process
def test_importing_the_writers_imports_no_framework():
    code = """
import sys
import perigee.writers, perigee.writers.terminal
found = {"keras", "tensorflow", "jax", "torch", "numpy"} & set(sys.modules)
raise SystemExit(f"imported: {found}" if found else 0)
"""
    assert in_a_terminal(code) == (0, "")
