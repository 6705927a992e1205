"""The writers of a run as one hook; if one fails, training continues."""

import warnings
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from perigee._errors import WriterError
from perigee._events.clock import Clock
from perigee._events.events import Ended, Found, Hook, Hooks, Recorded, Started
from perigee._events.stored_shapes import anything, count, dict_of, fields
from perigee.writers.run_directory import RunDirectory

MOST_WAITING = 10_000
"""The most records that wait in memory for a failed writer; beyond it the oldest are dropped."""


class Writers(Hook):
    """Passes records to several writers, and tolerates failing ones.

    A writer that cannot start raises: nothing is lost then. After the first step, an `OSError` (a
    full disk, a removed directory) does not end the training: it gives one warning, and is counted.
    The record waits in memory, and is written, in order, as soon as the writer works again, which
    is tried with each new record and at the end. The number of failures of each writer, and of
    records that were lost, is stored under `failures` in `run.json`, and given in a warning at the
    end. Other exceptions of a writer are bugs in it, and are raised.

    Writers receive the start, records, findings and the end, but not steps.

    Args:
        writers: Writers by name, in the order in which they are called.
        directory: The hook that keeps `run.json`: called at the start before the writers, and at
            the end after them.
        is_strict: Whether a writer that fails ends the training, with a `WriterError`.

    Attributes:
        other_failures: Other failures to report in `run.json`, in the same form.
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
        """Count a failure of something else, for `run.json`.

        Args:
            name: What failed.
        """
        counts = self.other_failures.setdefault(name, {"failed": 0, "lost": 0})
        counts["failed"] += 1

    @property
    def failures(self) -> dict[str, dict[str, int]]:
        """For each writer that failed, by name: how often, and how many records were lost."""
        return {
            name: {"failed": guarded.failed, "lost": guarded.lost}
            for name, guarded in self._writers.items()
            if guarded.failed or guarded.lost
        }

    def on_start(self, event: Started) -> None:
        """Claim the run directory, and open the writers."""
        Hooks([self._run_file, *self._writers.values()]).start(event)

    def on_record(self, event: Recorded) -> None:
        """Pass on a record."""
        Hooks([*self._writers.values()]).record(event)

    def on_finding(self, event: Found) -> None:
        """Pass on a finding."""
        Hooks([self._run_file, *self._writers.values()]).finding(event)

    def on_end(self, event: Ended) -> None:
        """Close the writers, and then write the outcome of the run to `run.json`."""
        try:
            Hooks([*self._writers.values()]).end(event)
        finally:
            if self._directory is not None:
                self._directory.failures = {**self.failures, **self.other_failures}
            self._run_file.on_end(event)

    def state(self) -> dict[str, Any]:
        """Return the state of each writer by name, after flushing what they wrote to the disk."""
        return {name: guarded.state() for name, guarded in self._writers.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; a writer without saved state starts from scratch."""
        for name in self._writers.keys() & state.keys():
            self._writers[name].load_state(state[name])


class _Guarded(Hook):
    """One writer, and the records that it has not written yet."""

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
        # If it cannot flush, its previous state remains valid.
        self._try(self._flush)
        lost = self.lost + len(self._waiting)  # if the run has to resume from here
        return {"writer": self._state, "failed": self.failed, "lost": lost}

    def load_state(self, state: Mapping[str, Any]) -> None:
        fields({"writer": dict_of(anything), "failed": count(), "lost": count()})(state, self._name)
        self.failed, self.lost = state["failed"], state["lost"]
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
                    f"Training continues; its records wait in memory, at most {MOST_WAITING}, "
                    "until it works again.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self._is_down = True
