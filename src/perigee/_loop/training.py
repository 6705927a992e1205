"""THE loop."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from perigee._errors import DataEndedError
from perigee._events.clock import Clock
from perigee._events.events import Ended, Hooks, Recorded, Started, StepsDone
from perigee._events.protocols import Callbacks, Feed, Guards, Saving
from perigee._events.schedule import Every
from perigee._execution import (
    Blocks,
    Nonfinite,
    Program,
    compile_seconds,
    finalize,
    has_constant_rates,
    learning_rates,
    logged_metrics,
)
from perigee._execution.timing import now
from perigee._loop.values import Values, note_where
from perigee._step.averages import Tally
from perigee._step.shown import Shown
from perigee._typing import Batch

INTERRUPTIONS = ("signal", "deadline")
"""Reasons to stop that are no end: nothing more happens, so that the training can go on later."""


@dataclass(frozen=True, slots=True)
class Course:
    """How far and how to train.

    Attributes:
        epochs: Epochs to train, or `None` where steps count.
        steps: Steps to train, or `None` where epochs count.
        steps_per_epoch: Steps an epoch; `None` makes an epoch of each pass over the data.
        accumulate: Micro-batches an update.
        nonfinite: What happens when a logged value is NaN or infinite.
        validate_every: When to validate.
        record_every: When to record the means of a window of steps; `None` never.
    """

    epochs: int | None
    steps: int | None
    steps_per_epoch: int | None
    accumulate: int
    nonfinite: Nonfinite
    validate_every: Every
    record_every: Every | None


@dataclass(slots=True)
class Training:
    """What the loop works with.

    Attributes:
        step: The Step, for events.
        course: How far and how.
        feed: Where batches come from.
        blocks: Runs many steps of them in one call.
        programs: Returns the program for batches like the one given; asked at every epoch, so
            that a Step which has changed is compiled anew.
        validate: Measures the Step on the validation data, values unprefixed; or `None`.
        validation_samples: Returns what that logged as samples, since the last time.
        hooks: Are told what happens.
        callbacks: Keras's callbacks, or `None`.
        saving: Saves what is needed to go on, or `None`.
        guards: Watch the training, or `None`.
        report: Is told of what they find, and whether it is said aloud.
        interruption: Returns why to leave the training as it is, or `None`.
        now: Seconds since training was asked for.
        compiled_before: What `compile_seconds` read when it was.
        origin: The checkpoint from which it goes on, or `None`.
        clock: How far it has come.
    """

    step: Any
    course: Course
    feed: Feed
    blocks: Blocks
    programs: Callable[[Batch], Program]
    validate: Callable[[], Mapping[str, float]] | None
    validation_samples: Callable[[], Mapping[str, Shown]]
    hooks: Hooks
    callbacks: Callbacks | None
    saving: Saving | None
    interruption: Callable[[], str | None]
    now: Callable[[], float]
    compiled_before: float = 0.0
    guards: Guards | None = None
    report: Callable[[Sequence[Any], bool], None] = lambda findings, is_aloud: None
    origin: str | None = None
    clock: Clock = field(default_factory=Clock)
    _asked: str | None = None
    _validated: tuple[int, Mapping[str, float]] = field(default=(-1, {}))
    _program: Program | None = None
    _epoch_tally: Tally = field(default_factory=Tally)
    _window: Tally = field(default_factory=Tally)
    _values: Values | None = None
    _saved_callbacks: Any = None
    _may_lag: bool = False
    _seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("data", "device", "validation", "saving"), 0.0)
    )

    def run(self) -> str:
        """Train until something says stop, and return what did.

            until stop:
                block   <- as many steps as there are before the next thing that is due
                rows    <- run the block             one call where the plan says so
                clock   += steps done
                look for values that are not finite
                if due: record a window    if due: validate    if due: save
                at the end of the epoch: update what was accumulated, read metrics, validate,
                    record, tell the callbacks, save (last: the next step starts from there)
            save what is not saved
            always: say that it ended

        Returns:
            `"epochs"`, `"steps"`, `"non-finite"`, one of `INTERRUPTIONS`, or what a hook or
            callback asked for.
        """
        course = self.course
        started = Started(
            self.step,
            self.clock,
            course.epochs,
            course.steps,
            self._steps_per_epoch(),
            self.now(),
            self.origin,
        )
        logs: Mapping[str, float] = {}
        program: Program | None = None
        try:
            self.hooks.start(started)
            if self.callbacks:
                self.callbacks.train_begin()
                if self._saved_callbacks is not None:  # most begin anew when training begins
                    self.callbacks.load_state(self._saved_callbacks)
            if self.saving:
                self.saving.begin()
            if self.clock.batch and self._finished():  # ended in this epoch, before its end
                program, logs = self._epoch()
            while (reason := self._reason_to_stop()) is None:
                program, logs = self._epoch()
            if self.saving and not self.clock.batch:  # in mid-epoch it is saved already
                self._save(is_last=True)
            if program is not None and reason not in INTERRUPTIONS:
                finalize(program.rehearsal)
            if self.callbacks:
                self.callbacks.train_end(logs)
        except BaseException as error:
            note_where(error, self.clock)
            try:
                self._end(f"error: {type(error).__name__}")
            except Exception as later:  # what came first comes out
                error.add_note(f"A hook that was told so raised {type(later).__name__}: {later}")
            raise
        self._end(reason)
        return reason

    def _end(self, reason: str) -> None:
        seconds = self.now()
        self.hooks.end(Ended(self.clock, reason, seconds, self._spent(seconds)))

    def _spent(self, seconds: float) -> dict[str, float]:
        """Return where the seconds that the training took so far went."""
        spent = {**self._seconds, "compiling": compile_seconds() - self.compiled_before}
        spent["data"] += self.blocks.data_seconds
        spent["device"] += self.blocks.device_seconds
        spent["host"] = max(0.0, seconds - sum(spent.values()))
        return spent

    @contextmanager
    def _timing(self, what: str) -> Generator[None]:
        began, compiled = now(), compile_seconds()
        try:
            yield
        finally:
            seconds = now() - began - (compile_seconds() - compiled)
            self._seconds[what] += max(0.0, seconds)

    def _epoch(self) -> tuple[Program, Mapping[str, float]]:
        """Train one epoch, or what is left of it, or what comes before the training stops."""
        is_new = self.clock.batch == 0
        if self.callbacks and is_new:
            self.callbacks.epoch_begin(self.clock.epoch)
        program = self.programs(self.feed.peek())
        if self._program is not None and program is not self._program:
            self._window = Tally()  # a Step that has changed may log other values
        self._program = program
        if is_new:
            self._epoch_tally = Tally()
            for metric in program.rehearsal.tracked.metrics.values():
                metric.reset_state()
        self._may_lag = (
            self.course.record_every is not None
            and self.hooks.may_lag
            and has_constant_rates(program.rehearsal)
        )
        values = Values(
            program,
            self.course.nonfinite,
            self._epoch_tally,
            self._window,
            self.guards,
            self.report,
        )
        self._values = values
        is_whole = False
        while self._reason_to_stop() is None:
            if self.clock.batch == self.course.steps_per_epoch or not self._block(program, values):
                is_whole = True
                break
        else:
            is_whole = self.clock.batch == self._steps_per_epoch() and self._is_drawn()
        reason = self._reason_to_stop()
        if self.saving and not is_whole:
            # The epoch may go on from here, so what ends it is not in what is saved: a run that
            # is over ends it again.
            self._save(is_last=True)
        if not is_whole and reason in INTERRUPTIONS:
            return program, {}
        if self.clock.batch % self.course.accumulate:
            program.flush()
        means = values.means(self.clock)
        self._asked = self._asked or values.stop
        trained = {**means, **logged_metrics(program.rehearsal)}
        if self.guards and is_whole:
            spent = self._spent(self.now())
            self.report(self.guards.epoch(program, trained, spent, self.clock), True)
        epoch = self.clock.epoch
        if is_whole:
            self.clock = self.clock.after_epoch()
        is_over = self._reason_to_stop() is not None and not is_whole
        validated: Mapping[str, float] = {}
        if self.course.validate_every.is_due(self.clock) or is_over:
            validated = self._validate()
        logs = {**trained, **validated, **learning_rates(program.rehearsal)}
        self._record("epoch", logs, {**program.samples(), **self._samples_of_validation()})
        if self.callbacks:
            self.callbacks.epoch_end(epoch, logs)
        if self.saving and is_whole and self.saving.is_due(self.clock):
            self._save()
        return program, logs

    def _block(self, program: Program, values: Values) -> bool:
        """Train on one batch, or on as many as fit before something is due.

        Returns false where the epoch has no more.
        """
        if self.guards:
            self.guards.before(self.feed, self.clock)
        looks = self.callbacks is not None and self.callbacks.wants_batches
        index = self.clock.batch
        until_due = None if looks else self._steps_until_due()
        began = self.now()
        rows = None if looks else self.blocks.run(program, until_due)
        if rows is not None:
            self._take_in(rows, program, values, began)
        else:
            with self._timing("data"):
                batch = self.feed.draw()
            if batch is None:
                return self._goes_on()
            if self.callbacks and looks:
                self.callbacks.train_batch_begin(index)
            with self._timing("device"):
                values.add(program.run(batch))
            self.clock = self.clock.after_steps(1)
            if self.course.accumulate > 1 and self.clock.batch % self.course.accumulate == 0:
                program.flush()
            if values.is_full or until_due == 1:  # what is due sees only steps that were looked at
                with self._timing("device"):
                    values.read(self.clock)
            self._tell_of_steps(1, program, values, self.now())
            if self.callbacks and looks:
                self.callbacks.train_batch_end(index, self._reader(values, program)())
            self._record_if_due(program, values, self.now())
        due = self.course.validate_every
        if due.steps is not None and due.is_due(self.clock):
            validated = self._validate()
            self._record("validation", validated, self._samples_of_validation())
        self._asked = self._asked or values.stop
        # At the end of an epoch it is saved when all of it is done.
        is_at_end = self.clock.batch == self._steps_per_epoch()
        if self.saving and self.saving.is_due(self.clock) and not is_at_end:
            self._save()
        return True

    def _take_in(self, rows: np.ndarray, program: Program, values: Values, began: float) -> None:
        """Take in the rows of a block, and record what fell due within it.

        The steps of a block took equally long, as far as anyone knows.
        """
        each = (self.now() - began) / len(rows)
        every = self.course.record_every
        while len(rows):
            until_due = None if every is None else every.steps_until_due(self.clock)
            count = min(len(rows), until_due or len(rows))
            part, rows = rows[:count], rows[count:]
            self.clock = self.clock.after_steps(count)
            values.add_block(part, self.clock)
            seconds = self.now() - len(rows) * each
            self._tell_of_steps(count, program, values, seconds)
            self._record_if_due(program, values, seconds)

    def _tell_of_steps(self, count: int, program: Program, values: Values, seconds: float) -> None:
        read = self._reader(values, program)
        self.hooks.steps(StepsDone(self.clock, count, read, self._ask, seconds))

    def _record_if_due(self, program: Program, values: Values, seconds: float) -> None:
        every = self.course.record_every
        if every is not None and every.is_due(self.clock):
            recorded = {**values.window(self.clock), **learning_rates(program.rehearsal)}
            self._record("steps", recorded, seconds=seconds)

    def _save(self, is_last: bool = False) -> None:
        assert self.saving is not None
        with self._timing("saving"):
            self.saving.save(self.clock, self.state, self._finished(), is_last)

    def _is_drawn(self) -> bool:
        """Draw the end of a pass whose last batch was trained; false where there is more."""
        if self.course.steps_per_epoch is not None:
            return True
        batch = self.feed.draw()
        if batch is not None:
            self.feed.push_back(batch)
        return batch is None

    def _finished(self) -> str | None:
        """Return why there is nothing left to train, or `None`."""
        reason = self._reason_to_stop()
        return None if reason in INTERRUPTIONS else reason

    def state(self) -> dict[str, Any]:
        """Return what the loop itself needs to go on, as plain values and arrays."""
        if self._values is not None:
            self._values.read(self.clock)
        at, validated = self._validated
        return {
            "epoch": self._epoch_tally.state(),
            "window": self._window.state(),
            "validated": {"step": at, "values": dict(validated)},
            "guards": None if self.guards is None else self.guards.state(),
            "hooks": self.hooks.state(),
            "callbacks": None if self.callbacks is None else self.callbacks.state(),
        }

    def conclude(self, program: Program) -> None:
        """Leave the Step as the end of a training left it, which was saved just before."""
        finalize(program.rehearsal)
        if self.callbacks:
            self.callbacks.train_begin()
            self.callbacks.load_state(self._saved_callbacks or [])
            self.callbacks.train_end({})

    def load_state(self, clock: Clock, state: Mapping[str, Any], finished: str | None) -> None:
        """Take back what `state` returned at `clock`, before the training begins.

        Args:
            clock: Where it stood.
            state: What was returned.
            finished: Why nothing is left to train, or `None`.
        """
        self.clock = clock
        self._asked = None if finished in ("epochs", "steps") else finished
        self._epoch_tally = Tally.from_state(state["epoch"])
        self._window = Tally.from_state(state["window"])
        self._validated = state["validated"]["step"], state["validated"]["values"]
        if self.guards and state.get("guards") is not None:
            self.guards.load_state(state["guards"])
        self.hooks.load_state(state["hooks"])
        self._saved_callbacks = state["callbacks"]

    def _steps_until_due(self) -> int | None:
        """Return how many steps there are until something else has to happen; `None`: no end.

        Records of windows are made from the rows of a block, wherever they fall in it, unless
        somebody may want to do something there, or they say more than the rows.
        """
        course, clock = self.course, self.clock
        ends = [
            None if course.steps is None else course.steps - clock.step,
            None if course.steps_per_epoch is None else course.steps_per_epoch - clock.batch,
            None
            if course.record_every is None or self._may_lag
            else course.record_every.steps_until_due(clock),
            None if self.validate is None else course.validate_every.steps_until_due(clock),
            self.hooks.steps_until_due(clock),
            None if self.saving is None else self.saving.steps_until_due(clock),
        ]
        return min((end for end in ends if end is not None), default=None)

    def _goes_on(self) -> bool:
        """Tell whether the epoch goes on over the end of a pass, as with `steps_per_epoch`."""
        if self.course.steps_per_epoch is None:
            return False
        try:
            self.feed.peek()
        except DataEndedError as error:
            wanted = f"{self.course.steps_per_epoch} steps an epoch"
            raise DataEndedError(error.kind, self.clock.step, wanted) from None
        return True

    def _validate(self) -> dict[str, float]:
        """Measure on the validation data, once at each step; names come back with `val_`."""
        if self.validate is None:
            return {}
        at, values = self._validated
        if at != self.clock.step:
            if self.callbacks:
                self.callbacks.test_begin()
            with self._timing("validation"):
                values = self.validate()
            if self.callbacks:
                self.callbacks.test_end(values)
            self._validated = self.clock.step, values
        return {f"val_{name}": value for name, value in values.items()}

    def _record(
        self,
        scope: Literal["epoch", "validation", "steps"],
        values: Mapping[str, float],
        samples: Mapping[str, Shown] | None = None,
        seconds: float | None = None,
    ) -> None:
        if values or samples:
            at = self.now() if seconds is None else seconds
            event = Recorded(self.clock, scope, values, self._ask, at, samples or {})
            self.hooks.record(event)

    def _samples_of_validation(self) -> dict[str, Shown]:
        return {f"val_{name}": shown for name, shown in self.validation_samples().items()}

    def _reader(self, values: Values, program: Program) -> Callable[[], Mapping[str, float]]:
        if program.spans_processes:  # they add up together, and one alone may want to look
            return lambda: values.means(self.clock)

        def read() -> Mapping[str, float]:
            return {**values.means(self.clock), **logged_metrics(program.rehearsal)}

        return read

    def _ask(self, reason: str) -> None:
        self._asked = self._asked or reason

    def _reason_to_stop(self) -> str | None:
        course, clock = self.course, self.clock
        if self._asked is not None:
            return self._asked
        if (interruption := self.interruption()) is not None:
            return interruption
        if self.callbacks and self.callbacks.stop_requested:
            return "asked by a callback"
        if course.steps is not None and clock.step >= course.steps:
            return "steps"
        if course.epochs is not None and clock.epoch >= course.epochs:
            return "epochs"
        return None

    def _steps_per_epoch(self) -> int | None:
        return self.course.steps_per_epoch or self.feed.length
