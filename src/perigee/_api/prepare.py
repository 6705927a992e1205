"""`prepare`: the methods of a Step compiled, for a loop that the user drives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Self

import numpy as np

from perigee import diagnostics
from perigee._api.arguments import (
    as_execution,
    as_run,
    check_count,
    check_nonfinite,
    check_step,
    sorted_callbacks,
    watched_by,
)
from perigee._errors import ArgumentError, DataChangedError, LoopError, StateMismatchError
from perigee._events.clock import Clock
from perigee._events.events import Ended, Found, Hook, Hooks, Recorded, Started, StepsDone
from perigee._events.protocols import Resumes
from perigee._events.signals import Signals
from perigee._execution import (
    Blocks,
    Choice,
    Execution,
    Nonfinite,
    Plan,
    Program,
    applied,
    logged_metrics,
    named_rates,
    rows_on_host,
)
from perigee._execution.program import describe
from perigee._execution.timing import now
from perigee._loop.evaluation import evaluate
from perigee._loop.programs import Programs
from perigee._loop.training import INTERRUPTIONS
from perigee._loop.values import Values, note_where
from perigee._processes.workers import Workers
from perigee._runs.run import OpenRun, Run
from perigee._step.averages import Column, Tally
from perigee._step.frame import Method
from perigee._step.shown import Shown
from perigee._step.state import INTERNALS, track
from perigee._step.step import Step
from perigee._typing import Batch, Tree
from perigee.checkpoints import random_state, set_random_state
from perigee.data import open_feed
from perigee.writers.history import History
from perigee.writers.terminal import Progress, terminal

_LEFT = "the loop was left"
_MANY_CHANGES = 5


def prepare(
    step: Step,
    run: Run | str | PathLike[str] | None = None,
    *,
    steps_per_epoch: int | None = 100,
    nonfinite: Nonfinite = "raise",
    callbacks: Sequence[Hook] | None = (),
    execution: Execution | Choice = "auto",
    progress: Progress = "auto",
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
        step: The Step, trained in place.
        run: A directory, or a `Run`, as in `fit`; cadences count steps and epochs.
        steps_per_epoch: Steps an epoch, over which logged values are exact means and after which
            metrics begin anew; `None` ends epochs only at `end_epoch`.
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
    check_step(step, "train_step")
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
    return Prepared(step, as_run(run), steps_per_epoch, nonfinite, hooks, asked, progress)


class Prepared:
    """A Step with its methods compiled, for a loop that the user drives; see `prepare`.

    A Step that has changed is compiled again: at once where an attribute has another value, else
    at the next epoch.

    Attributes:
        step: The Step.
        clock: How many steps and epochs are finished.
        history: A `History`, with one value an epoch.
        stop_reason: Why `goes_on` returned false; `None` as long as it did not.
    """

    def __init__(
        self,
        step: Step,
        run: Run | None,
        steps_per_epoch: int | None,
        nonfinite: Nonfinite,
        hooks: Sequence[Hook],
        execution: Execution,
        progress: Progress,
    ) -> None:
        self.step = step
        self.clock: Clock = Clock()
        self.history: History = History()
        self.stop_reason: str | None = None
        self._run, self._steps_per_epoch = run, steps_per_epoch
        self._nonfinite: Nonfinite = nonfinite
        self._execution, self._given_hooks = execution, hooks
        self._shown = terminal(progress)
        self._signals = Signals()
        self._stack: contextlib.ExitStack | None = None
        self._is_over = False
        self._opened: OpenRun | None = None
        self._source = _OwnLoop()
        self._hooks = Hooks()
        self._asks: dict[Method, Programs] = {}
        self._found: dict[tuple[Method, str], Program] = {}
        self._glance: Any = None
        self._made: dict[tuple[Method, str], tuple[Program, Mapping[str, Any]]] = {}
        self._changes = 0
        self._built: dict[tuple[str, str], None] = {}
        self._to_rebuild: set[tuple[str, str]] = set()
        self._values: Values | None = None
        self._program_of_values: Program | None = None
        self._trained: dict[str, Program] = {}  # in the epoch under way, by the batch
        self._applied: dict[str, None] = {}  # paths of optimizers, by batches of any structure
        self._epoch, self._window, self._own = Tally(), Tally(), Tally()
        self._asked: str | None = None
        self._turns = 0
        self._is_due = False
        self._loaded: tuple[Clock, str | None] | None = None
        self._ending: Mapping[str, float] | None = None
        self._began = now()

    # The `with` block.

    def __enter__(self) -> Self:
        if self._stack is not None or self._is_over:
            raise LoopError("with", "twice", "call `pg.prepare` again.")
        self._began = now()
        with contextlib.ExitStack() as stack:
            stack.callback(self._signals.deliver)  # last: it may end the process
            plan = self._take_up(stack)
            kept: list[Hook] = []
            if self._opened is not None:
                self._opened.configuration = {
                    "step": type(self.step).__name__,
                    "arguments": {
                        "steps_per_epoch": self._steps_per_epoch,
                        "nonfinite": self._nonfinite,
                    },
                }
                kept = [self._opened.writers(plan, self._source, self.history.findings)]
            after = [hook for hook in (self._opened, self._shown) if hook is not None]
            self._hooks = Hooks([self.history, *self._given_hooks, *kept, *after])
            self._prepare_programs(plan)
            if self._opened is not None:
                self._load(self._opened)
            self._hooks.start(
                Started(
                    self.step,
                    self.clock,
                    None,
                    None,
                    self._steps_per_epoch,
                    self._now(),
                    self._opened.origin if self._opened else None,
                )
            )
            if self._opened is not None:
                self._opened.begin()
                stack.enter_context(self._signals)
            self._stack = stack.pop_all()
        return self

    def _take_up(self, stack: contextlib.ExitStack) -> Plan:
        """Open the run, and return how the methods run."""
        mode = self._execution.given_mode
        plan = Plan.usual(loops_well=False, mode=mode)
        if self._run is None:
            return plan
        self._opened = OpenRun(self._run, self.step, None)
        stack.callback(self._opened.close)
        self._opened.take_up(self._source)
        self._opened.check_execution(self._execution)
        return self._opened.plan or plan

    def _prepare_programs(self, plan: Plan) -> None:
        self.history.plan = plan
        train = Programs(
            self.step,
            "train_step",
            self._execution,
            history=self.history,
            nonfinite=self._nonfinite,
            watches=watched_by(self._given_hooks),
        )
        train.is_alone = False
        train.tell = lambda finding: self._hooks.finding(Found(self.clock, finding, self._now()))
        self._asks = {"train_step": train}
        for method in ("test_step", "predict_step"):
            self._asks[method] = Programs(self.step, method, self._execution)
        for programs in self._asks.values():
            programs.plan = plan
        train.is_kept = self._opened is not None

    def _load(self, opened: OpenRun) -> None:
        if opened.loaded is None:
            return
        opened.load_what_is_built()
        opened.load_host_state()
        state, finished = opened.loop_state(), opened.loaded.content.facts["finished"]
        self.clock = self.history.resumed_from = opened.loaded.content.clock
        self._loaded = self.clock, finished
        self._asked = None if finished in ("epochs", "steps") else finished
        self._epoch = Tally.from_state(state["epoch"])
        self._window = Tally.from_state(state["window"])
        self._own = Tally.from_state(state["own"])
        self._ending = state["ending"]
        self._to_rebuild = {(method, batch) for method, batch in state["built"]}
        self._built = dict.fromkeys(self._to_rebuild)
        self._applied = dict.fromkeys(state.get("applied", ()))
        self._hooks.load_state(state["hooks"])

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stack, self._stack, self._is_over = self._stack, None, True
        assert stack is not None
        with stack:
            if error is not None:
                note_where(error, self.clock)
                try:
                    self._end(f"error: {type(error).__name__}")
                except Exception as later:  # what came first comes out
                    error.add_note(
                        f"A hook that was told so raised {type(later).__name__}: {later}"
                    )
                return
            self._leave()

    def _leave(self) -> None:
        reason = self._reason(None, None) or self.stop_reason or _LEFT
        if reason not in INTERRUPTIONS and self.clock.batch:
            if self._trained:
                self._ending = self._epoch_values()
            ending = self._ending
        else:
            ending = None
        self._save(None if reason == _LEFT else reason, is_last=True)
        if ending:
            self._record("epoch", ending, self._samples())
        self._look_at_updates()
        self._asks["train_step"].look_back()
        self.stop_reason = reason
        self._end(reason)

    def _end(self, reason: str) -> None:
        self._hooks.end(Ended(self.clock, reason, self._now()))

    # What the user calls.

    def goes_on(self, *, steps: int | None = None, epochs: int | None = None) -> bool:
        """Tell whether the loop takes another turn; saves first, if that is due.

        Args:
            steps: End when so many steps are finished, those before a resume included.
            epochs: The same of epochs.

        Returns:
            False when there are enough, `stop` was called, a hook asked for the end, or a signal
            came: `stop_reason` says which.
        """
        self._check_open("goes_on")
        check_count("steps", steps)
        check_count("epochs", epochs)
        self._turns += 1
        self.stop_reason = self._reason(steps, epochs)
        if self.stop_reason is None:
            if self._is_due:
                self._save(None)
            return True
        if self.stop_reason not in INTERRUPTIONS and self.clock.batch and self._trained:
            self._ending = self._epoch_values()
        self._save(self.stop_reason, is_last=True)
        return False

    def stop(self, reason: str) -> None:
        """End the loop at the next `goes_on`; a run that was stopped stays so when it is resumed.

        Args:
            reason: What `stop_reason` will say.
        """
        self._asked = self._asked or reason

    def train_step(self, batch: Batch) -> Mapping[str, float]:
        """Train on one batch.

        Args:
            batch: Arrays or tensors in any structure; batches of several structures may take turns.

        Returns:
            What the step returned, as numbers: the means over the batch. Looking at one of them
            waits for the device.
        """
        self._check_open("train_step")
        if self._opened is not None and (not self._turns or self.stop_reason is not None):
            when = "before `goes_on`" if not self._turns else "after `goes_on` returned false"
            raise LoopError("train_step", when, "begin each turn of the loop with `goes_on`.")
        described = describe(batch)
        if self.clock.batch == 0:
            self._found.clear()  # a Step that has changed is seen, as in `fit`
        program = self._program("train_step", batch, described)
        if self.clock.batch == 0:
            self._begin_epoch()
        if self._values is None or program is not self._program_of_values:
            if self._values is not None:
                self._values.read(self.clock)
            self._values = Values(program, self._nonfinite, self._epoch, self._window)
            self._program_of_values = program
        self._trained[described] = program
        self._applied |= dict.fromkeys(applied(program.rehearsal))
        row = program.run(batch)
        self._values.add(row)
        self._ending = None
        self.clock = self.clock.after_steps(1)
        self._after_step()
        return _Logs(program.columns, row)

    def test_step(self, batch: Batch) -> dict[str, float]:
        """Measure the Step on one batch, and leave it as it was; `evaluate` takes many.

        Args:
            batch: One batch.

        Returns:
            Name to mean, and every metric that the step updates. It waits for the device.
        """
        self._check_open("test_step")
        check_step(self.step, "test_step")
        program = self._program("test_step", batch, describe(batch))
        feed = open_feed([batch])
        try:
            return evaluate(lambda _: program, feed, Blocks(feed, 1), None)
        finally:
            feed.close()

    def predict_step(self, batch: Batch) -> Tree:
        """Run `predict_step` on one batch; what it writes stays, so that draws differ each time.

        Args:
            batch: One batch.

        Returns:
            What the step returned: tensors of the framework. Nothing waits for the device until
            they are looked at, as by `keras.ops.convert_to_numpy`.
        """
        self._check_open("predict_step")
        check_step(self.step, "predict_step")
        return self._program("predict_step", batch, describe(batch)).run(batch)

    def log(self, values: Mapping[str, float]) -> None:
        """Log numbers of your own: each is averaged over the epoch, where each call weighs 1.

        Args:
            values: Such as `{"episode_return": 200.0}`; under other names than the step returns.
        """
        self._check_open("log")
        for name, value in values.items():
            self._own.add((Column(name, "mean"),), np.array([[[float(value), 1.0]]]))

    def end_epoch(self) -> Mapping[str, float]:
        """End the epoch under way: its values go to the history and the logs; metrics begin anew.

        Returns:
            The values. It waits for the device.
        """
        self._check_open("end_epoch")
        if not self.clock.batch:
            raise LoopError("end_epoch", "before a step of the epoch", "call it after a step.")
        values = self._epoch_values()
        self.clock = self.clock.after_epoch()
        self._values, self._own = None, Tally()
        self._record("epoch", values, self._samples())
        self._look_at_updates()
        if self._opened is not None:
            self._is_due = self._is_due or self._opened.is_due(self.clock)
        return values

    # What follows from it.

    def _after_step(self) -> None:
        assert self._values is not None
        values, clock = self._values, self.clock
        every = None if self._run is None else self._run.record_every
        is_end = clock.batch == self._steps_per_epoch
        is_window = every is not None and every.is_due(clock) and not is_end
        # What is due sees only steps that were looked at.
        if values.is_full or is_window or is_end:
            values.read(clock)
        self._hooks.steps(StepsDone(clock, 1, self._epoch_values, self.stop, self._now()))
        if is_window:
            self._record("steps", {**values.window(clock), **self._rates()})
        if values.stop is not None:
            self.stop(values.stop)
        if is_end:
            self.end_epoch()
        elif self._opened is not None:
            self._is_due = self._is_due or self._opened.is_due(clock)

    def _begin_epoch(self) -> None:
        self._epoch, self._trained = Tally(), {}
        self._values = None
        for metric in track(self.step).metrics.values():
            metric.reset_state()

    def _epoch_values(self) -> dict[str, float]:
        """Return the exact values of the epoch so far. It waits for the device."""
        if self._values is not None:
            self._values.read(self.clock)
        values = dict(self._epoch.means())
        for program in self._trained.values():
            values |= logged_metrics(program.rehearsal)
        own = self._own.means()
        for name in own.keys() & values.keys():
            raise ArgumentError(
                "log", repr(name), "a name that the step does not log itself.", "choose another."
            )
        return {**values, **own, **self._rates()}

    def _rates(self) -> dict[str, float]:
        optimizers = track(self.step).optimizers
        return named_rates({path: optimizers[path] for path in self._applied if path in optimizers})

    def _look_at_updates(self) -> None:
        """Report what nothing updates, now that batches of each structure have been there."""
        made = [
            program for (method, _), (program, _) in self._made.items() if method == "train_step"
        ]
        is_all = not any(method == "train_step" for method, _ in self._to_rebuild)  # of the run
        if made and is_all:
            self._asks["train_step"].look_at_updates(made)

    def _record(
        self, scope: Any, values: Mapping[str, float], samples: Mapping[str, Shown] | None = None
    ) -> None:
        if values or samples:
            event = Recorded(self.clock, scope, values, self.stop, self._now(), samples or {})
            self._hooks.record(event)

    def _samples(self) -> dict[str, Shown]:
        return {n: s for program in self._trained.values() for n, s in program.samples().items()}

    def _reason(self, steps: int | None, epochs: int | None) -> str | None:
        if self._asked is not None:
            return self._asked
        if self._signals.received:
            return "signal"
        if steps is not None and self.clock.step >= steps:
            return "steps"
        if epochs is not None and self.clock.epoch >= epochs:
            return "epochs"
        return None

    def _save(self, finished: str | None, is_last: bool = False) -> None:
        """Save the loop as it stands between two turns, unless that is what was loaded."""
        finished = None if finished in INTERRUPTIONS else finished
        if self._opened is None or not self.clock.step or (self.clock, finished) == self._loaded:
            return
        self._opened.save(self.clock, self._state, finished, is_last)
        self._is_due = False

    def _state(self) -> dict[str, Any]:
        """Return what the loop itself needs to go on, as plain values and arrays."""
        if self._values is not None:
            self._values.read(self.clock)
        return {
            "epoch": self._epoch.state(),
            "window": self._window.state(),
            "own": self._own.state(),
            "applied": list(self._applied),
            "ending": None if self._ending is None else dict(self._ending),
            "built": [list(key) for key in self._built],
            "hooks": self._hooks.state(),
        }

    def _program(self, method: Method, batch: Batch, described: str) -> Program:
        """Return the program, made anew where the Step is seen to have changed."""
        glance = _glance(self.step)
        if glance != self._glance:
            self._found.clear()
            self._glance = glance
        key = method, described
        program = self._found.get(key)
        if program is None:
            is_rebuilt = key in self._to_rebuild
            # What is made draws seeds for its variables; a resumed run has drawn them before.
            before = random_state() if is_rebuilt else None
            program = self._found[key] = self._asks[method](batch)
            self._look_at_changes(key, program)
            if self._opened is not None and self._opened.loaded is not None:
                self._opened.load_what_is_built(is_new=not is_rebuilt)
                self._to_rebuild.discard(key)
                if not self._to_rebuild and self._opened.unloaded:
                    raise StateMismatchError((), self._opened.unloaded, {})
            if before is not None:
                set_random_state(before)
            self._built[key] = None
            self._glance = _glance(self.step)
        return program

    def _look_at_changes(self, key: tuple[Method, str], program: Program) -> None:
        """Report a Step that changes so often that most of the time goes into compiling."""
        plain = dict(track(self.step).plain)
        before = self._made.get(key)
        self._made[key] = program, plain
        if before is None or before[0] is program:
            return
        self._changes += 1
        if self._changes == _MANY_CHANGES:
            names = {*plain, *before[1]}
            changed = sorted(n for n in names if plain.get(n, n) != before[1].get(n, n))
            self._asks["train_step"].report(
                diagnostics.findings_of("changed", self._changes, changed)
            )

    def _check_open(self, called: str) -> None:
        if self._stack is None:
            when = "after the `with` block" if self._is_over else "outside a `with` block"
            raise LoopError(called, when, "open it by `with pg.prepare(...) as trainer:`.")

    def _now(self) -> float:
        return now() - self._began


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

    kind = "a loop of your own"
    resumes: Resumes = "exactly"
    host_random: Any = None

    def peek(self) -> Batch:
        return None

    def state(self) -> dict[str, Any]:
        return {"kind": self.kind}

    def load_state(self, state: Mapping[str, Any]) -> None:
        if state.get("kind") != self.kind:
            raise DataChangedError(self.kind, [f"kind: {state.get('kind')} then, {self.kind} now"])


def _glance(step: Step) -> list[Any]:
    """Return what can be seen at once of a change of a Step: other values of its attributes."""
    plain = int | float | str | bytes | bool | None
    return [
        (name, value if isinstance(value, plain) else id(value))
        for name, value in vars(step).items()
        if name != INTERNALS
    ]
