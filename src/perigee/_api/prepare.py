"""`prepare`: the methods of a Step compiled, for a loop that the user drives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from types import TracebackType
from typing import Any, Self

from perigee._api.arguments import (
    as_execution,
    as_run,
    as_step,
    check_count,
    check_nonfinite,
    check_step,
    named,
    sorted_callbacks,
    watched_by,
)
from perigee._api.opening import Opened, opening
from perigee._errors import ArgumentError, DataChangedError, LoopError, door
from perigee._events.clock import Clock
from perigee._events.events import (
    INTERRUPTIONS,
    Ended,
    Found,
    Hook,
    Hooks,
    Recorded,
    Started,
    StepsDone,
)
from perigee._events.protocols import Resumes
from perigee._execution import Blocks, Choice, Execution, Nonfinite, Plan, rows_on_host
from perigee._execution.program import describe
from perigee._loop.evaluation import evaluate
from perigee._loop.logged_epoch import LoggedEpoch
from perigee._loop.methods import Methods
from perigee._loop.progress import Progress, reason_to_stop
from perigee._loop.stopwatch import Stopwatch
from perigee._loop.values import end_with
from perigee._processes.workers import Workers
from perigee._runs.comparing import restated
from perigee._runs.facts import OWN_LOOP
from perigee._runs.keeping import KeptRun
from perigee._runs.run import Run
from perigee._step.averages import Column, Tally
from perigee._step.shown import Shown
from perigee._step.step import Step
from perigee._typing import Batch, Tree
from perigee.data import open_feed
from perigee.diagnostics import Finding
from perigee.writers.history import History
from perigee.writers.terminal import Progress as Display

_LEFT = "the loop was left"


@named
def prepare(
    step: Step | Callable[..., Any],
    run: Run | str | PathLike[str] | None = None,
    *,
    steps_per_epoch: int | None = 100,
    nonfinite: Nonfinite = "raise",
    callbacks: Sequence[Hook] | None = (),
    execution: Execution | Choice = "auto",
    progress: Display = "auto",
) -> Prepared:
    """Make a Step ready for a loop that you drive: an environment, a replay buffer, a search.

    >>> with pg.prepare(step, run="runs/pole") as trainer:
    ...     while trainer.goes_on(steps=10_000):
    ...         batch = step.play_and_sample(trainer.predict_step)
    ...         logs = trainer.train_step(batch)
    ...         if step.is_solved:
    ...             trainer.stop("solved")

    Each turn of the loop begins with `goes_on`, and there the run is saved, if that is due: a run
    that was killed begins a whole turn again. What the turns depend on outside variables (the
    environment, the buffer, counters, generators of NumPy) belongs into `host_state` and
    `load_host_state` of the Step.

    Args:
        step: The Step, trained in place; or a function, as in `fit`.
        run: A directory, or a `Run`, as in `fit`; cadences count steps and epochs.
        steps_per_epoch: Steps an epoch, over which logged values are exact means and after which
            metrics are reset; `None` ends epochs only at `end_epoch`.
        nonfinite: As in `fit`.
        callbacks: `Hook`s.
        execution: `"auto"`, `"graph"`, `"xla"`, or `"eager"`. One step goes into each call, and
            nothing is measured.
        progress: As in `fit`.

    Returns:
        What to drive, in a `with` block.

    Raises:
        ArgumentError: If arguments contradict each other, or several processes train together.
    """
    step = as_step(step, "train_step")
    check_count("steps_per_epoch", steps_per_epoch)
    hooks, others = sorted_callbacks(callbacks)
    if others:
        raise ArgumentError(
            "callbacks",
            type(others[0]).__name__,
            "`pg.Hook`s: there is no `fit` that a Keras callback could look at.",
            "write a `pg.Hook`, or call it yourself.",
        )
    check_nonfinite(nonfinite)
    workers = Workers(step)
    if workers.are_several:
        raise ArgumentError(
            "step",
            f"<{type(step).__name__}, trained by {workers.count} processes>",
            "one process: each of several makes batches of its own, and a step needs the same in "
            "all of them.",
            "call `pg.fit` with data that all of them read alike, or drive several devices from "
            "one process.",
        )
    asked = as_execution(execution)
    if asked.steps_per_call not in ("auto", 1):
        raise ArgumentError(
            "steps_per_call", repr(asked.steps_per_call), "1: you make the calls.", "leave it out."
        )
    asked = Execution(asked.mode, 1)
    return Prepared(
        step, _Settings(as_run(run), steps_per_epoch, nonfinite, hooks, asked, progress)
    )


@dataclass(frozen=True, slots=True)
class _Settings:
    """How a loop of the user's own trains: the arguments of `prepare`, checked."""

    run: Run | None
    steps_per_epoch: int | None
    nonfinite: Nonfinite
    hooks: Sequence[Hook]
    execution: Execution
    progress: Display


