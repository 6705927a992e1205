"""Progress on a terminal, in a notebook or in a log file."""

import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import rich
from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions
from rich.live import Live
from rich.text import Text

from perigee._errors import ArgumentError
from perigee._events.clock import Clock
from perigee._events.events import Ended, Hook, Recorded, Started, StepsDone

Progress: TypeAlias = Literal["auto", "bar", "lines", "off"]
"""How progress is shown: one line that is redrawn, plain lines, or not at all."""

_BAR_EVERY_SECS = 0.2
_LINE_EVERY_SECS = 30.0
_PACE_MEMORY_SECS = 10.0
_LEAST_WIDTH_FOR_BAR = 60
_LEAST_NAME = 4
_ROOM_FOR_NAME = 16

_FINISHED = ("epochs", "steps")
_REASONS = {"data": "the data ended", "non-finite": "a value was not finite"}


def terminal(progress: Progress, console: Console | None = None) -> Hook | None:
    """Return the hook that shows progress; `None` for `"off"`.

    Args:
        progress: `"auto"` is `"bar"` if lines can be redrawn (a terminal, or a notebook with
            ipywidgets) and `"lines"` otherwise (a file, a pipe, a dumb terminal).
        console: The console to write to; by default Rich's own, on standard output.

    Raises:
        ArgumentError: If `progress` is none of these.
    """
    if progress not in get_args(Progress):
        raise ArgumentError(
            "progress",
            repr(progress),
            'one of "auto", "bar", "lines" and "off".',
            'omit it, or pass `progress="off"` to show nothing.',
        )
    if progress == "off":
        return None
    console = console or rich.get_console()
    can_redraw = _can_redraw(console)
    if progress == "bar" and not can_redraw and not console.is_jupyter:
        # Requested by name: some editors' terminals are not recognized as terminals.
        console = Console(file=console.file, force_terminal=True, force_interactive=True)
        can_redraw = True
    return Terminal(console, is_live=can_redraw and progress != "lines")


def _can_redraw(console: Console) -> bool:
    if console.is_jupyter:  # Rich redraws through an output widget there
        return importlib.util.find_spec("ipywidgets") is not None
    # FORCE_COLOR makes Rich treat a pipe as a terminal; a log file needs no cursor movements.
    has_terminal = getattr(console.file, "isatty", None)
    return console.is_interactive and has_terminal is not None and has_terminal()


