"""`fit`: the place where the rooms meet."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from os import PathLike
from typing import Any, Literal

import keras
import numpy as np

from perigee import diagnostics
from perigee._api.arguments import (
    as_execution,
    as_guards,
    as_run,
    check_codes,
    check_count,
    check_nonfinite,
    check_step,
    named,
    sorted_callbacks,
    watched_by,
)
from perigee._api.evaluate import check_finite
from perigee._errors import ArgumentError, InfiniteDataError
from perigee._events.callbacks import KerasCallbacks
from perigee._events.events import Ended, Found, Hook, Hooks
from perigee._events.protocols import Feed
from perigee._events.schedule import Every
from perigee._events.signals import Signals
from perigee._execution import (
    Blocks,
    Choice,
    Execution,
    Nonfinite,
    compile_seconds,
    compiling,
    make_plan,
)
from perigee._execution.timing import now
from perigee._loop.evaluation import evaluate
from perigee._loop.programs import Programs
from perigee._loop.training import Course, Training
from perigee._processes.workers import Workers, checksum
from perigee._runs.configuration import configuration
from perigee._runs.run import OpenRun, Run
from perigee._step.step import Step
from perigee.data import LARGE_STATE_BYTES, SMALLER_STATE, open_feed
from perigee.writers.history import History
from perigee.writers.terminal import Progress, terminal


@named
def fit(
    step: Step,
    data: Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    batch_size: int | None = None,
    shuffle: bool | None = None,
    validation: Any = None,
    validation_steps: int | None = None,
    validate_every: Every | None = None,
    accumulate: int = 1,
    nonfinite: Nonfinite = "raise",
    run: Run | str | PathLike[str] | None = None,
    callbacks: Sequence[Any] | None = (),
    execution: Execution | Choice = "auto",
    progress: Progress = "auto",
    guards: Literal["default", "off"] | Sequence[str] = "default",
    seed: int | None = None,
) -> History:
    """Train a Step.

    Every logged value is the exact mean over the examples that it covers, ragged last batch
    included; metrics held by the Step are reset at each epoch and read once at its end.

    Args:
        step: The Step, trained in place.
        data: Arrays (a tuple or dict of them is one data set), a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, an iterable of batches, or a generator function. Of iterables,
            functions and PyDatasets some batches are drawn ahead of the steps (never beyond the
            next thing that is due): where they depend on what the step has learned, pass
            `Execution(steps_per_call=1)` or use `prepare`.
        epochs: Passes over the data (or stretches of `steps_per_epoch`); 1 if neither `epochs`
            nor `steps` is given.
        steps: Steps to train in all, over as many passes as they need.
        steps_per_epoch: Steps an epoch; needed for data that never ends.
        batch_size: Rows a batch, 32 by default; for arrays only.
        shuffle: Whether arrays and PyDatasets are drawn in another order each epoch; `True` by
            default.
        validation: Data for `test_step`, of any of these kinds.
        validation_steps: Batches a validation; `None` uses the whole pass.
        validate_every: When to validate; the end of each epoch by default.
        accumulate: Micro-batches an update, each of `batch_size`: equal to one update on all of
            them together. What is left over at the end of an epoch makes an update of its own.
        nonfinite: `"raise"` an error when a returned value is NaN or infinite, `"stop"` after
            that very step, or `"skip"` such a step: all that it wrote is as before, also where a
            variable became NaN or infinite, and `skipped_steps` of each epoch is logged.
        run: A directory (or a `Run`) that keeps `run.json` and `metrics.jsonl`.
        callbacks: Keras callbacks and `Hook`s.
        execution: `"auto"`, `"graph"`, `"xla"`, or `"eager"` for debugging.
        progress: `"auto"`, `"bar"`, `"lines"` or `"off"`.
        guards: What watches the training: `"default"` is all of them, or their names or codes,
            such as `["LossDiverges", "PG703"]`. What they find is a warning, a line of
            `metrics.jsonl`, and in `run.json`.
        seed: Of the order of the data; `None` draws one from NumPy's global generator, so that
            `keras.utils.set_random_seed` repeats it.

    Returns:
        A `History`.

    Raises:
        ArgumentError: If arguments contradict each other.
        PerigeeError: For what is certainly wrong with the step or the data; see the error codes.
    """
    began, compiled_before = now(), compile_seconds()
    check_step(step, "train_step")
    if validation is not None:
        check_step(step, "test_step")
    check_count("validation_steps", validation_steps)
    check_codes("ignore_findings", step.ignore_findings)
    wanted = as_guards(guards)
    run = as_run(run)
    workers = Workers(step)
    course = _course(
        epochs, steps, steps_per_epoch, accumulate, nonfinite, validate_every, validation, run
    )
    asked = {
        "epochs": course.epochs,
        "steps": course.steps,
        "steps_per_epoch": steps_per_epoch,
        "batch_size": batch_size,
        "shuffle": shuffle,
        "validation_steps": validation_steps,
        "validate_every": validate_every,
        "accumulate": accumulate,
        "nonfinite": nonfinite,
        "execution": execution,
    }
    is_seed_given = seed is not None
    seed = workers.of_chief(int(np.random.randint(2**31 - 1)) if seed is None else seed)
    execution = as_execution(execution)
    hooks, keras_callbacks = sorted_callbacks(callbacks)
    if run is not None:
        _refuse_backups(keras_callbacks)
    shown = terminal(progress) if workers.is_chief else None
    history = History()
    signals = Signals()
    with contextlib.ExitStack() as stack:
        stack.callback(signals.deliver)  # last: it may end the process
        opened = None
        if run is not None:
            opened = OpenRun(
                run, step, seed, is_seed_given=is_seed_given, is_writer=workers.is_chief
            )
            stack.callback(opened.close)
            opened.check_execution(execution)
        opening = functools.partial(
            open_feed, data, batch_size=batch_size, shuffle=shuffle, shuffles_by_default=True
        )
        feed = opening(seed=seed)
        stack.callback(feed.close)
        _check_endless(feed, course)
        finished = None if opened is None else opened.finished(course.epochs, course.steps)
        if opened is not None:
            opened.take_up(feed)
        adapted = None
        if keras_callbacks:
            make = getattr(callbacks, "adapted", KerasCallbacks)  # `keras_fit` has its own
            adapted = make(keras_callbacks, step, _callback_params(course, feed))
        # A bad step is refused before a run is made.
        programs = Programs(
            step,
            "train_step",
            execution,
            accumulate,
            history,
            nonfinite=nonfinite,
            watches=watched_by(hooks),
        )
        programs.reports = lambda found: (
            found.code in wanted or found.code not in diagnostics.GUARDS
        )
        batch = feed.peek()
        at = 0 if opened is None or opened.loaded is None else opened.loaded.content.clock.step
        workers.agree({"first batch": checksum(batch), "step of the checkpoint": at})
        trained = programs(batch)
        if opened is not None:
            programs.is_kept = True
            programs.report(diagnostics.of_a_run(feed))
            opened.report = lambda kind, size_bytes: programs.report(
                diagnostics.of_a_position(kind, size_bytes, LARGE_STATE_BYTES, SMALLER_STATE)
            )
        measured = None
        if validation is not None:
            measured_on = open_feed(validation, usual_batch_size=batch_size or 32)
            stack.callback(measured_on.close)
            check_finite(measured_on, validation_steps)
            if opened is not None:
                programs.report(diagnostics.of_a_validation(measured_on))
                opened.take_up_validation(measured_on)
            measured = _Validation(
                Programs(step, "test_step", execution),
                measured_on,
                Blocks(measured_on, workers.most_steps(execution.most_steps)),
                validation_steps,
                adapted,
            )
        blocks = Blocks(feed, workers.most_steps(execution.most_steps))
        plan = None if opened is None else opened.plan
        if plan is None:
            with compiling():
                plan = make_plan(trained, blocks, batch, _steps_ahead(course, feed))
        programs.plan = history.plan = plan
        kept: list[Hook] = []
        if opened is not None:
            feeds = {"data": feed, **({} if measured is None else {"validation": measured.feed})}
            opened.configuration = configuration(step, trained.rehearsal, asked, feeds)
            kept = [opened.writers(plan, feed, history.findings), opened]
        watching = None
        if trained.is_split:  # what needs a look at a single step is left out
            wanted -= {"PG122", "PG701"}
        if wanted:
            order = seed if opened is None or opened.seed is None else opened.seed
            watching = diagnostics.Guards(
                step, wanted, batch, functools.partial(opening, seed=order)
            )
        training = Training(
            step=step,
            course=course,
            feed=feed,
            blocks=blocks,
            programs=programs,
            validate=measured,
            validation_samples=dict if measured is None else measured.programs.samples,
            hooks=Hooks(
                [history, *hooks, _LookingBack(programs), *kept, *([shown] if shown else [])]
            ),
            callbacks=adapted,
            saving=opened,
            guards=watching,
            report=programs.report,
            interruption=workers.interruption(
                lambda: "signal" if signals.received else None, lambda: training.clock.step
            ),
            now=lambda: now() - began,
            compiled_before=compiled_before,
            origin=None if opened is None else opened.origin,
        )
        programs.tell = lambda finding: training.hooks.finding(
            Found(training.clock, finding, training.now())
        )
        if opened is not None and opened.loaded is not None:
            opened.load_step()
            training.load_state(opened.loaded.content.clock, opened.loop_state(), finished)
            history.resumed_from = opened.loaded.content.clock
            if finished is not None and training.clock.batch == 0:
                training.conclude(trained)
                history.clock, history.stop_reason = history.resumed_from, finished
                return history
        if opened is not None:  # else there is nothing to save, and signals do what they do
            stack.enter_context(signals)
        with workers.reporting_loss():
            training.run()
            workers.wait()  # none ends well before the chief has saved
    return history


def _course(
    epochs: int | None,
    steps: int | None,
    steps_per_epoch: int | None,
    accumulate: int,
    nonfinite: Nonfinite,
    validate_every: Any,
    validation: Any,
    run: Run | None,
) -> Course:
    for name, value in {
        "epochs": epochs,
        "steps": steps,
        "steps_per_epoch": steps_per_epoch,
        "accumulate": accumulate,
    }.items():
        check_count(name, value, is_optional=name != "accumulate")
    check_nonfinite(nonfinite)
    if validate_every is not None and validation is None:
        raise ArgumentError(
            "validate_every", repr(validate_every), "`validation` data.", "pass `validation=...`."
        )
    if not isinstance(validate_every, Every | None):
        raise ArgumentError(
            "validate_every", repr(validate_every), "a `pg.Every`.", "pass `pg.Every(steps=...)`."
        )
    if epochs is None and steps is None:
        epochs = 1
    return Course(
        epochs=epochs,
        steps=steps,
        steps_per_epoch=steps_per_epoch,
        accumulate=accumulate,
        nonfinite=nonfinite,
        validate_every=validate_every or Every(epochs=1),
        record_every=None if run is None else run.record_every,
    )


def _callback_params(course: Course, feed: Feed) -> dict[str, Any]:
    """Return what Keras tells its callbacks of a training."""
    return {
        "epochs": course.epochs,
        "steps": course.steps_per_epoch or feed.length,
        "verbose": 0,
    }


class _Validation:
    """Measures a Step on its validation data, whenever it is called.

    Compiles what it needs: a bad `test_step` is refused before the training begins.
    """

    def __init__(
        self,
        programs: Programs,
        feed: Feed,
        blocks: Blocks,
        steps: int | None,
        callbacks: KerasCallbacks | None,
    ) -> None:
        self.programs, self.feed = programs, feed
        self._blocks, self._steps, self._callbacks = blocks, steps, callbacks
        programs(feed.peek())

    def __call__(self) -> dict[str, float]:
        return evaluate(self.programs, self.feed, self._blocks, self._steps, self._callbacks)


class _LookingBack(Hook):
    """Reports what is known only at the end, while writers still write."""

    def __init__(self, programs: Programs) -> None:
        self._programs = programs

    def on_end(self, event: Ended) -> None:
        if not event.reason.startswith("error: "):
            self._programs.look_back()


def _refuse_backups(callbacks: Sequence[Any]) -> None:
    """Refuse the callback that would bring back other weights than those of the run."""
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ArgumentError(
                "callbacks",
                "BackupAndRestore",
                "one way to resume: the callback would put its weights, which are of the end of "
                "an epoch and without seeds, in place of those that the run has restored.",
                "leave it out; the run saves and resumes all that it does, and more.",
            )


def _check_endless(feed: Feed, course: Course) -> None:
    if feed.is_infinite and course.epochs is not None and course.steps_per_epoch is None:
        raise InfiniteDataError(feed.kind)


def _steps_ahead(course: Course, feed: Feed) -> int:
    """Return how many steps are going to be run; 0 where that is not known."""
    ends = [course.steps]
    if course.epochs is not None:
        ends.append(course.epochs * (course.steps_per_epoch or feed.length or 0))
    return min(end for end in ends if end is not None)