@dataclass(frozen=True, slots=True)
class _Loop:
    """What there is within the `with` block.

    Attributes:
        opened: The run, if any, and what closes in the end.
        kept: Saves and logs, or `None`.
        hooks: Are notified of what happens.
        methods: Returns programs.
        epoch: What the current epoch logs.
        stopwatch: Runs since the block was entered.
    """

    opened: Opened
    kept: KeptRun | None
    hooks: Hooks
    methods: Methods
    epoch: LoggedEpoch
    stopwatch: Stopwatch


class Prepared:
    """A Step with its methods compiled, for a loop that the user drives; see `prepare`.

    A Step that has changed is recompiled: at once where an attribute has another value, else
    at the next epoch.

    Attributes:
        step: The Step.
        clock: How many steps and epochs are finished.
        history: A `History`, with one value an epoch.
        stop_reason: Why `goes_on` returned false; `None` as long as it did not.
    """

    def __init__(self, step: Step, settings: _Settings) -> None:
        self.step = step
        self.history: History = History()
        self.stop_reason: str | None = None
        self._settings = settings
        self._stack: contextlib.ExitStack | None = None
        self._is_over = False
        self._entered: _Loop | None = None
        self._progress = Progress()
        self._turns = 0
        self._is_due = False

    @property
    def clock(self) -> Clock:
        return self._progress.clock

    # The `with` block.

    @door
    def __enter__(self) -> Self:
        if self._stack is not None or self._is_over:
            raise LoopError("with", "twice", "call `pg.prepare` again.")
        settings, stopwatch = self._settings, Stopwatch()
        with contextlib.ExitStack() as stack:
            opened = stack.enter_context(opening(self.step, settings.run, settings.execution))
            source = _OwnLoop()
            draws = None if opened.run is None else opened.run.restore_data(source)
            plan = self._plan(opened)
            self.history = opened.history(plan)
            kept = start = None
            if draws is not None:
                arguments = {
                    "steps_per_epoch": settings.steps_per_epoch,
                    "nonfinite": settings.nonfinite,
                }
                said = {"step": type(self.step).__name__, "arguments": arguments}
                start = opened.compared(settings.hooks, arguments, {}, said, is_built=False)
                assert start is not None
                kept = opened.keep(source, draws, plan, start)
            outputs = opened.outputs(kept, settings.progress)
            hooks = opened.hooks([self.history, *settings.hooks, *outputs])
            methods = Methods(
                self.step,
                settings.execution,
                plan,
                settings.nonfinite,
                watched_by(settings.hooks),
                opened.findings,
                opened.run,
            )
            state = None if opened.run is None else opened.run.loop_state
            epoch = LoggedEpoch(self.step, settings.nonfinite, state)
            loop = self._entered = _Loop(opened, kept, hooks, methods, epoch, stopwatch)
            stack.enter_context(opened.findings.passed_to(self._notify))
            with restated(self.step, start):
                self._load(loop, state)
            self._start(loop)
            opened.hold_signals()
            self._stack = stack.pop_all()
        return self

    def _plan(self, opened: Opened) -> Plan:
        """Return the plan of the run, or the usual one."""
        plan = Plan.usual(loops_well=False, mode=self._settings.execution.given_mode)
        return plan if opened.run is None else opened.run.plan or plan

    def _load(self, loop: _Loop, state: Mapping[str, Any] | None) -> None:
        """Load what the run has saved for the variables that exist already."""
        run = loop.opened.run
        if run is None or run.resumed_at is None or state is None:
            return
        run.load_what_is_built()
        run.load_host_state()
        clock, _ = run.resumed_at
        self._progress = Progress.from_state(clock, state, run.finished(None, None))
        loop.hooks.load_state(state["hooks"])

    def _start(self, loop: _Loop) -> None:
        per_epoch, seconds = self._settings.steps_per_epoch, loop.stopwatch.seconds()
        origin = None if loop.kept is None else loop.kept.origin
        loop.hooks.start(Started(self.step, self.clock, None, None, per_epoch, seconds, origin))
        if loop.kept is not None:
            loop.kept.begin()

    @door
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        loop, stack = self._loop("with"), self._stack
        assert stack is not None
        self._stack, self._is_over = None, True
        with stack:
            if error is None:
                self._leave(loop)
                return
            end_with(error, self._progress, lambda reason: self._end(loop, reason))

    def _leave(self, loop: _Loop) -> None:
        reason = self._reason(loop, None, None) or self.stop_reason or _LEFT
        ending = None
        if reason not in INTERRUPTIONS and self.clock.batch:
            ending = loop.epoch.cut_short(self._progress)
        self._save(loop, None if reason == _LEFT else reason, is_last=True)
        if ending:
            self._record("epoch", ending, loop.epoch.samples())
        loop.methods.look_back()
        self.stop_reason = reason
        self._end(loop, reason)

    def _end(self, loop: _Loop, reason: str) -> None:
        loop.hooks.end(Ended(self.clock, reason, loop.stopwatch.seconds()))

    # What the user calls.

    @door
    def goes_on(self, *, steps: int | None = None, epochs: int | None = None) -> bool:
        """Tell whether the loop takes another turn; saves first, if that is due.

        Args:
            steps: End when so many steps are finished, those before a resume included.
            epochs: The same of epochs.

        Returns:
            False when there are enough, `stop` was called, a hook requested the end, or a signal
            came: `stop_reason` says which.
        """
        loop = self._loop("goes_on")
        check_count("steps", steps)
        check_count("epochs", epochs)
        self._turns += 1
        self.stop_reason = self._reason(loop, steps, epochs)
        if self.stop_reason is None:
            if self._is_due:
                self._save(loop, None)
            return True
        if self.stop_reason not in INTERRUPTIONS:
            if self._turns == 1 and loop.opened.resumed_at is not None:
                loop.opened.warn_of_finished(self.stop_reason)
            if self.clock.batch:
                loop.epoch.cut_short(self._progress)
        self._save(loop, self.stop_reason, is_last=True)
        return False

    def stop(self, reason: str) -> None:
        """End the loop at the next `goes_on`; a run that was stopped stays so when it is resumed.

        Args:
            reason: What `stop_reason` will say.
        """
        self._progress = self._progress.stopping(reason)

    @door
    def train_step(self, batch: Batch) -> Mapping[str, float]:
        """Train on one batch.

        Args:
            batch: Arrays or tensors in any structure; batches of several structures may take turns.

        Returns:
            What the step returned, as numbers: the means over the batch. Looking at one of them
            waits for the device.
        """
        loop = self._loop("train_step")
        if loop.kept is not None and (not self._turns or self.stop_reason is not None):
            when = "before `goes_on`" if not self._turns else "after `goes_on` returned false"
            raise LoopError("train_step", when, "begin each turn of the loop with `goes_on`.")
        described = describe(batch)
        if self.clock.batch == 0:
            loop.methods.forget()
            self._progress = self._progress.with_new_epoch()
        program = loop.methods.program("train_step", batch, described)
        if self.clock.batch == 0:
            loop.epoch.begin()
        row = program.run(batch)
        loop.epoch.add(program, described, row, self._progress)
        self._progress = self._progress.after_steps(1)
        self._after_step(loop)
        return _Logs(program.columns, row)

    @door
    def test_step(self, batch: Batch) -> dict[str, float]:
        """Measure the Step on one batch, and leave it as it was; `evaluate` takes many.

        Args:
            batch: One batch.

        Returns:
            Name to mean, and every metric that the step updates. It waits for the device.
        """
        loop = self._loop("test_step")
        check_step(self.step, "test_step")
        program = loop.methods.program("test_step", batch, describe(batch))
        feed = open_feed([batch])
        try:
            return evaluate(lambda _: program, feed, Blocks(feed, 1), None)
        finally:
            feed.close()

    @door
    def predict_step(self, batch: Batch) -> Tree:
        """Run `predict_step` on one batch; what it writes stays, so that draws differ each time.

        Args:
            batch: One batch.

        Returns:
            What the step returned: tensors of the framework. Nothing waits for the device until
            they are looked at, as by `keras.ops.convert_to_numpy`.
        """
        loop = self._loop("predict_step")
        check_step(self.step, "predict_step")
        return loop.methods.program("predict_step", batch, describe(batch)).run(batch)

    @door
    def log(self, values: Mapping[str, float]) -> None:
        """Log numbers of your own: each is averaged over the epoch, where each call weighs 1.

        Args:
            values: Such as `{"episode_return": 200.0}`; under other names than the step returns.
        """
        self._loop("log").epoch.log(values)

    @door
    def end_epoch(self) -> Mapping[str, float]:
        """End the current epoch: its values go to the history and the logs; metrics are reset.

        Returns:
            The values. It waits for the device.
        """
        loop = self._loop("end_epoch")
        if not self.clock.batch:
            raise LoopError("end_epoch", "before a step of the epoch", "call it after a step.")
        values = loop.epoch.values(self._progress)
        self._progress = self._progress.after_epoch()
        loop.epoch.end()
        self._record("epoch", values, loop.epoch.samples())
        loop.methods.look_at_updates()
        self._look_whether_due(loop)
        return values

    # What follows from it.

    def _after_step(self, loop: _Loop) -> None:
        run, clock, epoch = self._settings.run, self.clock, loop.epoch
        every = None if run is None else run.record_every
        is_end = clock.batch == self._settings.steps_per_epoch
        is_window = every is not None and every.is_due(clock) and not is_end
        # What is due sees only steps that were looked at.
        if epoch.is_full or is_window or is_end:
            epoch.read(self._progress)
        seconds = loop.stopwatch.seconds()
        loop.hooks.steps(
            StepsDone(clock, 1, lambda: epoch.values(self._progress), self.stop, seconds)
        )
        if is_window:
            self._record("steps", epoch.window(self._progress))
        if epoch.stop is not None:
            self.stop(epoch.stop)
        if is_end:
            self.end_epoch()
        else:
            self._look_whether_due(loop)

    def _look_whether_due(self, loop: _Loop) -> None:
        if loop.kept is not None:
            self._is_due = self._is_due or loop.kept.is_due(self.clock)

    def _record(
        self, scope: Any, values: Mapping[str, float], samples: Mapping[str, Shown] | None = None
    ) -> None:
        loop = self._entered
        if loop is not None and (values or samples):
            seconds = loop.stopwatch.seconds()
            loop.hooks.record(
                Recorded(self.clock, scope, values, self.stop, seconds, samples or {})
            )

    def _notify(self, finding: Finding) -> None:
        loop = self._entered
        if loop is not None:
            loop.hooks.finding(Found(self.clock, finding, loop.stopwatch.seconds()))

    def _reason(self, loop: _Loop, steps: int | None, epochs: int | None) -> str | None:
        if self._progress.stop is not None:
            return self._progress.stop
        received = "signal" if loop.opened.signals.received else None
        return reason_to_stop(self.clock, epochs, steps, interruption=received)

    def _save(self, loop: _Loop, reason: str | None, is_last: bool = False) -> None:
        """Save the loop as it stands between two turns, unless that is what was loaded."""
        finished = None if reason in INTERRUPTIONS else reason
        run = loop.opened.run
        if loop.kept is None or run is None or not self.clock.step:
            return
        if (self.clock, finished) != run.resumed_at:
            loop.kept.save(self.clock, lambda: self._state(loop), finished, is_last)
            self._is_due = False

    def _state(self, loop: _Loop) -> dict[str, Any]:
        """Return what the loop itself needs to be resumed, as plain values and arrays."""
        loop.epoch.read(self._progress)
        return {
            **self._progress.state(),
            **loop.epoch.state(),
            "built": loop.methods.built(),
            "hooks": loop.hooks.state(),
        }

    def _loop(self, called: str) -> _Loop:
        """Return what there is within the `with` block."""
        if self._stack is None or self._entered is None:
            when = "after the `with` block" if self._is_over else "outside a `with` block"
            raise LoopError(called, when, "open it by `with pg.prepare(...) as trainer:`.")
        return self._entered


class _Logs(Mapping[str, float]):
    """What one step returned; the first look at it waits for the device."""

    def __init__(self, columns: Sequence[Column], row: Any) -> None:
        self._columns, self._row = columns, row
        self._means: Mapping[str, float] | None = None

    def _read(self) -> Mapping[str, float]:
        if self._means is None:
            tally = Tally()
            tally.add(self._columns, rows_on_host([self._row]))
            self._means, self._row = tally.means(), None
        return self._means

    def __getitem__(self, name: str) -> float:
        return self._read()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return repr(dict(self._read()))


class _OwnLoop:
    """Where batches come from as a run sees it: what there is to save is in the Step."""

    kind = OWN_LOOP
    resumes: Resumes = "exactly"
    host_random: Any = None

    def peek(self) -> Batch:
        return None

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if state.get("kind") != self.kind:
            raise DataChangedError(self.kind, [f"kind: {state.get('kind')} then, {self.kind} now"])
