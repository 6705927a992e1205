"""The writers of a run as one hook; if one fails, training continues."""

import time
import warnings
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from perigee._disk import new_thread
from perigee._errors import WriterError, way_out
from perigee._events.clock import Clock
from perigee._events.events import Ended, Found, Hook, Hooks, Recorded, Started, StepsDone
from perigee._events.stored_shapes import anything, count, dict_of, fields
from perigee.writers.failures import Failures
from perigee.writers.run_directory import RunDirectory

MOST_WAITING = 10_000
"""The most records that wait in memory for a failed writer; beyond it the oldest are dropped."""

_CHECK_SECS = 1.0
"""How often the directory is looked for while nothing is written."""

GRACE_SECS = 1.0
"""How long a file may be missing before it is made again, so that no deletion is disturbed."""


@runtime_checkable
class _Restorable(Protocol):
    @property
    def missing(self) -> Path | None: ...

    def restore(self) -> None: ...


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
        failures: Counts failures, and says them; a new one by default.
        check: Called before each write, to find the directory of the run; returns whether it was
            made again since the last call, and may raise an `OSError`.
        in_background: Whether records are written by a thread, in order, so that training waits for
            no disk. Then what a writer raises is raised in the training thread by the next call,
            and `state` returns futures.
    """

    def __init__(
        self,
        writers: Mapping[str, Hook],
        *,
        directory: RunDirectory | None = None,
        is_strict: bool = False,
        failures: Failures | None = None,
        check: Callable[[], bool] | None = None,
        in_background: bool = False,
    ) -> None:
        self._failures = failures or Failures()
        self._check, self._directory = check, directory

        def guarded(name: str, writer: Hook) -> _Guarded:
            return _Guarded(name, writer, is_strict, self._failures, self._prepare)

        self._writers = {name: guarded(name, writer) for name, writer in writers.items()}
        self.may_lag: bool = Hooks([*writers.values()]).may_lag
        self._run_file = guarded("run.json", directory or Hook())
        self._files = [
            each for each in (directory, *writers.values()) if isinstance(each, _Restorable)
        ]
        self._in_background = in_background
        self._thread: ThreadPoolExecutor | None = None
        self._checked_at = 0.0
        if directory is not None:
            directory.failures = self._failures.counts

    @property
    def failures(self) -> Mapping[str, Mapping[str, int]]:
        """For each writer that failed, by name: how often, and how many records were lost."""
        return self._failures.counts

    def on_start(self, event: Started) -> None:
        """Claim the run directory, and open the writers."""
        Hooks([self._run_file, *self._writers.values()]).start(event)
        if self._in_background:
            self._thread = new_thread("perigee-writers")
        self._checked_at = event.seconds

    def on_steps(self, event: StepsDone) -> None:
        """Raise or warn of what failed in the thread meanwhile; look for the directory."""
        if self._thread is not None and self._check is not None:
            if event.seconds - self._checked_at > _CHECK_SECS:
                self._checked_at = event.seconds
                self._run(self._look)
            self._failures.tell()

    def on_record(self, event: Recorded) -> None:
        """Pass on a record."""
        self._run(lambda: Hooks([*self._writers.values()]).record(event))

    def on_finding(self, event: Found) -> None:
        """Pass on a finding."""
        self._run(lambda: Hooks([self._run_file, *self._writers.values()]).finding(event))

    def on_end(self, event: Ended) -> None:
        """Close the writers, and then write the outcome of the run to `run.json`."""
        if self._thread is not None:
            self._thread.shutdown()
            self._thread = None
        try:
            Hooks([*self._writers.values()]).end(event)
        finally:
            try:
                self._run_file.on_end(event)
            finally:
                self._failures.tell()

    def state(self) -> dict[str, Any]:
        """Return the state of each writer by name, after flushing what they wrote to the disk.

        In the background they are futures, so that the training thread need not wait.
        """
        if self._thread is None:
            states = {name: guarded.state() for name, guarded in self._writers.items()}
            self._failures.tell()
            return states
        submit = self._thread.submit
        return {name: submit(guarded.state) for name, guarded in self._writers.items()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned; a writer without saved state starts from scratch."""
        for name in self._writers.keys() & state.keys():
            self._writers[name].load_state(state[name])

    def _run(self, action: Callable[[], None]) -> None:
        """Run an action, in the thread if there is one."""
        if self._thread is None:
            action()
        else:
            self._thread.submit(self._keep_errors, action)
        self._failures.tell()

    def _keep_errors(self, action: Callable[[], None]) -> None:
        try:
            action()
        except Exception as error:  # raised by the training thread
            self._failures.say(error)

    def _look(self) -> None:
        self._run_file.attempt(self._prepare)

    def _prepare(self) -> None:
        """Find the directory; where it was made again, write there what is known of the run."""
        if self._check is None:
            return
        missing = None
        if not self._check():
            if self._missing() is None:
                return
            time.sleep(GRACE_SECS)  # the whole directory is perhaps being deleted
            missing = None if self._check() else self._missing()
        for file in self._files:
            file.restore()
        if missing:
            self._failures.count("directory")
            self._failures.say(f"{missing} was deleted in training. It is written again.")

    def _missing(self) -> Path | None:
        return next(filter(None, (file.missing for file in self._files)), None)


