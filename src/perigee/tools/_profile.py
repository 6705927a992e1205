"""A trace of some steps, and where the time of a training went."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from perigee import _backends
from perigee._errors import ArgumentError
from perigee._events.clock import Clock
from perigee._events.events import Ended, Hook, Recorded, Started, StepsDone
from perigee._events.schedule import Every
from perigee._execution import Program
from perigee._step.state import attributes_put_back, put_back, track
from perigee._step.step import Step
from perigee.report.profile import PROFILE_NAME, profile_lines
from perigee.tools._matrix_rate import MatrixRate, matrix_rate
from perigee.writers import replace_file


@dataclass(frozen=True, slots=True)
class Profiled:
    """What a profile came to; print it for a table.

    Attributes:
        directory: Where the trace is.
        traced: The numbers of the first and the last step in the trace; `None` where the training
            was too short for one.
        first_step_seconds: From the call of `fit` to the end of the first step.
        step_seconds: Of a step once all is compiled, the wait for data included; `None` where no
            two steps followed each other.
        spent: Where all the time went; see `Ended`.
        operations: Floating-point operations of the matrix products and convolutions of one step
            (a multiplication and an addition are two); `None` where they cannot be told.
        matrix_rate: How many a second a large matrix product reaches here.
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
        """The share of `matrix_rate` that the steps reach, from 0 to 1; `None` if not known."""
        if not self.operations or not self.step_seconds:
            return None
        return self.operations / self.step_seconds / self.matrix_rate.per_second

    def facts(self) -> dict[str, Any]:
        """Return all of it as plain values, for a file."""
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
    """Trace some steps of a training, and measure what limits it.

    >>> profile = Profile("runs/digits/profile")
    >>> pg.fit(step, data, epochs=3, run="runs/digits", callbacks=[profile])
    >>> print(profile.found)

    The first steps, which compile, are left out of the trace: as many as are in it. TensorBoard's
    profiler shows that of TensorFlow and JAX (`tensorboard --logdir runs/digits/profile`), and
    Perfetto (https://ui.perfetto.dev) that of JAX and torch. The training's numbers stay the same.

    When the training ends, the operations of a step are counted, for which it is compiled once
    more, and a large matrix product is timed, which takes about a second.

    Args:
        directory: Where the trace goes, and `profile.json` with what was measured; it is made
            where it is missing. The report of a run shows what is in its `profile/`.
        steps: How many steps to trace; of a training that has fewer than twice as many, some half.

    Attributes:
        found: What came of it, a `Profiled`; `None` before the end.

    Raises:
        ArgumentError: If `steps` is no whole number from 1.
    """

    def __init__(self, directory: str | PathLike[str], *, steps: int = 8) -> None:
        count: Any = steps
        if not isinstance(count, int) or isinstance(count, bool) or count < 1:
            raise ArgumentError(
                "steps", repr(steps), "a whole number, at least 1.", "leave it out."
            )
        self.directory: Path = Path(fspath(directory))
        self.found: Profiled | None = None
        self._steps = steps
        self._begin()

    def _begin(self) -> None:
        self.every = Every(steps=1)  # to see the first step end
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
        """Find out how many steps there will be."""
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
            return  # writing it took a while, which no step did
        elif self._traced is None and self._size:
            event.read()  # waits for the device: what is traced begins here
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
        event.read()  # waits for the device: what was begun is part of the trace
        self._trace.close()
        self._traced = self._traced_from.step + 1, event.clock.step
        self.every = None

    def on_record(self, event: Recorded) -> None:
        """Leave the time of validations, saves and reports out of that of a step."""
        is_brief = event.scope == "steps" and self._last is not None
        self._last = (event.clock.step, event.seconds) if is_brief else None

    def on_end(self, event: Ended) -> None:
        """Measure the rest, and write what came of it."""
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
        """Return the time of a step between others; where there is no such, of all on average."""
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
        variables = track(step).variables
        with put_back(variables), attributes_put_back(step):
            return program.operations()