class Terminal(Hook):
    """Shows progress, speed and logged values of a training.

    Live, one line at the bottom is redrawn at most five times per second. Otherwise, a line is
    written at most every 30 seconds, without control characters. In both cases a permanent line is
    written for each epoch and each validation, and one at the end.

    Reading the values of the current epoch waits for the device, so it happens only when a line is
    due.

    Args:
        console: The console to write to. Text printed during training appears above the live line.
        is_live: Whether to redraw a line, which needs a terminal or a notebook.
    """

    may_lag = True

    def __init__(self, console: Console, *, is_live: bool) -> None:
        self._console = console
        self._is_live = is_live
        self._live: Live | None = None
        self._plan: _Plan | None = None
        self._pace = _Pace()
        self._values: Mapping[str, float] = {}
        self._unwritten: Recorded | None = None
        self._shown_at = 0.0
        self._epoch_began_at = 0.0
        self._last_batch = 0

    def on_start(self, event: Started) -> None:
        """Show where training begins."""
        self._plan = _Plan(event.epochs, event.steps, event.steps_per_epoch)
        self._pace = _Pace()
        self._values = {}
        self._unwritten = None
        self._shown_at = self._epoch_began_at = event.seconds
        self._last_batch = event.clock.batch
        if event.origin is not None:
            self._write([f"Resumes after {_where(event.clock)}, from {event.origin}"], {})
        if self._is_live:
            self._live = Live(
                self._live_line(event.clock, self._plan),
                console=self._console,
                auto_refresh=False,
                transient=True,
            )
            self._live.start(refresh=True)

    def on_steps(self, event: StepsDone) -> None:
        """Show the values so far when a line is due."""
        self._pace.advance(event.count, event.seconds)
        self._last_batch = event.clock.batch
        if self._is_due(event.seconds):
            # Reading waits for the device: only here in this file.
            self._show(event.clock, event.read(), event.seconds)

    def on_record(self, event: Recorded) -> None:
        """Write a permanent line, for an epoch or a validation."""
        if self._plan is None:
            return
        self._pace.skip(event.seconds)
        if event.scope == "steps":
            # Windows may be short and many: they update the live line, and only the last one stays.
            self._unwritten = event
            if self._is_due(event.seconds):
                self._show(event.clock, event.values, event.seconds)
            return
        if event.scope == "validation":
            self._write([f"Step {event.clock.step}"], event.values)
        else:
            is_whole = event.clock.batch == 0  # training may stop in mid-epoch, and record it
            plan = self._plan.after_epoch(self._last_batch) if is_whole else self._plan
            labels = (
                (plan.epoch_label(event.clock.epoch),) if is_whole else plan.labels(event.clock)
            )
            took = format_duration(event.seconds - self._epoch_began_at)
            self._plan, self._values, self._last_batch = plan, {}, 0
            self._epoch_began_at = event.seconds
            if self._live is not None:
                self._live.update(self._live_line(event.clock, plan) if is_whole else Text())
            self._write([*labels, took], event.values)
        self._unwritten = None
        self._shown_at = event.seconds

    def on_end(self, event: Ended) -> None:
        """Remove the live line and write how training ended."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()  # first: it restores the cursor and standard output
        if self._plan is None:
            return
        plan, self._plan = self._plan, None
        if self._unwritten is not None:
            self._write(plan.labels(self._unwritten.clock), self._unwritten.values)
        where = _where(event.clock)
        took = format_duration(event.seconds)
        if event.reason in _FINISHED:
            self._write([f"Finished at {where} after {took}"], {})
        else:
            reason = (event.reason.strip().splitlines() or ["no reason given"])[0]
            self._write([f"Stopped at {where} after {took}: {_REASONS.get(reason, reason)}"], {})

    def _is_due(self, seconds: float) -> bool:
        every_secs = _BAR_EVERY_SECS if self._is_live else _LINE_EVERY_SECS
        return seconds - self._shown_at >= every_secs

    def _show(self, clock: Clock, values: Mapping[str, float], seconds: float) -> None:
        if self._plan is None:
            return
        self._values = values
        self._shown_at = seconds
        if self._live is not None:
            self._live.update(self._live_line(clock, self._plan), refresh=True)
        else:
            facts = self._pace.facts(self._plan.steps_left(clock))
            self._write([*self._plan.labels(clock), *facts], values)
            self._unwritten = None

    def _live_line(self, clock: Clock, plan: "_Plan") -> "_LiveLine | Text":
        if plan.is_finished(clock):
            return Text()
        return _LiveLine(
            labels=plan.labels(clock),
            fraction=plan.fraction(clock),
            facts=self._pace.facts(plan.steps_left(clock)),
            values=self._printable_values(self._values),
            is_ascii=not self._encoding.startswith("utf"),
        )

    def _write(self, head: Sequence[str], values: Mapping[str, float]) -> None:
        """Write a permanent line: unwrapped in a file, wrapped under its first value when live."""
        shown = self._printable_values(values)
        if self._is_live:
            lines = _fold([self._printable(part) for part in head], shown, self._console.width)
        else:
            parts = [*map(self._printable, head), *(f"{name} {text}" for name, text in shown)]
            lines = ["  ".join(parts)]
        self._console.print(Text("\n".join(lines)), soft_wrap=True)

    @property
    def _encoding(self) -> str:
        # Not `Console.encoding`, which belongs to the file that the console was created with.
        return (getattr(self._console.file, "encoding", None) or "utf-8").lower()

    def _printable(self, text: str) -> str:
        """Return `text` with a `?` for each character that this console cannot show."""
        shown = "".join(char if char.isprintable() else "?" for char in text)
        return shown.encode(self._encoding, "replace").decode(self._encoding)

    def _printable_values(self, values: Mapping[str, float]) -> list[tuple[str, str]]:
        return [(self._printable(name), format_value(value)) for name, value in values.items()]


def format_value(value: float) -> str:
    """Format a number: four significant digits, without trailing zeros.

    Scientific below 1e-3 and from 1e5. Digits before the point are never rounded.

    >>> format_value(0.123449), format_value(2e-05), format_value(12345.6)
    ('0.1234', '2e-5', '12346')
    """
    value = float(value)
    if value == 0 or not math.isfinite(value):
        return f"{value + 0.0:.0f}"  # without the sign of -0.0
    mantissa, exponent = f"{value:.3e}".split("e")  # the exponent after rounding
    power = int(exponent)
    if power >= -3 and abs(value) < 99_999.5:
        text = f"{value:.{max(3 - power, 0)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{mantissa.rstrip('0').rstrip('.')}e{power}"


def format_duration(seconds: float) -> str:
    """Format a duration: `1.23 s`, `12.3 s`, `2:03` or `1:02:03`."""
    if round(seconds, 1) < 60:
        return f"{seconds:.{2 if seconds < 9.995 else 1}f} s"
    return _as_clock(seconds)


def _where(clock: Clock) -> str:
    epochs = f" ({clock.epoch} epoch{'' if clock.epoch == 1 else 's'})" if clock.epoch else ""
    return f"step {clock.step}{epochs}"


def _as_clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass(frozen=True, slots=True)
class _Plan:
    """The planned length of a training, if known, and labels for the progress of a clock.

    If epochs are planned, the steps of the current epoch are shown, otherwise those of the
    training.
    """

    epochs: int | None
    steps: int | None
    steps_per_epoch: int | None

    def after_epoch(self, steps: int) -> "_Plan":
        """Return the plan with the length of the epoch that has ended, if none was known."""
        return _Plan(self.epochs, self.steps, self.steps_per_epoch or steps or None)

    def is_finished(self, clock: Clock) -> bool:
        """Return whether the training is complete."""
        if self.epochs is not None:
            return clock.epoch >= self.epochs
        return self.steps is not None and clock.step >= self.steps

    def epoch_label(self, number: int) -> str:
        """Return `Epoch  3/10`, or `Epoch 3` if the total is unknown or exceeded."""
        if self.epochs is None or number > self.epochs:
            return f"Epoch {number}"
        return f"Epoch {number:>{len(str(self.epochs))}}/{self.epochs}"

    def labels(self, clock: Clock) -> tuple[str, ...]:
        """Return the labels for the progress of a clock."""
        done, total = self._done_and_total(clock)
        count = f"{done}" if total is None else f"{done:>{len(str(total))}}/{total}"
        if self.epochs is None:
            return (f"Step {count}",)
        return (self.epoch_label(clock.epoch + 1), f"step {count}")

    def steps_left(self, clock: Clock) -> int | None:
        """Return the remaining steps, of the epoch or of the training."""
        done, total = self._done_and_total(clock)
        return None if total is None else total - done

    def fraction(self, clock: Clock) -> float | None:
        """Return the finished share, from 0 to 1; `None` if unknown."""
        done, total = self._done_and_total(clock)
        return done / total if total else None

    def _done_and_total(self, clock: Clock) -> tuple[int, int | None]:
        if self.epochs is None:
            done, total = clock.step, self.steps
        else:
            done, total = clock.batch, self.steps_per_epoch
        return done, None if total is None or done > total else total


class _Pace:
    """Steps per second, with more weight on recent steps.

    Both sums decay at the same rate, so their ratio needs no correction at the beginning. The first
    call is excluded, because it compiles, and so is everything between steps.
    """

    def __init__(self) -> None:
        self._steps = 0.0
        self._secs = 0.0
        self._since: float | None = None

    def advance(self, count: int, seconds: float) -> None:
        """Count steps that were done since the last event."""
        if self._since is not None:
            elapsed = seconds - self._since
            keep = math.exp(-max(elapsed, 0.0) / _PACE_MEMORY_SECS)
            self._steps = self._steps * keep + count
            self._secs = self._secs * keep + elapsed
        self._since = seconds

    def skip(self, seconds: float) -> None:
        """Exclude the time since the last event."""
        self._since = seconds

    def facts(self, steps_left: int | None) -> tuple[str, ...]:
        """Return texts of the rate and the remaining time, if known."""
        if self._steps <= 0 or self._secs <= 0:
            return ()
        rate = self._steps / self._secs
        if rate >= 99.95:
            shown = f"{rate:.0f} steps/s"
        elif rate >= 1:
            shown = f"{rate:.1f} steps/s"
        else:
            shown = f"{1 / rate:.1f} s/step"
        if steps_left is None:
            return (shown,)
        return (shown, f"{_as_clock(steps_left / rate)} left")


@dataclass(frozen=True, slots=True)
class _LiveLine:
    """The line that is redrawn, laid out for the current width."""

    labels: Sequence[str]
    fraction: float | None
    facts: Sequence[str]
    values: Sequence[tuple[str, str]]
    is_ascii: bool

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Text]:
        width = options.max_width
        line = Text("  ".join(self.labels), no_wrap=True, end="")  # cropped by Rich
        kept = 0  # if not all fits, the first value is more important than the pace
        for name, value in self.values[:1]:
            kept = len("  ") + min(cell_len(name), _ROOM_FOR_NAME) + len(f" {value} …")
        if self.fraction is not None and width >= _LEAST_WIDTH_FOR_BAR:
            self._append_bar(line, self.fraction, cells=min(width // 8, 20))
        for fact in self.facts:
            if line.cell_len + 2 + len(fact) + kept <= width:
                line.append("  ").append(fact)
        self._append_values(line, width)
        yield line

    def _append_bar(self, line: Text, fraction: float, cells: int) -> None:
        filled = math.floor(fraction * cells)
        done, open_ = ("=", "-") if self.is_ascii else ("━", "─")
        line.append("  ").append(done * filled, "bar.complete")
        line.append(open_ * (cells - filled), "dim")

    def _append_values(self, line: Text, width: int) -> None:
        """Append as many values as fit; a name may be shortened so that its value fits."""
        dots = "..." if self.is_ascii else "…"
        for index, (name, value) in enumerate(self.values):
            more = f" {dots}" if index + 1 < len(self.values) else ""
            for_name = width - line.cell_len - len(f"   {value}{more}")
            if cell_len(name) > for_name:
                if for_name >= _LEAST_NAME + len(dots):
                    name = set_cell_size(name, for_name - len(dots)).rstrip() + dots
                    line.append("  ").append(name, "dim").append(f" {value}").append(more)
                else:
                    line.append(f" {dots}")
                return
            line.append("  ").append(name, "dim").append(f" {value}")


def _fold(head: Sequence[str], values: Sequence[tuple[str, str]], width: int) -> list[str]:
    """Lay out a permanent line: lines after the first are indented to the first value."""
    first = "  ".join(head)
    if not values:
        return [first]
    indent = " " * (cell_len(first) + 2 if cell_len(first) < width // 2 else 4)
    lines = [first]
    for name, value in values:
        longer = f"{lines[-1]}  {name} {value}"
        if cell_len(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(f"{indent}{name} {value}")
    return lines
