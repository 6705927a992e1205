"""THE loop: from one thing that is due to the next, until there is a reason to stop."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np

from perigee import diagnostics
from perigee._events.clock import Clock
from perigee._events.events import Ended, Found, Hooks, Recorded, Started, StepsDone
from perigee._events.protocols import Callbacks, Feed, Guards, Saving
from perigee._events.schedule import Every
from perigee._execution import (
    Blocks,
    Nonfinite,
    Program,
    finalize,
    has_constant_rates,
    learning_rates,
    updated_metrics,
)
from perigee._loop.evaluation import Validation
from perigee._loop.findings import levels_to_caller
from perigee._loop.programs import Programs
from perigee._loop.progress import Progress, reason_to_stop
from perigee._loop.stopwatch import Stopwatch
from perigee._loop.values import Values, end_with
from perigee._step.shown import Shown
from perigee._step.state import restore, snapshot, track
from perigee._step.updates import internals, reset_metrics
from perigee.diagnostics import Finding


@dataclass(frozen=True, slots=True)
class Course:
    """How far and how to train.

    Attributes:
        epochs: Epochs to train, or `None` where steps count.
        steps: Steps to train, or `None` where epochs count.
        steps_per_epoch: Steps an epoch; `None` makes an epoch of each pass over the data.
        accumulate: Micro-batches an update.
        nonfinite: What happens when a returned value or the state is not finite.
        validate_every: When to validate.
        record_every: When to record a window of steps; `None` never.
        at_end_of_data: What an epoch of `steps_per_epoch` does where a pass over the data ends:
            continue with the next one, or end there as in Keras, with a warning or without.
    """

    epochs: int | None
    steps: int | None
    steps_per_epoch: int | None
    accumulate: int
    nonfinite: Nonfinite
    validate_every: Every
    record_every: Every | None
    at_end_of_data: Literal["continue", "warn", "end"] = "continue"


@dataclass(frozen=True, slots=True)
class _Epoch:
    """What the current epoch runs and logs.

    Attributes:
        program: What runs.
        values: What it logs.
        may_lag: Whether blocks need not end at records of a window.
        called: The callbacks, if one of them observes batches.
    """

    program: Program
    values: Values
    may_lag: bool
    called: Callbacks | None


@dataclass(slots=True)
class Training:
    """What the loop works with.

    Attributes:
        course: How far and how.
        blocks: Runs many steps in one call, on batches of the data.
        programs: Returns the program for a batch; asked at every epoch, so that a Step which has
            changed is recompiled.
        validation: Measures the Step on the validation data, or `None`.
        hooks: Are notified of what happens.
        callbacks: Keras's callbacks, or `None`.
        saving: Saves what is needed to resume, or `None`.
        guards: Watch the training, or `None`.
        interruption: Returns at a step why to suspend training there, or `None`.
        stopwatch: Runs since `fit` was called.
        progress: How far it has come, and why it stops.
    """

    course: Course
    blocks: Blocks
    programs: Programs
    validation: Validation | None
    hooks: Hooks
    callbacks: Callbacks | None
    saving: Saving | None
    guards: Guards | None
    interruption: Callable[[int], str | None]
    stopwatch: Stopwatch
    progress: Progress = field(default_factory=Progress)
    _epoch: _Epoch | None = None

    @property
    def clock(self) -> Clock:
        """Where training stands."""
        return self.progress.clock

    @property
    def feed(self) -> Feed:
        """Where batches come from."""
        return self.blocks.feed

    def run(self) -> str:
        """Train until there is a reason to stop, and return it.

            until stop:
                block    <- as many steps as there are before the next thing that is due
                rows     <- run the block             one call where the plan says so
                progress += steps done
                look for values that are not finite
                if due: record a window    if due: validate
                decide whether to stop
                if due: save
                at the end of the epoch: update what was accumulated, read metrics, validate,
                    record, call the callbacks, decide whether to stop, save
            save what is not saved
            always: notify of the end

        Returns:
            `"epochs"`, `"steps"`, `"data"`, `"validation data"`, `"non-finite"`, one of
            `INTERRUPTIONS`, or what a hook or callback requested.
        """
        logs: Mapping[str, float] | None = {}
        try:
            self._begin()
            if self.progress.stage != "between epochs" and self.progress.finished:
                logs = self._run_epoch()  # its last epoch has not been ended
            while self.progress.stop is None:
                logs = self._run_epoch()
            if self.saving and not self.clock.batch:  # within an epoch it is saved already
                self._save(is_last=True)
            if self._epoch is not None and self.progress.finished and logs is not None:
                self._finalize(self._epoch.program)
            if self.callbacks:
                self.callbacks.train_end(logs or {})
        except BaseException as error:
            end_with(error, self.progress, self._end)
            raise
        # What ends the last epoch may be left, too.
        reason = "signal" if logs is None and self.progress.finished else self.progress.stop
        self._end(reason)
        return reason

    def conclude(self, program: Program) -> None:
        """Leave the Step as the end of a training left it, which was saved just before."""
        if self.callbacks:
            self.callbacks.train_begin()
        self._finalize(program)
        if self.callbacks:
            self.callbacks.train_end({})

    def _finalize(self, program: Program) -> None:
        if not self.programs.step._is_as_written:
            if self.callbacks:
                self.callbacks.swap_back()
            if finalize(program.rehearsal):
                internals(self.programs.step).end_with_averages()

    def load_state(
        self,
        clock: Clock,
        state: Mapping[str, Any],
        finished: str | None,
        is_past_stop: bool = False,
    ) -> None:
        """Take back what `state` returned at `clock`, before the training begins.

        Args:
            clock: Where it stood.
            state: What was returned.
            finished: Why nothing is left to train, or `None`.
            is_past_stop: Whether a callback had stopped it, and it continues nevertheless.
        """
        self.progress = Progress.from_state(clock, state, finished)
        if self.guards and state.get("guards") is not None:
            self.guards.load_state(state["guards"])
        self.hooks.load_state(state["hooks"])
        if self.callbacks:
            self.callbacks.load_state(state["callbacks"] or [], is_past_stop)

    def state(self) -> dict[str, Any]:
        """Return what the loop itself needs to be resumed, as plain values and arrays."""
        if self._epoch is not None:
            self._epoch.values.read(self.clock)
        return {
            **self.progress.state(),
            "guards": None if self.guards is None else self.guards.state(),
            "hooks": self.hooks.state(),
            "callbacks": None if self.callbacks is None else self.callbacks.state(),
        }

    def notify(self, finding: Finding) -> None:
        """Notify the hooks of a finding."""
        self.hooks.finding(Found(self.clock, finding, self.stopwatch.seconds()))

    # Beginning and end.

    def _begin(self) -> None:
        course, origin = self.course, self.saving.origin if self.saving else None
        per_epoch, seconds = self._steps_per_epoch(), self.stopwatch.seconds()
        step = self.programs.step
        self.hooks.start(
            Started(step, self.clock, course.epochs, course.steps, per_epoch, seconds, origin)
        )
        if self.callbacks:
            self.callbacks.train_begin()
        if self.saving:
            self.saving.begin()
            if origin is None:
                self._save()  # so that a kill before the first regular one loses no random number
        self._decide()

    def _end(self, reason: str) -> None:
        seconds = self.stopwatch.seconds()
        self.hooks.end(Ended(self.clock, reason, seconds, self._spent(seconds)))

    def _spent(self, seconds: float) -> dict[str, float]:
        return self.stopwatch.spent(self.blocks, seconds)

    def _decide(self) -> None:
        """Decide whether to stop: the only place that does, once at each step boundary."""
        if self.progress.finished:
            return
        reason = reason_to_stop(
            self.clock,
            self.course.epochs,
            self.course.steps,
            is_stopped_by_callback=self.callbacks is not None and self.callbacks.stop_requested,
            interruption=self.progress.stop or self.interruption(self.clock.step),
        )
        self.progress = self.progress.stopping(reason)
        if reason is None and self.clock.batch == 0 and self.feed.is_over:
            self._stop_for("data", self.feed)

    def _stop_for(self, what: Literal["data", "validation data"], feed: Feed) -> None:
        """Stop where data that is drawn once has ended too early, and report it."""
        self._ask(what)
        self.programs.report(diagnostics.findings_of("data ended", what, feed.kind, self.clock))

    def _ask(self, reason: str) -> None:
        """Stop for the reason of a hook, at the next boundary."""
        self.progress = self.progress.stopping(reason)

    # An epoch.

    def _run_epoch(self) -> Mapping[str, float] | None:
        """Train one epoch, or what is left of it, or what comes before the training stops.

        Returns:
            What it logged; `None` where it was left before its end.
        """
        epoch = self._begin_epoch()
        is_whole = self._run_steps(epoch)
        is_left = self.progress.is_suspended
        if self.saving and (is_left or not is_whole):
            # The epoch may continue from here, so what ends it is not in what is saved: a run that
            # is over ends it again.
            self._save(is_last=True)
        if is_left:
            return None
        logs = self._end_epoch(epoch, is_whole)
        if self.saving and not is_whole and logs is not None:
            self._save(is_last=True)  # again where it logged a best value
        return logs

    def _begin_epoch(self) -> _Epoch:
        is_new = self.progress.stage == "between epochs"
        if is_new:
            self.progress = self.progress.with_new_epoch()
        if self.callbacks and is_new:
            self.callbacks.epoch_begin(self.clock.epoch)
        program = self.programs(self.feed.peek())
        if self._epoch is None:
            program.begin()
        elif program is not self._epoch.program:
            program.begin()
            self.progress = self.progress.with_new_window()  # it may log other values
        if is_new:
            reset_metrics(self.programs.step)
        values = Values(
            program,
            self.course.nonfinite,
            self.progress.epoch,
            self.progress.window,
            self.guards,
            self.programs.report,
        )
        may_lag = (
            self.course.record_every is not None
            and self.hooks.may_lag
            and has_constant_rates(program.rehearsal)
            and not program.rehearsal.metrics  # their state is known only where a block ends
        )
        called = self.callbacks if self.callbacks and self.callbacks.wants_batches else None
        self._epoch = _Epoch(program, values, may_lag, called)
        self._decide()  # a callback may have requested it
        return self._epoch

    def _run_steps(self, epoch: _Epoch) -> bool:
        """Train to the end of the epoch, or until there is a reason to stop.

        Returns:
            Whether the end was reached.
        """
        if self.progress.stage == "end":
            return True
        if self._is_validation_due() and self.progress.validated[0] != self.clock.step:
            self._reach_boundary(epoch)  # where a validation was left
        is_whole = False
        while self.progress.stop is None and not is_whole:
            is_whole = self.clock.batch == self.course.steps_per_epoch or not self._run_block(epoch)
        if not is_whole and self.progress.finished:
            is_whole = self.clock.batch == self._steps_per_epoch() and self._is_drawn()
        if is_whole:
            self._flush(epoch)
            self.progress = self.progress.after_last_step()
        return is_whole

    def _flush(self, epoch: _Epoch) -> None:
        if self.clock.batch % self.course.accumulate:
            epoch.program.flush()
            epoch.values.look_at_state(self.clock)

    def _end_epoch(self, epoch: _Epoch, is_whole: bool) -> Mapping[str, float] | None:
        """Finish the epoch, whole or not, and return what it logged; `None` where it is left."""
        program, values, number = epoch.program, epoch.values, self.clock.epoch
        if not is_whole:
            self._flush(epoch)
        means = values.means(self.clock)
        trained = {**means, **updated_metrics(program, means)}
        spent = self._spent(self.stopwatch.seconds())
        if values.stop is not None:
            self._ask(values.stop)
        program.compare_batch_means()
        ended = self.progress.after_epoch() if is_whole else self.progress
        is_validated = not is_whole or self.course.validate_every.is_due(ended.clock)
        validated = self._validate() if is_validated else {}
        if validated is None:
            self._decide()
            if self.saving and is_whole:  # otherwise it is saved already
                self._save(is_last=True)
            return None
        if is_whole:
            if self.guards:
                self.programs.report(self.guards.epoch(program, trained, spent, self.clock))
            self.progress = self.progress.after_epoch()
        different = internals(self.programs.step).batch_means.taken()
        self.programs.report(diagnostics.findings_of("passed", different))
        logs = {**trained, **validated, **learning_rates(program.rehearsal)}
        self._record("epoch", logs, {**program.samples(), **self._samples_of_validation()})
        if self.callbacks:
            self.callbacks.epoch_end(number, logs)
        self._decide()
        if self.saving and is_whole and self.saving.is_due(self.clock):
            self._save()
        return logs

    # Steps.

    def _run_block(self, epoch: _Epoch) -> bool:
        """Train on one batch, or on as many as fit before something is due.

        Returns:
            False where the epoch has no more.
        """
        if self.guards:
            self.guards.before(self.feed, self.clock)
        called = epoch.called
        if called is not None and not self._begin_batches(called):
            return self._continues()
        is_done, until_due, began = True, self._steps_until_due(epoch), self.stopwatch.seconds()
        is_alone = called is not None and called.interval == 1
        rows = None if is_alone else self.blocks.run(epoch.program, until_due)
        if rows is None:
            is_done = self._run_step(epoch, until_due)
        else:
            self._take_in(rows, epoch, began)
        if called is not None:
            self._end_batches(called, epoch, is_done)
            epoch.program.forget_end()
        if not is_done:
            return self._continues()
        self._reach_boundary(epoch)
        return True

    def _reach_boundary(self, epoch: _Epoch) -> None:
        """Do what is due between two steps of an epoch."""
        if self._is_validation_due():
            validated = self._validate()
            if validated is not None:
                self._record("validation", validated, self._samples_of_validation())
        if epoch.values.stop is not None:
            self._ask(epoch.values.stop)
        self._decide()
        # At the end of an epoch it is saved when all of it is done.
        is_at_end = self.clock.batch == self._steps_per_epoch()
        if self.saving and self.saving.is_due(self.clock) and not is_at_end:
            self._save()

    def _is_validation_due(self) -> bool:
        """Tell whether to validate after this step, within an epoch."""
        every = self.course.validate_every
        return self.validation is not None and every.steps is not None and every.is_due(self.clock)

    def _begin_batches(self, called: Callbacks) -> bool:
        """Call the hooks of batches before some of them; false where the pass has no more."""
        if self.clock.batch % called.interval:
            return True
        with self.stopwatch.spending("data"):
            if self.feed.ends():
                return False
        called.train_batch_begin(self.clock.batch)
        return True

    def _end_batches(self, called: Callbacks, epoch: _Epoch, is_done: bool) -> None:
        """Call the hooks of batches after those; the last ones of an epoch may be fewer."""
        missing = -self.clock.batch % called.interval
        is_last = self.clock.batch == self.course.steps_per_epoch
        if not missing or not is_done or is_last or self.clock.step == self.course.steps:
            called.train_batch_end(self.clock.batch - 1 + missing, self._reader(epoch)())

    def _run_step(self, epoch: _Epoch, until_due: int | None) -> bool:
        """Train on one batch; false where the pass has no more."""
        program, values = epoch.program, epoch.values
        with self.stopwatch.spending("data"):
            batch = self.feed.draw()
        if batch is None:
            return False
        with self.stopwatch.spending("device"):
            values.add(program.run(batch))
        self.progress = self.progress.after_steps(1)
        if self.course.accumulate > 1 and self.clock.batch % self.course.accumulate == 0:
            program.flush()
        if values.is_full or until_due == 1:  # what is due sees only steps that were looked at
            with self.stopwatch.spending("device"):
                values.read(self.clock)
        self._notify_of_steps(1, epoch, self.stopwatch.seconds())
        self._record_if_due(epoch, self.stopwatch.seconds())
        return True

    def _take_in(self, rows: np.ndarray, epoch: _Epoch, began: float) -> None:
        """Take in the rows of a block, and record what fell due within it.

        A block's time is divided evenly over its steps; nothing finer is known.
        """
        each = (self.stopwatch.seconds() - began) / len(rows)
        at = self.clock
        epoch.values.look(rows, replace(at, step=at.step + len(rows)))
        every = self.course.record_every
        while len(rows):
            until_due = None if every is None else every.steps_until_due(self.clock)
            count = min(len(rows), until_due or len(rows))
            part, rows = rows[:count], rows[count:]
            self.progress = self.progress.after_steps(count)
            epoch.values.add_block(part, self.clock)
            seconds = self.stopwatch.seconds() - len(rows) * each
            self._notify_of_steps(count, epoch, seconds)
            self._record_if_due(epoch, seconds)

    def _steps_until_due(self, epoch: _Epoch) -> int | None:
        """Return how many steps there are until something else has to happen; `None`: no end.

        Records of windows are made from the rows of a block, wherever they fall in it, unless
        somebody may want to do something there, or they say more than the rows, as of metrics.
        """
        course, clock, called = self.course, self.clock, epoch.called
        ends = [
            None if course.steps is None else course.steps - clock.step,
            None if course.steps_per_epoch is None else course.steps_per_epoch - clock.batch,
            None
            if course.record_every is None or epoch.may_lag
            else course.record_every.steps_until_due(clock),
            None if self.validation is None else course.validate_every.steps_until_due(clock),
            None if called is None else called.interval - clock.batch % called.interval,
            self.hooks.steps_until_due(clock),
            None if self.saving is None else self.saving.steps_until_due(clock),
        ]
        return min((end for end in ends if end is not None), default=None)

    def _continues(self) -> bool:
        """Tell whether the epoch continues beyond the end of a pass, as with `steps_per_epoch`."""
        if self.course.steps_per_epoch is None:
            return False
        if self.feed.is_over:
            self._stop_for("data", self.feed)
            return False
        if self.course.at_end_of_data != "continue" and self.clock.batch:
            if self.course.at_end_of_data == "warn":
                warnings.warn(
                    f"The data ended within an epoch of {self.course.steps_per_epoch} steps, and "
                    "the epoch with it; the next one begins another pass.",
                    stacklevel=levels_to_caller(),
                )
            return False
        self.feed.peek()  # without a batch it raises
        return True

    def _is_drawn(self) -> bool:
        """Draw the end of a pass whose last batch was trained; false where there is more."""
        return self.course.steps_per_epoch is not None or self.feed.ends()

    def _steps_per_epoch(self) -> int | None:
        return self.course.steps_per_epoch or self.feed.length

    # What is due.

    def _save(self, is_last: bool = False) -> None:
        assert self.saving is not None
        with self.stopwatch.spending("saving"):
            self.saving.save(self.clock, self.state, self.progress.finished, is_last)
        if self.callbacks:
            left_out = self.callbacks.left_out()
            self.programs.report(diagnostics.findings_of("kept callbacks", left_out))

    def _validate(self) -> dict[str, float] | None:
        """Measure on the validation data, once at each step; names come back with `val_`.

        A signal leaves it, or keeps it from beginning: it returns `None`, nothing of it is kept,
        and a resumed training validates instead.
        """
        if self.validation is None:
            return {}
        at, values = self.progress.validated
        if at != self.clock.step:
            if self.progress.is_suspended or self._is_interrupted(0):
                return None
            if self.validation.feed.is_over:
                self._stop_for("validation data", self.validation.feed)
                return {}
            exchanged = track(self.programs.step).state if self._may_exchange_weights else []
            before, measured = snapshot(exchanged), None
            try:
                measured = self._measure(self.validation)
            finally:
                if measured is None:  # it was left, or an error ended it
                    if self.callbacks:
                        self.callbacks.test_left()
                    restore(exchanged, before)
            if measured is None:
                if self.saving:
                    self.saving.measuring(None)
                return None
            values = measured
            self.progress = self.progress.with_validation(values)
        return {self.validation.name_of(name): value for name, value in values.items()}

    def _measure(self, validation: Validation) -> dict[str, float] | None:
        if self.callbacks:
            self.callbacks.test_begin()
        # What is left of accumulated gradients at the end of training is not in what is saved.
        is_left_over = bool(self.clock.batch % self.course.accumulate)
        if self.saving and (is_left_over or self._may_exchange_weights):
            self.saving.measuring(self.clock)
        with self.stopwatch.spending("validation"):
            measured = validation(self._is_interrupted)
        if self._epoch is not None:
            self._epoch.program.forget_end()
        if self.callbacks and measured is not None:
            self.callbacks.test_end(measured)
        return measured

    def _is_interrupted(self, batches: int) -> bool:
        """Tell whether a signal has come, some batches into a validation."""
        return self.interruption(self.clock.step + batches) is not None

    @property
    def _may_exchange_weights(self) -> bool:
        return self.callbacks is not None and self.callbacks.may_change_weights

    def _samples_of_validation(self) -> dict[str, Shown]:
        samples = {} if self.validation is None else self.validation.samples()
        return {f"val_{name}": shown for name, shown in samples.items()}

    def _record(
        self,
        scope: Literal["epoch", "validation", "steps"],
        values: Mapping[str, float],
        samples: Mapping[str, Shown] | None = None,
        seconds: float | None = None,
    ) -> None:
        if values or samples:
            at = self.stopwatch.seconds() if seconds is None else seconds
            event = Recorded(self.clock, scope, values, self._ask, at, samples or {})
            self.hooks.record(event)

    def _record_if_due(self, epoch: _Epoch, seconds: float) -> None:
        every = self.course.record_every
        if every is not None and every.is_due(self.clock):
            values = epoch.values.window(self.clock, [epoch.program])
            rates = learning_rates(epoch.program.rehearsal)
            self._record("steps", {**values, **rates}, seconds=seconds)

    def _notify_of_steps(self, count: int, epoch: _Epoch, seconds: float) -> None:
        if self.hooks.steps(StepsDone(self.clock, count, self._reader(epoch), self._ask, seconds)):
            epoch.program.forget_end()

    def _reader(self, epoch: _Epoch) -> Callable[[], Mapping[str, float]]:
        program, values = epoch.program, epoch.values
        if program.spans_processes:  # they add up together, and one alone may want to look
            return lambda: values.means(self.clock)

        def read() -> Mapping[str, float]:
            means = values.means(self.clock)
            return {**means, **updated_metrics(program, means)}

        return read
