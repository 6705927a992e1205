"""What an epoch of a loop of the user's own logs, on batches of whatever structures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from perigee._errors import ArgumentError
from perigee._execution import Nonfinite, Program, applied, named_rates, updated_metrics
from perigee._loop.progress import Progress
from perigee._loop.values import Values
from perigee._step.averages import Column, Tally
from perigee._step.shown import Shown
from perigee._step.state import track
from perigee._step.step import Step
from perigee._step.updates import reset_metrics


class LoggedEpoch:
    """Collects what the steps of the current epoch log, and what the user logs beside them.

    Args:
        step: The Step.
        nonfinite: What happens when a returned value or the state is not finite.
        state: What `state` returned, or `None`.

    Attributes:
        ending: The values of an epoch that the end of the loop has cut short, or `None`.
    """

    def __init__(
        self, step: Step, nonfinite: Nonfinite, state: Mapping[str, Any] | None = None
    ) -> None:
        self._step = step
        self._nonfinite: Nonfinite = nonfinite
        self._values: Values | None = None
        self._program: Program | None = None
        self._trained: dict[str, Program] = {}  # by the structure of the batch
        self._own = Tally() if state is None else Tally.from_state(state["own"])
        # Paths of optimizers, by batches of any structure.
        self._applied = dict.fromkeys([] if state is None else state.get("applied", ()))
        self.ending: Mapping[str, float] | None = None if state is None else state["ending"]

    @property
    def is_full(self) -> bool:
        """Whether enough rows wait on the device to be read."""
        return self._values is not None and self._values.is_full

    @property
    def stop(self) -> str | None:
        """Why its values stop the training, or `None`."""
        return None if self._values is None else self._values.stop

    def begin(self) -> None:
        """Begin another epoch: metrics are reset, and nothing is trained yet."""
        self._trained, self._values = {}, None
        reset_metrics(self._step)

    def end(self) -> None:
        """Let go of what was logged: the epoch is recorded."""
        self._values, self._own = None, Tally()

    def add(self, program: Program, described: str, row: Any, progress: Progress) -> None:
        """Take in the row of a step, which may stay on the device.

        Args:
            program: What ran.
            described: The structure of its batch.
            row: What it returned.
            progress: Before the step.
        """
        if self._values is None or program is not self._program:
            self.read(progress)
            self._values = Values(program, self._nonfinite, progress.epoch, progress.window)
            self._program = program
        self._trained[described] = program
        self._applied |= dict.fromkeys(applied(program.rehearsal))
        self._values.add(row)
        self.ending = None

    def log(self, values: Mapping[str, float]) -> None:
        """Take in numbers of the user's, where each call weighs 1."""
        for name, value in values.items():
            self._own.add((Column(name, "mean"),), np.array([[[float(value), 1.0]]]))

    def read(self, progress: Progress) -> None:
        """Read what waits on the device. It waits for it."""
        if self._values is not None:
            self._values.read(progress.clock)

    def window(self, progress: Progress) -> dict[str, float]:
        """Return what `Values.window` does, and learning rates. It waits for the device."""
        found = self._values and self._values.window(progress.clock, self._trained.values())
        return {**(found or {}), **self._rates()}

    def cut_short(self, progress: Progress) -> Mapping[str, float] | None:
        """Return the values of the epoch, which the end of the loop cuts short."""
        if self._trained:
            self.ending = self.values(progress)
        return self.ending

    def values(self, progress: Progress) -> dict[str, float]:
        """Return the exact values of the epoch so far. It waits for the device."""
        self.read(progress)
        means = progress.epoch.means()
        values = dict(means)
        for program in self._trained.values():
            values |= updated_metrics(program, means)
        own = self._own.means()
        for name in own.keys() & values.keys():
            raise ArgumentError(
                "log", repr(name), "a name that the step does not log itself.", "choose another."
            )
        return {**values, **own, **self._rates()}

    def samples(self) -> dict[str, Shown]:
        """Return what was logged as samples since the last time."""
        return {n: s for program in self._trained.values() for n, s in program.samples().items()}

    def state(self) -> dict[str, Any]:
        """Return what must survive a restart, beside the progress."""
        return {
            "own": self._own.state(),
            "applied": list(self._applied),
            "ending": None if self.ending is None else dict(self.ending),
        }

    def _rates(self) -> dict[str, float]:
        optimizers = track(self._step).optimizers
        return named_rates({path: optimizers[path] for path in self._applied if path in optimizers})
