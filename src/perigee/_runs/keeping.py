"""Saving and logging a training into its run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from perigee import _backends
from perigee._errors import CheckpointContentError, CheckpointSaveError, way_out
from perigee._events.clock import Clock
from perigee._events.events import Ended, Hook, Recorded, StepsDone
from perigee._events.protocols import Begun, Source
from perigee._execution import Plan
from perigee._execution.timing import now
from perigee._runs.comparing import Start
from perigee._runs.opening import Draws, OpenRun
from perigee._runs.restoring import MOST_BATCHES, apart, recorded_batches
from perigee._step.state import host_random, set_host_random, snapshot, track
from perigee.checkpoints import Content, arrays_of, random_state, set_random_state
from perigee.checkpoints.state import gradients_of
from perigee.data import LARGE_STATE_BYTES, state_bytes
from perigee.report import FILE_NAME as REPORT_NAME
from perigee.report import write_report
from perigee.writers._replaced import remove_remains
from perigee.writers.fan_out import Writers
from perigee.writers.json_lines import JsonLines
from perigee.writers.run_directory import RunDirectory
from perigee.writers.samples import SampleFiles

_OF_MODELS = ("trainable", "non_trainable", "variable")
"""The kinds of variables that a validation measures, and that callbacks may exchange for it."""


class KeptRun(Hook):
    """Saves a training, and notes the best value that it logs; see `Saving`.

    Args:
        opened: The run.
        writers: The writers of its logs; `None` in a process that writes nothing.
        feed: Where batches come from.
        validation: The validation data, or `None`.
        draws: What `OpenRun.restore_data` returned.
        plan: How the step runs.
        start: How this start compares with the one before.
        report_size: Called with the kind of the data and the bytes of its position, where those
            are many.

    Attributes:
        hooks: Itself with the writers, in the order in which they must be notified.
    """

    may_lag = True

    def __init__(
        self,
        opened: OpenRun,
        writers: Writers | None,
        feed: Source,
        validation: Begun | None,
        draws: Draws,
        plan: Plan | None,
        start: Start,
        report_size: Callable[[str, int], None],
    ) -> None:
        self._start = start
        self._opened, self._writers = opened, writers
        self._feed, self._validation, self._draws = feed, validation, draws
        self._plan, self._report_size = plan, report_size
        self._largest = LARGE_STATE_BYTES
        self._saved: tuple[Clock, str | None] | None = None
        self._last: Content | None = None
        self._measured: tuple[int, Mapping[str, Any]] = (-1, {})
        self._last_save = now()
        self._is_saving = False
        self._refused: Sequence[CheckpointContentError] = ()
        self._times_made = 0
        self._made = 0, 0  # at the last save: the directory of the run, that of its checkpoints
        loaded = opened.loaded
        self._best: float | None = None if loaded is None else loaded.content.facts["best"]
        self._monitored: tuple[int, float] | None = None
        self._is_better = False

    @property
    def hooks(self) -> list[Hook]:
        """Itself with the writers, which are notified first: the report reads what they wrote."""
        return [Hook() if self._writers is None else self._writers, self]

    @property
    def origin(self) -> str | None:
        """The checkpoint from which training is resumed, or `None`."""
        return self._opened.origin

    def begin(self) -> None:
        """Set the global generators of a resumed run as they were saved; before the first step."""
        if self._writers is not None:
            remove_remains(self._opened.path / REPORT_NAME)
        if self._opened.loaded is not None:
            set_random_state(self._draws.resumed)

    def is_due(self, clock: Clock) -> bool:
        """Tell whether to save now."""
        every = self._opened.run.save_every
        if self._is_better or self._times_made != self._opened.place.times_made:
            return True
        if every is None:
            return False
        if every.seconds is not None:
            return now() - self._last_save >= every.seconds
        return every.is_due(clock)

    def steps_until_due(self, clock: Clock) -> int | None:
        """Return how many steps remain until it is due; `None` where steps do not tell."""
        every = self._opened.run.save_every
        return None if every is None else every.steps_until_due(clock)

    def save(
        self,
        clock: Clock,
        state: Callable[[], Mapping[str, Any]],
        finished: str | None,
        is_last: bool = False,
    ) -> None:
        """Save, unless this same state is saved already without a better value logged since.

        Args:
            clock: The progress of the training.
            state: Returns the state of the loop.
            finished: Why the training is complete, or `None`.
            is_last: Whether the process is about to end: then the checkpoint is on the disk on
                return. Otherwise it is written in the background.

        Raises:
            CheckpointSaveError: If the last save fails; of another, only where the run is strict.
            CheckpointContentError: If the Step holds what no checkpoint can hold. All else is on
                the disk then.
        """
        opened = self._opened
        if not opened.is_writer:
            self._is_better = False
            return
        self._finish(is_fatal=opened.run.strict)  # the one before; it does not keep this one back
        self._times_made = opened.place.times_made
        try:
            # What ends a training within an epoch is not in what is saved, but may log the best.
            is_saved = self._saved == (clock, finished)
            last = self._last if is_saved and self._is_better else None
            if not is_saved or last is not None:
                content = last or self._content(clock, state(), finished)
                content = self._as_measured(content)
                monitored = self._monitored_at(clock.step)
                opened.checkpoints.save(content, monitored, background=not is_last)
                self._saved, self._is_saving = (clock, finished), True
                self._last = content if is_last else None
        except CheckpointSaveError as error:
            self._failed(error, is_fatal=is_last or opened.run.strict)
        if is_last or self._refused:
            self._finish(is_fatal=True)
        if self._refused:
            raise self._refused[0]
        self._is_better, self._last_save = False, now()

    def _finish(self, is_fatal: bool) -> None:
        """Wait for the save in progress, and report what failed in it."""
        checkpoints, failures = self._opened.checkpoints, self._opened.failures
        try:
            checkpoints.wait()
        except CheckpointSaveError as error:
            self._failed(error, is_fatal)
            return
        if not self._is_saving:
            return
        self._is_saving = False
        failures.works("checkpoints")
        is_whole = self._opened.place.times_made == self._made[0]  # else the place has said it
        if is_whole and checkpoints.times_made_again != self._made[1]:
            failures.count("directory")
            failures.say(
                f"{checkpoints.directory} was deleted or renamed in training. It is made again; "
                "older checkpoints are lost, or where it was renamed to."
            )
            failures.tell()
        self._made = self._times_made, checkpoints.times_made_again
        error = checkpoints.removal_error
        if error is None:
            failures.works("old checkpoints")
            return
        failures.failed(
            "old checkpoints",
            error,
            f"Old checkpoints in {checkpoints.directory} could not be removed: {error}. "
            f"Training continues, and each save tries again. Fix: {way_out(error)}",
        )
        failures.tell()

    def _content(self, clock: Clock, loop: Mapping[str, Any], finished: str | None) -> Content:
        opened, tracked = self._opened, track(self._opened.step)
        objects, self._refused = opened.objects()
        if self._refused and not clock.step:
            raise self._refused[0]
        facts = {
            "loop": loop,
            "random": self._random_state(),
            "began": self._draws.opened if self._feed.resumes == "by replay" else None,
            "host": opened.step.host_state(),
            "objects": objects,
            "left_out": [error.path for error in self._refused],
            "gradients": gradients_of(tracked),
            "plan": None if self._plan is None else self._plan.facts(),
            "backend": _backends.current().name,
            "devices": opened.devices,
            "finished": finished,
            "best": self._best,
            "criterion": opened.checkpoints.criterion,
            "batches": self._batches(),
            "metrics": [entry.key for entry in tracked.entries if entry.kind == "metric"],
            "seed": opened.seed,
            "stated_rates": dict(self._start.rates),
            "stated_settings": dict(self._start.settings),
            "validations": 0 if self._validation is None else self._validation.begun,
        }
        arrays = {**opened.unloaded(), **arrays_of(tracked)}
        position = self._feed.state()
        size_bytes = state_bytes(position)
        if size_bytes > self._largest:  # and again when it is twice as large
            self._largest = 2 * size_bytes
            self._report_size(self._feed.kind, size_bytes)
        return Content(clock, arrays, facts, position)

    def _monitored_at(self, step: int) -> float | None:
        """Return the value of `best` that was logged at a step, if one was."""
        return self._monitored[1] if self._monitored and self._monitored[0] == step else None

    def _as_measured(self, content: Content) -> Content:
        """Add the weights that a validation measured where others are saved to resume from."""
        step, values = self._measured
        different = apart(values, content.arrays) if step == content.clock.step else {}
        return replace(content, facts={**content.facts, "measured": different})

    def _batches(self) -> list[Any]:
        """Return the shapes by which a Step can be built, also those of before."""
        loaded = self._opened.loaded
        before = None if loaded is None else loaded.content.facts.get("batches")
        found = recorded_batches(self._opened.step)
        return (
            found + [old for old in before or () if old not in found][: MOST_BATCHES - len(found)]
        )

    def measuring(self, clock: Clock | None) -> None:
        """Take note of the weights that are about to be measured, which may not be those saved.

        Args:
            clock: The progress of the training; `None` where a validation is left before its end.
        """
        if clock is None:
            self._measured = -1, {}
        elif self._opened.is_writer:
            entries = [e for e in track(self._opened.step).entries if e.kind in _OF_MODELS]
            values = snapshot([entry.variable for entry in entries])
            measured = {entry.key: value for entry, value in zip(entries, values, strict=True)}
            self._measured = clock.step, measured

    def _random_state(self) -> dict[str, Any]:
        """Return the random state at the position of the data, not at batches drawn ahead."""
        before = self._feed.host_random
        if before is None:
            return random_state()
        after = host_random()
        set_host_random(before)
        try:
            return random_state()
        finally:
            set_host_random(after)

    def _failed(self, error: CheckpointSaveError, is_fatal: bool) -> None:
        self._saved, self._is_saving = None, False
        failures = self._opened.failures
        if is_fatal:
            failures.count("checkpoints")
            raise error
        failures.failed("checkpoints", error, f"{error}\nTraining continues.")
        failures.tell()

    def on_steps(self, event: StepsDone) -> None:
        """Report a save that failed in the background."""
        if self._opened.checkpoints.has_failed:
            self._finish(is_fatal=self._opened.run.strict)

    def on_record(self, event: Recorded) -> None:
        """Take note of a value that is the best so far."""
        best = self._opened.run.best
        value = event.values.get(best) if best else None
        if value is None or event.scope == "steps":
            return
        self._monitored = event.clock.step, value
        if self._opened.checkpoints.is_better(value, self._best):
            self._best, self._is_better = value, True

    def on_end(self, event: Ended) -> None:
        """Write the report; a failure there is a warning, and no more."""
        if self._writers is None:
            return
        failures = self._opened.failures
        try:
            self._opened.find()
            write_report(self._opened.path)
        except OSError as error:
            failures.failed(REPORT_NAME, error, self._unwritten(error))
        except Exception as error:
            failures.say(self._unwritten(error))
        failures.tell()

    def _unwritten(self, error: Exception) -> str:
        path = self._opened.path / REPORT_NAME
        return f"{path} was not written: {type(error).__name__}: {error}"


def open_writers(
    opened: OpenRun,
    plan: Plan | None,
    start: Start,
    findings: Sequence[Any],
) -> Writers | None:
    """Return the writers of a run as one; `None` in a process that writes nothing.

    Args:
        opened: The run.
        plan: How the step runs.
        start: How this start compares with the one before.
        findings: What was found before training begins.
    """
    if not opened.is_writer:
        return None
    directory = RunDirectory(
        opened.place,
        backend=_backends.current().name,
        seed=opened.seed,
        more={"plan": None if plan is None else plan.facts()},
        configuration=start.configuration,
        compared=start.record.facts(),
        changes=start.accepted,
        devices=_backends.current().device_names(),
        findings=findings,
        is_resumed=opened.loaded is not None,
    )
    writers: dict[str, Hook] = {
        "metrics": JsonLines(opened.place, directory.changes_at),
        "samples": SampleFiles(opened.place),
    }
    if opened.events is not None:
        writers["events"] = opened.events
    times_made = 0

    def check() -> bool:
        nonlocal times_made
        opened.find()
        before, times_made = times_made, opened.place.times_made
        return before != times_made

    return Writers(
        writers,
        directory=directory,
        is_strict=opened.run.strict,
        failures=opened.failures,
        check=check,
        in_background=True,
    )
