"""What a training logs step by step: rows on the device, tallies on the host."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from perigee._errors import NonFiniteError
from perigee._errors.advice import advise
from perigee._events.clock import Clock
from perigee._events.events import RUNNING
from perigee._events.protocols import Guards
from perigee._execution import (
    STATE,
    Nonfinite,
    Program,
    first_bad_value,
    rows_on_host,
    updated_metrics,
)
from perigee._loop.progress import Progress
from perigee._step.averages import Tally

ROWS_BETWEEN_READS = 64
"""Steps whose logged values may wait on the device before they are read and checked."""


class Values:
    """The logged values of an epoch, read from time to time and checked for NaN.

    Args:
        program: What runs.
        nonfinite: What happens when a value is NaN or infinite.
        epoch: Collects the values of the epoch.
        window: Collects those since the last record; it may have begun in an earlier epoch.
        guards: Watch them, or `None`.
        report: Called with what the guards find, and whether to warn about it.

    Attributes:
        stop: Why the training has to stop, or `None`.
    """

    def __init__(
        self,
        program: Program,
        nonfinite: Nonfinite,
        epoch: Tally,
        window: Tally,
        guards: Guards | None = None,
        report: Callable[[Sequence[Any], bool], None] = lambda findings, warns: None,
    ) -> None:
        self.stop: str | None = None
        self._guards, self._report = guards, report
        self._program, self._nonfinite = program, nonfinite
        self._rows: list[Any] = []
        self._epoch, self._window = epoch, window

    @property
    def is_full(self) -> bool:
        """Whether enough rows wait on the device."""
        # Nothing follows a step that stops the training, so each is looked at.
        most = 1 if self._nonfinite == "stop" else ROWS_BETWEEN_READS
        return len(self._rows) >= most

    def add(self, row: Any) -> None:
        """Take in the row of a step, which may stay on the device."""
        self._rows.append(row)

    def look(self, rows: np.ndarray, clock: Clock) -> None:
        """Look at the state, if rows do not tell already: all of it must be finite where it was.

        Args:
            rows: All rows since the last look, on the host.
            clock: After the last of them.

        Raises:
            NonFiniteError: If it is not, and a step that makes it so is an error.
        """
        if np.isfinite(rows[..., 0]).all():
            self.look_at_state(clock, len(rows))

    def look_at_state(self, clock: Clock, steps: int = 1) -> None:
        """Look at the state after the last of some steps, as `look` does."""
        if self._nonfinite == "skip" or self.stop is not None:
            return
        bad = self._program.no_longer_finite()
        if bad:
            self._end_for_state(bad, steps, clock.step)

    def add_block(self, rows: np.ndarray, clock: Clock) -> None:
        """Take in rows that are on the host; `clock` is after the last of them."""
        self.read(replace(clock, step=clock.step - len(rows)))
        self._take(rows, clock)

    def read(self, clock: Clock) -> None:
        """Take the rows to the host. It waits for the device; `clock` is after the last of them."""
        if self._rows:
            rows = rows_on_host(self._rows)
            self._rows.clear()
            self.look(rows, clock)
            self._take(rows, clock)

    def _take(self, rows: np.ndarray, clock: Clock) -> None:
        self._refuse_nonfinite(rows, clock)
        if self._guards:
            self._report(self._guards.rows(self._program.columns, rows, clock), True)
        self._epoch.add(self._program.columns, rows)
        self._window.add(self._program.columns, rows)

    def means(self, clock: Clock) -> Mapping[str, float]:
        """Return the means of the epoch so far."""
        self.read(clock)
        return self._epoch.means()

    def window(self, clock: Clock, programs: Iterable[Program]) -> Mapping[str, float]:
        """Return the means since the last call, and the results of metrics over the epoch so far.

        The names of these say so, whether the step returns them or its metrics hold them. It waits
        for the device.

        Args:
            clock: After the last step.
            programs: What ran in this epoch.
        """
        self.read(clock)
        means = self._window.means("mean", "sum")
        self._window.clear()
        so_far = self._epoch.means()
        running = dict(self._epoch.means("last"))
        for program in programs:
            running |= updated_metrics(program, so_far)
        return {**means, **{f"{RUNNING}{name}": value for name, value in running.items()}}

    def _refuse_nonfinite(self, rows: np.ndarray, clock: Clock) -> None:
        if self._nonfinite == "skip" or self.stop is not None:
            return
        bad = np.argwhere(~np.isfinite(rows[..., 0]))
        if len(bad) == 0:
            return
        row, column = (int(i) for i in bad[0])
        name, value = self._program.columns[column].name, float(rows[row, column, 0])
        step = clock.step - len(rows) + row + 1
        if name == STATE:
            self._end_for_state(self._program.written.no_longer_finite(), 1, step)
        else:
            self._end(name, value, step, None)

    def _end_for_state(self, bad: Sequence[Any], count: int, last: int) -> None:
        """End the training for variables that one of the last `count` steps made NaN or inf."""
        name = self._program.rehearsal.tracked.name_of(bad[0])
        self._end(name, first_bad_value(bad[0]), last, range(last - count + 1, last + 1))

    def _end(self, name: str, value: float, step: int, within: range | None) -> None:
        """End the training for a value that a step returned or wrote.

        Args:
            name: Its name.
            value: NaN or an infinity.
            step: The step, or the last that it can be.
            within: The steps, one of which wrote it; `None` if it was returned.
        """
        origin = None
        if self._guards:
            origin = self._guards.origin(self._program, name, value, step, within)
        if origin is not None:
            self._report([origin], self._nonfinite == "stop")  # else the error says it
        if self._nonfinite == "stop":
            self.stop = "non-finite"
            return
        raise NonFiniteError(
            name,
            value,
            step,
            None if origin is None else origin.happened,
            None if origin is None else origin.fix,
            within,
        )


def end_with(error: BaseException, progress: Progress, end: Callable[[str], None]) -> None:
    """Note on an error where the training stood, and end the training for that reason.

    Args:
        error: What was raised; it is to come out, whatever the end raises.
        progress: Where the training stood.
        end: Called with the reason.
    """
    error.add_note(f"While training with Perigee: {progress.place}.")
    advise(error)
    try:
        end(f"error: {type(error).__name__}")
    except Exception as later:
        error.add_note(f"A hook that was notified of it raised {type(later).__name__}: {later}")