class _Guarded(Hook):
    """One writer, and the records that it has not written yet."""

    def __init__(
        self,
        name: str,
        writer: Hook,
        is_strict: bool,
        failures: Failures,
        prepare: Callable[[], None],
    ) -> None:
        self._name, self._writer, self._is_strict = name, writer, is_strict
        self._failures, self._prepare = failures, prepare
        self._lost = 0
        self._waiting: deque[Recorded | Found] = deque()
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
            self._lose(1)
        self.attempt(self._write)

    def on_end(self, event: Ended) -> None:
        self._clock = event.clock
        try:
            if self._waiting:
                self.attempt(self._write)
        finally:
            self._lose(len(self._waiting))
            self._waiting.clear()
            if self._lost:
                warnings.warn(
                    f"The writer {self._name!r} lost {self._lost} records of this run.",
                    RuntimeWarning,
                    stacklevel=2,
                )
            self.attempt(lambda: self._close(event))

    def state(self) -> dict[str, Any]:
        # If it cannot flush, its previous state remains valid.
        self.attempt(self._flush)
        counts = self._failures.counts.get(self._name, {})
        lost = self._lost + len(self._waiting)  # if the run has to resume from here
        return {"writer": self._state, "failed": counts.get("failed", 0), "lost": lost}

    def load_state(self, state: Mapping[str, Any]) -> None:
        fields({"writer": dict_of(anything), "failed": count(), "lost": count()})(state, self._name)
        self._failures.load(self._name, state)
        self._lost = state["lost"]
        self._writer.load_state(state["writer"])

    def _lose(self, count: int) -> None:
        self._lost += count
        self._failures.lose(self._name, self._lost)

    def _write(self) -> None:
        self._prepare()
        while self._waiting:
            event = self._waiting[0]
            if isinstance(event, Found):
                self._writer.on_finding(event)
            else:
                self._writer.on_record(event)
            self._waiting.popleft()
        self._failures.works(self._name)

    def _flush(self) -> None:
        self._prepare()
        self._state = self._writer.state()

    def _close(self, event: Ended) -> None:
        try:
            self._prepare()
        except OSError:
            if not isinstance(self._writer, RunDirectory):  # which would write; these only close
                self._writer.on_end(event)
            raise
        self._writer.on_end(event)

    def attempt(self, action: Callable[[], None]) -> None:
        """Do something; count an `OSError`, and keep a warning of it.

        Raises:
            WriterError: If it fails and the writer is strict.
        """
        try:
            action()
        except OSError as error:
            self._failures.failed(
                self._name,
                error,
                f"The writer {self._name!r} failed after step {self._clock.step}: {error}. "
                f"Training continues; its records wait in memory, at most {MOST_WAITING}, "
                f"until it works again. Fix: {way_out(error)}",
            )
            if self._is_strict:
                raise WriterError(self._name, self._clock.step, str(error)) from error
