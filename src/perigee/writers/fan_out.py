"""The writers of a run as one hook, of which one may fail and training goes on."""

import warnings
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from perigee._errors import WriterError
from perigee._events.clock import Clock
from perigee._events.events import Ended, Found, Hook, Hooks, Recorded, Started
from perigee.writers.run_directory import RunDirectory

MOST_WAITING = 10_000
"""Records that wait in memory for a writer that fails; beyond it the oldest are lost."""


class Writers(Hook):
    """Pass records on to several writers, and live with one that fails.

    A writer that cannot begin raises: nothing is lost then. From the first step on, an `OSError`
    (a full disk, a directory that went away) does not end the training: it is said once, as a
    warning, and counted. The record waits in memory, and is written, in order, as soon as the
    writer takes records again, which is tried with each new one and at the end. How often each
    writer failed, and how many records were lost for good, stands under `failures` in `run.json`,
    and in a warning at the end. Other exceptions of a writer are mistakes in it, and come out.

    Writers are told of the start, of records and of the end, not of steps.

    Args:
        writers: By name, in the order in which they are told.
        directory: What keeps `run.json`: told of the start before the writers, and of the end
            after them.
        is_strict: Whether a writer that fails ends the training, with a `WriterError`.

    Attributes:
        other_failures: What else failed, to be told of in `run.json` too, in the same form.
    """

    def __init__(
        self,
        writers: Mapping[str, Hook],
        *,
        directory: RunDirectory | None = None,
        is_strict: bool = False,
    ) -> None:
        self._writers = {name: _Guarded(name, w, is_strict) for name, w in writers.items()}
        self.other_failures: dict[str, dict[str, int]] = {}
        self.may_lag: bool = Hooks([*writers.values()]).may_lag
        self._directory = directory
        self._run_file = _Guarded("run.json", directory or Hook(), is_strict)

    def count_failure(self, name: str) -> None:
        """Count a failure of something else, for `run.json`."""
        counts = self.other_failures.setdefault(name, {"failed": 0, "lost": 0})
        counts["failed"] += 1

    @property
    def failures(self) -> dict[str, dict[str, int]]:
        """By the name of a writer that failed: how often, and how many records were lost."""
        return {
            name: {"failed": guarded.failed, "lost": guarded.lost}
            for name, guarded in self._writers.items()
            if guarded.failed or guarded.lost
        }

    def on_start(self, event: Started) -> None:
        """Make the run directory its own, and open the writers."""
        Hooks([self._run_file, *self._writers.values()]).start(event)

    def on_record(self, event: Recorded) -> None:
        """Pass a record on."""
        Hooks([*self._writers.values()]).record(event)

    def on_finding(self, event: Found) -> None:
        """Pass on what was found."""
        Hooks([self._run_file, *self._writers.values()]).finding(event)

    def on_end(self, event: Ended) -> None:
        """Close the writers, and then say in `run.json` what became of the run."""
        try:
            Hooks([*self._writers.values()]).end(event)
        finally:
            if self._directory is not None:
                self._directory.failures = {**self.failures, **self.other_failures}
            self._run_file.on_end(event)

    def state(self) -> dict[str, Any]:
        """Return the state of each writer by its name; what they wrote is on the disk then."""
        return {name: guarded.state() for name, guarded in self._writers.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned; a writer that it does not name begins anew."""
        for name in self._writers.keys() & state.keys():
            self._writers[name].load_state(state[name])


class _Guarded(Hook):
    """One writer, and the records that it has not taken yet."""

    def __init__(self, name: str, writer: Hook, is_strict: bool) -> None:
        self.failed = self.lost = 0
        self._name, self._writer, self._is_strict = name, writer, is_strict
        self._waiting: deque[Recorded | Found] = deque()
        self._is_down = False
        self._clock = Clock()
        self._state: Mapping[str, Any] = {}

    def on_start(self, event: Started) -> None:
        self._clock = event.clock
        self._writer.on_start(event)
        self._state = self._writer.state()

    def on_record(self, event: Recorded) -> None:
        self._take(event)

    def on_finding(self, event: Found) -> None:
        self._take(event)

    def _take(self, event: Recorded | Found) -> None:
        self._clock = event.clock
        self._waiting.append(event)
        if len(self._waiting) > MOST_WAITING:
            self._waiting.popleft()
            self.lost += 1
        self._try(self._write)

    def on_end(self, event: Ended) -> None:
        self._clock = event.clock
        try:
            if self._waiting:
                self._try(self._write)
        finally:
            self.lost += len(self._waiting)
            self._waiting.clear()
            if self.lost:
                warnings.warn(
                    f"The writer {self._name!r} lost {self.lost} records of this run.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._try(lambda: self._writer.on_end(event))

    def state(self) -> dict[str, Any]:
        # One that cannot flush promises no more than it did before.
        self._try(self._flush)
        lost = self.lost + len(self._waiting)  # if the run has to go on from here
        return {"writer": self._state, "failed": self.failed, "lost": lost}

    def load_state(self, state: Mapping[str, Any]) -> None:
        self.failed, self.lost = int(state["failed"]), int(state["lost"])
        self._writer.load_state(state["writer"])

    def _write(self) -> None:
        while self._waiting:
            event = self._waiting[0]
            if isinstance(event, Found):
                self._writer.on_finding(event)
            else:
                self._writer.on_record(event)
            self._waiting.popleft()
        self._is_down = False

    def _flush(self) -> None:
        self._state = self._writer.state()

    def _try(self, action: Callable[[], None]) -> None:
        try:
            action()
        except OSError as error:
            self.failed += 1
            if self._is_strict:
                raise WriterError(self._name, self._clock.step, str(error)) from error
            if not self._is_down:
                warnings.warn(
                    f"The writer {self._name!r} failed after step {self._clock.step}: {error}. "
                    f"Training goes on; its records wait in memory, at most {MOST_WAITING}, until "
                    "it takes them again.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._is_down = True
