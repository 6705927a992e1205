"""A run: the directory that keeps a training, saved as it goes and taken up again."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal

from perigee import _backends
from perigee._errors import (
    ArgumentError,
    CheckpointSaveError,
    NoCheckpointError,
    PerigeeError,
    RunArgumentError,
    RunExistsError,
    StateMismatchError,
    StepAheadError,
)
from perigee._events.clock import Clock
from perigee._events.events import Ended, Hook, Recorded
from perigee._events.protocols import Feed, Source
from perigee._events.schedule import Every
from perigee._execution import Execution, Plan
from perigee._execution.timing import now
from perigee._step.state import host_random, set_host_random, snapshot, track
from perigee._step.step import Step
from perigee.checkpoints import (
    Checkpoints,
    Content,
    Loaded,
    RunLock,
    arrays_of,
    load_arrays,
    random_state,
    set_random_state,
)
from perigee.data import LARGE_STATE_BYTES, state_bytes
from perigee.report import FILE_NAME as REPORT_NAME
from perigee.report import read_kept, render, write_report
from perigee.writers.fan_out import Writers
from perigee.writers.json_lines import JsonLines
from perigee.writers.run_directory import RunDirectory, read_run
from perigee.writers.samples import SampleFiles
from perigee.writers.tensorboard import TensorBoard

Resume = Literal["auto", "never", "required"]

_LOGS = ("run.json", "metrics.jsonl", "events", "checkpoints", "samples", "report.html")


@dataclass(frozen=True, slots=True)
class Run:
    """A directory that keeps a training: checkpoints, logs, and what it takes to go on.

    A training that is killed at any instant and started again with the same command goes on from
    its newest checkpoint, and ends bit for bit like one that was never killed, wherever the data
    and the step allow it; what does not is said before training.

    Args:
        path: The directory; it is made where it is missing.
        save_every: When to save. A training also saves when it ends, when a signal or a
            `Preemption` stops it, and, with `best`, when that value is better than ever before.
        keep: How many of the newest checkpoints to keep; `None` keeps all.
        best: A logged value, such as `"val_loss"`: the checkpoint where it was best is kept too.
        mode: Whether `"min"` or `"max"` is better; `None` tells by the name.
        resume: `"auto"` goes on where the run stopped, if there is one; `"never"` refuses a
            directory that holds a run; `"required"` refuses one that does not.
        record_every: When to write the means of a window of steps; each epoch is written anyway.
        tensorboard: Whether to write TensorBoard's event files, to `events/`.
        strict: Whether a save or a log that fails (a full disk) ends the training. Otherwise it
            is said, counted in `run.json`, and the training goes on; a last save that fails is an
            error anyway.

    Raises:
        ArgumentError: If an argument is none of these.
    """

    path: str | PathLike[str]
    save_every: Every | None = field(default_factory=lambda: Every(epochs=1))
    keep: int | None = 3
    best: str | None = None
    mode: Literal["min", "max"] | None = None
    resume: Resume = "auto"
    record_every: Every | None = field(default_factory=lambda: Every(steps=100))
    tensorboard: bool = False
    strict: bool = False

    def __post_init__(self) -> None:
        if self.resume not in ("auto", "never", "required"):
            raise ArgumentError(
                "resume", repr(self.resume), '"auto", "never" or "required".', "choose one."
            )
        if self.record_every is not None and self.record_every.seconds is not None:
            raise ArgumentError(
                "record_every",
                repr(self.record_every),
                "a cadence of steps or epochs: what is logged does not depend on time.",
                "pass `pg.Every(steps=...)`.",
            )
        self._checkpoints()

    def restore(
        self, step: Step, which: Literal["newest", "best"] | int = "newest", *, strict: bool = True
    ) -> Clock:
        """Load what a checkpoint holds of a Step: weights, slots, metrics and seeds.

        The Step must be built: its models and, if their state is to be loaded too, its optimizers.

        Args:
            step: The Step, changed in place; nothing is changed if anything does not match.
            which: `"newest"`, `"best"` (with `best` as in the training) or the number of a step.
            strict: Whether all must match; otherwise what does not is left as it is.

        Returns:
            Where the training stood.

        Raises:
            NoCheckpointError: If there is none.
            StateMismatchError: If the Step is another one, and `strict` is true.
        """
        loaded = self._checkpoints().load(which)
        _warn_of_damage(loaded)
        load_arrays(track(step), loaded.content.arrays, strict=strict)
        return loaded.content.clock

    def _repr_html_(self) -> str:
        """Show the report of the run in a notebook; one that is not there yet by its path."""
        try:
            page = render([read_kept(self.path)])
        except (PerigeeError, OSError):
            return f"<code>{escape(repr(self))}</code>"
        return (
            f'<iframe srcdoc="{escape(page)}" style="width: 100%; height: 640px; border: 0" '
            'title="The report of the run"></iframe>'
        )

    def _checkpoints(self, lock: RunLock | None = None) -> Checkpoints:
        return Checkpoints(
            Path(fspath(self.path)) / "checkpoints",
            keep=self.keep,
            best=self.best,
            mode=self.mode,
            lock=lock,
        )


class OpenRun(Hook):
    """A run that this process holds: what was saved is there to be loaded, and more is saved.

    As a hook, it hears of values that are better than before.

    Args:
        run: What was asked for.
        step: The Step that is trained.
        seed: Of the order of the data; `None` where it has none.
        is_seed_given: Whether the user asked for this seed.
        is_writer: Whether this process writes; of several that train together, one does.

    Attributes:
        loaded: The newest intact checkpoint, or `None` where the run is new.
        seed: That of the run.
        report: Is told of a position of the data that takes many bytes.
        configuration: What the training was asked for; to be set before `writers` is called.

    Raises:
        RunInUseError: If a living process writes to the directory.
        RunExistsError: If there is a run, and it must not be resumed.
        NoCheckpointError: If there is no checkpoint, and there must be one.
        RunArgumentError: If the run has another seed than the user asks for.
    """

    may_lag = True

    def __init__(
        self,
        run: Run,
        step: Step,
        seed: int | None,
        *,
        is_seed_given: bool = False,
        is_writer: bool = True,
    ) -> None:
        self._is_writer = is_writer
        self._failed_saves = 0
        self._run, self._step, self.seed = run, step, seed
        self._path = Path(fspath(run.path))
        self._feed: Source | None = None
        self._validation: Feed | None = None
        self._unloaded: Mapping[str, Any] | None = None
        self.report: Callable[[str, int], None] = lambda kind, size_bytes: None
        self.configuration: Mapping[str, Any] = {}
        self._largest = LARGE_STATE_BYTES
        self._writers: Writers | None = None
        self._plan: Plan | None = None
        self._saved: tuple[Clock, str | None] | None = None
        self._last_save = now()
        self._best: float | None = None
        self._monitored: float | None = None
        self._is_better = False
        self._began: Mapping[str, Any] = {}
        self._random: Mapping[str, Any] = {}
        if run.resume == "never" and is_writer:
            self._refuse_existing()
        self._is_new = not self._path.exists()
        self._lock = RunLock(self._path) if is_writer else None
        try:
            self._checkpoints = run._checkpoints(self._lock)  # pyright: ignore[reportPrivateUsage]
            self.loaded = self._load()
            if self.loaded is not None:
                saved = self.loaded.content.facts["seed"]
                if is_seed_given and saved != seed:
                    raise RunArgumentError(str(self._path), "seed", repr(saved), repr(seed))
                self.seed = saved
            # The package may be missing, which is said before anything is written.
            writes_events = run.tensorboard and is_writer
            self._events = TensorBoard(self._path) if writes_events else None
        except BaseException:
            self._let_go()
            raise

    def finished(self, epochs: int | None, steps: int | None) -> str | None:
        """Return why the run that was loaded has nothing left to train; `None` where it has.

        Args:
            epochs: How many there are to be in all now, which may be more than there were.
            steps: The same of steps.
        """
        if self.loaded is None:
            return None
        clock, reason = self.loaded.content.clock, self.loaded.content.facts["finished"]
        if steps is not None and clock.step >= steps:
            return "steps"
        if epochs is not None and clock.epoch >= epochs:
            return "epochs"
        return None if reason in ("epochs", "steps") else reason

    @property
    def origin(self) -> str | None:
        """The checkpoint that was loaded, or `None`."""
        return None if self.loaded is None else str(self.loaded.path)

    @property
    def plan(self) -> Plan | None:
        """The plan of the run that was loaded; `None` where there is none for this framework."""
        if self.loaded is None or self.loaded.content.facts["plan"] is None:
            return None
        if self.loaded.content.facts["backend"] != _backends.current().name:
            return None
        return Plan.remembered(self.loaded.content.facts["plan"])

    def check_execution(self, execution: Execution) -> None:
        """Refuse another way to run the step than that of the run.

        Raises:
            RunArgumentError: If another one is asked for.
        """
        plan = self.plan
        if plan is None:
            return
        path, mode, fuses = str(self._path), execution.given_mode, execution.fuses
        if mode is not None and mode != plan.mode:
            raise RunArgumentError(path, "execution", repr(plan.mode), repr(mode))
        if fuses is not None and fuses != plan.is_fused:
            counts = {True: "more than 1, or 'auto'", False: "1"}
            raise RunArgumentError(path, "steps_per_call", counts[plan.is_fused], counts[fuses])

    def writers(self, plan: Plan | None, feed: Source, findings: Sequence[Any] = ()) -> Hook:
        """Return the writers of the run, as one hook.

        Args:
            plan: How the step runs.
            feed: Where batches come from.
            findings: What was found before it begins.
        """
        self._plan, self._feed = plan, feed
        if not self._is_writer:
            return Hook()
        directory = RunDirectory(
            self._path,
            backend=_backends.current().name,
            seed=self.seed,
            more={"plan": None if plan is None else plan.facts()},
            configuration=self.configuration,
            devices=_backends.current().device_names(),
            findings=findings,
            is_resumed=self.loaded is not None,
        )
        writers: dict[str, Hook] = {
            "metrics": JsonLines(self._path),
            "samples": SampleFiles(self._path),
        }
        if self._events is not None:
            writers["events"] = self._events
        self._writers = Writers(writers, directory=directory, is_strict=self._run.strict)
        return self._writers

    def take_up(self, feed: Source) -> None:
        """Bring the data to where it was saved, and look at its next batch.

        Data that is drawn again up to there may draw from the global generators, which are then
        as they were when it was first opened.

        Raises:
            DataChangedError: If it is other data.
        """
        self._began = random_state()
        if self.loaded is not None:
            facts = self.loaded.content.facts
            if facts["began"] is not None:
                self._began = facts["began"]
                set_random_state(self._began)
            feed.load_state(self.loaded.content.data)
            set_random_state(facts["random"])
        feed.peek()
        self._random = random_state()

    def take_up_validation(self, feed: Feed) -> None:
        """Let validations have the orders that come next, where each has one of its own."""
        self._validation = feed
        if self.loaded is not None:
            feed.begin_after(self.loaded.content.facts["validations"])

    def load_step(self) -> None:
        """Give the Step the state that was saved; it must be built.

        Raises:
            StateMismatchError: If the Step is another one. Nothing is changed then.
            StepAheadError: If it was trained further. Nothing is changed then.
        """
        assert self.loaded is not None
        self._refuse_step_ahead()
        load_arrays(track(self._step), self.loaded.content.arrays)
        self.load_host_state()

    def load_host_state(self) -> None:
        """Give the Step what it had saved of itself outside variables."""
        assert self.loaded is not None
        if self.loaded.content.facts["host"] is not None:
            self._step.load_host_state(self.loaded.content.facts["host"])

    def load_what_is_built(self, *, is_new: bool = False) -> None:
        """Give the variables of the Step that there are, and had none yet, what was saved of them.

        The others are saved again as they are, until they are there.

        Args:
            is_new: Whether variables may have been made that the run never had.

        Raises:
            StateMismatchError: If the Step is another one.
            StepAheadError: If it was trained further.
        """
        if self.loaded is None:
            return
        if self._unloaded is None:
            self._refuse_step_ahead()
            self._unloaded = self.loaded.content.arrays
        tracked = track(self._step)
        known = self.loaded.content.arrays
        missing = [e.key for e in tracked.entries if e.key not in known and not is_new]
        unlike = load_arrays(tracked, self._unloaded, strict=False)
        if missing or unlike.different:
            raise StateMismatchError(missing, (), unlike.different)
        self._unloaded = {key: self._unloaded[key] for key in unlike.unexpected}

    @property
    def unloaded(self) -> tuple[str, ...]:
        """The keys of what was saved and has no variable yet."""
        return tuple(self._unloaded or ())

    def _refuse_step_ahead(self) -> None:
        assert self.loaded is not None
        tracked = track(self._step)
        keys = {id(entry.variable): entry.key for entry in tracked.entries}
        for path, optimizer in tracked.optimizers.items():
            iterations = optimizer.iterations
            stored = self.loaded.content.arrays.get(keys.get(id(iterations), ""))
            made = int(snapshot([iterations])[0])
            if stored is not None and made > int(stored):
                raise StepAheadError(str(self.loaded.path), path, made, int(stored))

    def loop_state(self) -> Mapping[str, Any]:
        """Return what the loop saved of itself."""
        assert self.loaded is not None
        return self.loaded.content.facts["loop"]

    def close(self) -> None:
        """Wait for a save under way, and let others have the directory."""
        try:
            self._checkpoints.close()
        except CheckpointSaveError as error:  # an error of the training is on its way out
            warnings.warn(str(error), RuntimeWarning, stacklevel=2)
        finally:
            self._let_go()

    def _let_go(self) -> None:
        if self._lock is None:
            return
        self._lock.release()
        if self._is_new and self._writers is None:  # it never began: only the lock is there
            shutil.rmtree(self._path, ignore_errors=True)

    # As the loop sees it: see `perigee._events.protocols.Saving`.

    def begin(self) -> None:
        """Set the global generators of a resumed run as they were when it was saved."""
        if self.loaded is not None:
            set_random_state(self._random)

    def is_due(self, clock: Clock) -> bool:
        """Tell whether to save now."""
        every = self._run.save_every
        if self._is_better:
            return True
        if every is None:
            return False
        if every.seconds is not None:
            return now() - self._last_save >= every.seconds
        return every.is_due(clock)

    def steps_until_due(self, clock: Clock) -> int | None:
        """Return how many steps remain until it is due; `None` where steps do not tell."""
        return None if self._run.save_every is None else self._run.save_every.steps_until_due(clock)

    def _random_state(self) -> dict[str, Any]:
        """Return the random state at the position of the data, not at batches taken ahead."""
        assert self._feed is not None
        before = self._feed.host_random
        if before is None:
            return random_state()
        now = host_random()
        set_host_random(before)
        try:
            return random_state()
        finally:
            set_host_random(now)

    def save(
        self,
        clock: Clock,
        state: Callable[[], Mapping[str, Any]],
        finished: str | None,
        is_last: bool = False,
    ) -> None:
        """Save, in the background unless it is the last time.

        Raises:
            CheckpointSaveError: If the last save fails; of another, only where the run is strict.
        """
        if not self._is_writer:
            self._is_better = False
            return
        assert self._feed is not None
        try:
            self._checkpoints.wait()
        except CheckpointSaveError as error:  # of the one before; it does not keep this one back
            self._failed(error, is_fatal=self._run.strict)
        try:
            if self._saved != (clock, finished):
                facts = {
                    "loop": state(),
                    "random": self._random_state(),
                    "began": self._began if self._feed.resumes == "by replay" else None,
                    "host": self._step.host_state(),
                    "plan": None if self._plan is None else self._plan.facts(),
                    "backend": _backends.current().name,
                    "finished": finished,
                    "best": self._best,
                    "seed": self.seed,
                    "validations": 0 if self._validation is None else self._validation.begun,
                }
                arrays = {**(self._unloaded or {}), **arrays_of(track(self._step))}
                position = self._feed.state()
                self._look_at_size(position)
                content = Content(clock, arrays, facts, position)
                monitored, self._monitored = self._monitored, None
                self._checkpoints.save(content, monitored, background=not is_last)
                self._saved = clock, finished
            if is_last:
                self._checkpoints.wait()
        except CheckpointSaveError as error:
            self._failed(error, is_fatal=is_last or self._run.strict)
        self._is_better, self._last_save = False, now()

    def _look_at_size(self, position: Mapping[str, Any]) -> None:
        """Tell of a position of the data that is large, and again when it is twice as large."""
        assert self._feed is not None
        size_bytes = state_bytes(position)
        if size_bytes > self._largest:
            self._largest = 2 * size_bytes
            self.report(self._feed.kind, size_bytes)

    def _failed(self, error: CheckpointSaveError, is_fatal: bool) -> None:
        self._failed_saves += 1
        self._saved = None
        if self._writers is not None:
            counts = {"failed": self._failed_saves, "lost": 0}
            self._writers.other_failures["checkpoints"] = counts
        if is_fatal:
            raise error
        warnings.warn(f"{error}\nThe training goes on.", RuntimeWarning, stacklevel=3)

    def on_record(self, event: Recorded) -> None:
        """Take note of a value that is the best so far."""
        value = event.values.get(self._run.best) if self._run.best else None
        if value is None or event.scope == "steps":
            return
        self._monitored = value
        if self._checkpoints.is_better(value, self._best):
            self._best, self._is_better = value, True

    def on_end(self, event: Ended) -> None:
        """Write the report; what goes wrong there is said, and no more."""
        if self._writers is None:
            return
        try:
            write_report(self._path)
        except Exception as error:
            warnings.warn(
                f"{self._path / REPORT_NAME} was not written: {type(error).__name__}: {error}",
                RuntimeWarning,
                stacklevel=2,
            )

    # Making it.

    def _refuse_existing(self) -> None:
        for name in _LOGS:
            if (self._path / name).exists():
                raise RunExistsError(str(self._path), name)

    def _load(self) -> Loaded | None:
        if self._checkpoints.steps():
            loaded = self._checkpoints.load("newest")
            _warn_of_damage(loaded)
            self._best = loaded.content.facts["best"]
            return loaded
        if self._run.resume == "required":
            raise NoCheckpointError(str(self._checkpoints.directory), "newest", [], [])
        if self._is_writer and (
            read_run(self._path) is not None or (self._path / "metrics.jsonl").exists()
        ):
            # It was killed before it first saved: its logs tell of nothing that remains.
            for name in _LOGS:
                remains = self._path / name
                if remains.is_dir():
                    shutil.rmtree(remains)
                else:
                    remains.unlink(missing_ok=True)
        return None


def _warn_of_damage(loaded: Loaded) -> None:
    for error in loaded.passed_over:
        warnings.warn(f"A checkpoint was passed over. {error}", RuntimeWarning, stacklevel=3)
