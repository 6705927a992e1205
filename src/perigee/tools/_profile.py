"""A trace of some steps, and how a training spent its time."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from perigee import _backends
from perigee._errors import ArgumentError, door
from perigee._events.clock import Clock
from perigee._events.events import Ended, Hook, Recorded, Started, StepsDone
from perigee._events.schedule import Every
from perigee._execution import Program
from perigee._step.state import attributes_preserved, preserved, track
from perigee._step.step import Step
from perigee.report.profile import PROFILE_NAME, profile_lines
from perigee.tools._matrix_rate import MatrixRate, matrix_rate
from perigee.writers import replace_file


@dataclass(frozen=True, slots=True)
class Profiled:
    """The result of a profile; print it for a table.

    Attributes:
        directory: The directory of the trace.
        traced: The numbers of the first and the last step in the trace; `None` if the training was
            too short for one.
        first_step_seconds: Time from the call of `fit` to the end of the first step.
        step_seconds: Time per step after compiling, including the wait for data; `None` if no two
            steps followed each other.
        spent: How all the time was spent; see `Ended`.
        operations: Floating-point operations of the matrix products and convolutions of one step
            (a multiplication and an addition are two); `None` if unknown.
        matrix_rate: Operations per second of a large matrix product on this machine.
    """

    directory: str
    traced: tuple[int, int] | None
    first_step_seconds: float
    step_seconds: float | None
    spent: Mapping[str, float]
    operations: float | None
    matrix_rate: MatrixRate

    @property
    def utilization(self) -> float | None:
        """The share of `matrix_rate` that the steps reach, from 0 to 1; `None` if unknown."""
        if not self.operations or not self.step_seconds:
            return None
        return self.operations / self.step_seconds / self.matrix_rate.per_second

    def facts(self) -> dict[str, Any]:
        """Return the result as plain values, for a file."""
        return {
            "directory": self.directory,
            "traced": None if self.traced is None else list(self.traced),
            "first_step_seconds": self.first_step_seconds,
            "step_seconds": self.step_seconds,
            "spent": dict(self.spent),
            "operations": self.operations,
            "matrix_rate": self.matrix_rate.per_second,
            "matrix_size": self.matrix_rate.size,
            "dtype": self.matrix_rate.dtype,
            "utilization": self.utilization,
        }

    def __str__(self) -> str:
        lines = profile_lines(self.facts())
        width = max(map(len, lines))
        return "\n".join(f"{name.ljust(width)}  {text}" for name, text in lines.items())


class Profile(Hook):
    """Trace some steps of a training, and measure what limits its speed.

    >>> profile = Profile("runs/digits/profile")
    >>> pg.fit(step, data, epochs=3, run="runs/digits", callbacks=[profile])
    >>> print(profile.found)

    The trace skips the first steps, which compile: as many as it contains. TensorBoard's profiler
    shows the trace of TensorFlow and JAX (`tensorboard --logdir runs/digits/profile`), and Perfetto
    (https://ui.perfetto.dev) that of JAX and torch. The results of the training do not change.

    When the training ends, the operations of a step are counted, for which it is recompiled, and a
    large matrix product is timed, which takes about a second.

    Args:
        directory: The directory for the trace, and for `profile.json` with the results; created if
            missing. The report of a run shows what is in its `profile/`.
        steps: The number of steps to trace; at most about half of the training.

    Attributes:
        found: The result, a `Profiled`; `None` before the end.

    Raises:
        ArgumentError: If `steps` is not a positive integer.
    """

    @door
    def __init__(self, directory: str | PathLike[str], *, steps: int = 8) -> None:
        count: Any = steps
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ArgumentError("steps", repr(steps), "a positive integer.", "omit it.")
        self.directory: Path = Path(fspath(directory))
        self.found: Profiled | None = None
        self._steps = steps
        self._begin()

    def _begin(self) -> None:
        self.every = Every(steps=1)  # to see the end of the first step
        self._step: Step | None = None
        self._begins_at = 0
        self._size = self._steps
        self._first_step_seconds: float | None = None
        self._trace = contextlib.ExitStack()
        self._traced_from: Clock | None = None
        self._traced: tuple[int, int] | None = None
        self._last: tuple[int, float] | None = None
        self._steady_steps, self._steady_seconds = 0, 0.0

    def on_start(self, event: Started) -> None:
        """Find out the number of steps."""
        self._begin()
        self._step, self._begins_at = event.step, event.clock.step
        ends = [event.steps]
        if event.epochs is not None and event.steps_per_epoch is not None:
            ends.append(event.epochs * event.steps_per_epoch)
        known = [end - event.clock.step for end in ends if end is not None]
        if known:
            self._size = min(self._steps, (min(known) - 1) // 2)

    def on_steps(self, event: StepsDone) -> None:
        """Begin the trace, or end it."""
        if self._first_step_seconds is None:
            self._first_step_seconds = event.seconds
            self.every = Every(steps=self._size) if self._size else None
        elif self._traced_from is not None and self._traced is None:
            self._end_trace(event)
            return  # the time for writing it belongs to no step
        elif self._traced is None and self._size:
            event.read()  # waits for the device: the traced steps begin here
            self.directory.mkdir(parents=True, exist_ok=True)
            self._trace.enter_context(_backends.current().trace(str(self.directory)))
            self._traced_from = event.clock
        elif self._last is not None:
            step, seconds = self._last
            self._steady_steps += event.clock.step - step
            self._steady_seconds += event.seconds - seconds
        is_over = self._traced is not None or not self._size
        self._last = (event.clock.step, event.seconds) if is_over else None

    def _end_trace(self, event: StepsDone) -> None:
        assert self._traced_from is not None
        event.read()  # waits for the device: pending work is part of the trace
        self._trace.close()
        self._traced = self._traced_from.step + 1, event.clock.step
        self.every = None

    def on_record(self, event: Recorded) -> None:
        """Exclude validations, saves and reports from the time per step."""
        is_brief = event.scope == "steps" and self._last is not None
        self._last = (event.clock.step, event.seconds) if is_brief else None

    def on_end(self, event: Ended) -> None:
        """Measure the rest, and write the result."""
        self._trace.close()
        if event.reason.startswith("error: ") or self._first_step_seconds is None:
            return
        begun = self._traced_from
        if begun is not None and self._traced is None and event.clock.step > begun.step:
            self._traced = begun.step + 1, event.clock.step
        self.found = Profiled(
            directory=str(self.directory),
            traced=self._traced,
            first_step_seconds=self._first_step_seconds,
            step_seconds=self._step_seconds(event),
            spent=dict(event.spent),
            operations=self._operations(),
            matrix_rate=matrix_rate(),
        )
        self.directory.mkdir(parents=True, exist_ok=True)
        content = json.dumps(self.found.facts(), indent=2).encode("ascii") + b"\n"
        replace_file(self.directory / PROFILE_NAME, content)

    def _step_seconds(self, event: Ended) -> float | None:
        """Return the time of a step between others; if there is none, the average of all."""
        if self._steady_steps >= self._size > 0:
            return self._steady_seconds / self._steady_steps
        seconds = event.spent.get("device", 0.0) + event.spent.get("data", 0.0)
        steps = event.clock.step - self._begins_at
        return seconds / steps if seconds > 0 and steps > 0 else None

    def _operations(self) -> float | None:
        step = self._step
        program = None if step is None else Program.last(step, "train_step")
        if step is None or program is None:
            return None
        state = track(step).state
        with preserved(state), attributes_preserved(step):
            return program.operations()
