"""`fit`: the place where the rooms meet."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from os import PathLike
from types import GeneratorType
from typing import Any, Literal

import keras

from perigee import diagnostics
from perigee._api.arguments import (
    as_execution,
    as_guards,
    as_run,
    as_step,
    check_codes,
    check_count,
    check_nonfinite,
    check_step,
    named,
    sorted_callbacks,
    watched_by,
)
from perigee._api.evaluate import as_compiled, check_finite
from perigee._api.limits import limited_epochs, limited_steps
from perigee._api.opening import LookBack, Opened, opening
from perigee._errors import ArgumentError
from perigee._events.callbacks import KerasCallbacks
from perigee._events.clock import Clock
from perigee._events.events import Hook
from perigee._events.protocols import Feed
from perigee._events.schedule import Every
from perigee._execution import (
    Blocks,
    Choice,
    Execution,
    Nonfinite,
    Plan,
    Program,
    compiling,
    make_plan,
)
from perigee._loop.evaluation import Validation, program_for_next
from perigee._loop.programs import Programs
from perigee._loop.stopwatch import Stopwatch
from perigee._loop.training import Course, Training
from perigee._processes.workers import checksum
from perigee._runs.comparing import Start
from perigee._runs.configuration import configuration
from perigee._runs.keeping import KeptRun
from perigee._runs.opening import Draws
from perigee._runs.run import Run
from perigee._step.step import Step
from perigee._step.updates import internals
from perigee._typing import Shuffle
from perigee.data import open_feed
from perigee.writers.history import History
from perigee.writers.terminal import Progress

_KEPT_ARGUMENTS = (
    "epochs",
    "steps",
    "steps_per_epoch",
    "batch_size",
    "shuffle",
    "validation_steps",
    "validate_every",
    "accumulate",
    "nonfinite",
    "execution",
)
"""The arguments of `fit` that the file of a run keeps."""


@named
def fit(
    step: Step | Callable[..., Any],
    data: Any,
    *,
    epochs: int | None = None,
    steps: int | None = None,
    steps_per_epoch: int | None = None,
    batch_size: int | None = None,
    shuffle: Shuffle | None = None,
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

    Every logged value is the exact mean over the examples that it covers, a smaller last batch
    included. Metrics held by the Step are reset at each epoch and read once at its end.

    Args:
        step: The Step, trained in place. A function, such as the `train_step(x, y)` of a
            hand-written loop, becomes a `FunctionStep`.
        data: Arrays (a tuple or dict of them is one data set), a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, an iterable of batches, or a generator function. Batches from
            iterables, functions and PyDatasets are prefetched (never beyond the next thing that is
            due): where they depend on what the step has learned, pass
            `Execution(steps_per_call=1)` or use `prepare`.
        epochs: Passes over the data (or stretches of `steps_per_epoch`); 1 if neither `epochs`
            nor `steps` is given.
        steps: Steps to train in total, over as many passes as they need.
        steps_per_epoch: Steps an epoch; needed for data that never ends.
        batch_size: Rows a batch, 32 by default; for arrays only.
        shuffle: Whether arrays and PyDatasets are shuffled each epoch; `True` by default. `"batch"`
            keeps the batches of arrays and shuffles the rows within each.
        validation: Data for `test_step`, of any kind that `data` may have.
        validation_steps: Batches a validation; `None` uses the whole pass.
        validate_every: When to validate; the end of each epoch by default.
        accumulate: Micro-batches per update, each of `batch_size`: equal to one update on all of
            them together. Those left over at the end of an epoch make an update of their own.
        nonfinite: What happens when a returned value is NaN or infinite, or a variable that was
            finite becomes so: `"raise"` an error, `"stop"` after that very step, or `"skip"`, which
            undoes such a step and logs `skipped_steps` each epoch.
        run: A directory (or a `Run`) that keeps `run.json` and `metrics.jsonl`.
        callbacks: Keras callbacks and `Hook`s. The `model` of a callback is the Step, with the
            methods and attributes of its only model.
        execution: `"auto"`, `"graph"`, `"xla"`, or `"eager"` for debugging.
        progress: `"auto"`, `"bar"`, `"lines"` or `"off"`.
        guards: What watches the training: `"default"` for all guards, or names or codes such as
            `["LossDiverges", "PG703"]`. Their findings are warnings, and are written to
            `metrics.jsonl` and `run.json`.
        seed: For the order of the data; `None` draws one from NumPy's global generator, so that
            `keras.utils.set_random_seed` repeats it.

    Returns:
        A `History`.

    Raises:
        ArgumentError: If arguments contradict each other.
        PerigeeError: If something is certainly wrong with the step or the data; see the codes.
    """
    arguments, stopwatch = dict(locals()), Stopwatch()
    step = _checked(step, validation)
    run, wanted = as_run(run), as_guards(guards)
    execution, interval = as_compiled(step, execution)
    course = _course(run, arguments)
    hooks, keras_callbacks = sorted_callbacks(callbacks)
    _refuse_backups(keras_callbacks, run)
    with opening(step, run, execution, has_order=True, seed=seed, guards=wanted) as opened:
        reopen = functools.partial(_open, data, opened.seed, batch_size, shuffle)
        feed, draws = _restored(opened, reopen)
        adapted = _adapted(opened, callbacks, keras_callbacks, course, feed, interval)
        programs = _programs(opened, course, hooks, arguments["execution"])
        program = _rehearsed(opened, programs, feed)  # a bad step is refused before all else
        measured = _validation(opened, course, validation, validation_steps, batch_size, adapted)
        start = _compared(opened, course, program, feed, measured, arguments)
        blocks = opened.blocks(feed)
        plan = _plan(opened, program, blocks, course)
        programs.use(plan)
        finished = opened.finished(course.epochs, course.steps)
        history = opened.history(plan, finished)
        kept = _kept(opened, feed, draws, plan, program, measured, start)
        training = Training(
            course,
            blocks,
            programs,
            measured,
            opened.hooks([history, *hooks, LookBack(programs), *opened.outputs(kept, progress)]),
            adapted,
            kept,
            _guards(opened, wanted, program, feed, reopen),
            opened.workers.interruption(lambda: opened.signals.received is not None),
            stopwatch,
        )
        if not opened.resume(training, program, finished, start):
            opened.hold_signals()
            with opened.findings.passed_to(training.notify), opened.workers.reporting_loss():
                training.run()
                opened.workers.wait()  # none ends well before the chief has saved
    return history


def _checked(given: Any, validation: Any) -> Step:
    step = as_step(given, "train_step")
    if validation is not None:
        check_step(step, "test_step")
    check_codes("ignore_findings", step.ignore_findings)
    return step


def _course(run: Run | None, given: Mapping[str, Any]) -> Course:
    """Return how far and how to train, once its arguments are checked."""
    for name in ("epochs", "steps", "steps_per_epoch", "validation_steps"):
        check_count(name, given[name])
    check_count("accumulate", given["accumulate"], is_optional=False)
    check_nonfinite(given["nonfinite"])
    every = given["validate_every"]
    if every is not None and given["validation"] is None:
        raise ArgumentError(
            "validate_every", repr(every), "`validation` data.", "pass `validation=...`."
        )
    if not isinstance(every, Every | None):
        raise ArgumentError(
            "validate_every", repr(every), "a `pg.Every`.", "pass `pg.Every(steps=...)`."
        )
    epochs = 1 if given["epochs"] is None and given["steps"] is None else given["epochs"]
    steps_per_epoch = limited_steps(given["steps_per_epoch"])
    is_limited = given["steps_per_epoch"] is None and steps_per_epoch is not None
    return Course(
        epochs=None if epochs is None else limited_epochs(epochs),
        steps=given["steps"],
        steps_per_epoch=steps_per_epoch,
        accumulate=given["accumulate"],
        nonfinite=given["nonfinite"],
        validate_every=every or Every(epochs=1),
        record_every=None if run is None else run.record_every,
        at_end_of_data="end"
        if is_limited
        else getattr(given["callbacks"], "at_end_of_data", "continue"),
    )


def _refuse_backups(callbacks: Sequence[Any], run: Run | None) -> None:
    """Refuse the callback that would restore other weights than those of the run."""
    for callback in callbacks if run is not None else ():
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            raise ArgumentError(
                "callbacks",
                "BackupAndRestore",
                "one way to resume: the callback would put its weights, which are of the end of "
                "an epoch and without seeds, in place of those that the run has restored.",
                "leave it out; the run saves and resumes all that it does, and more.",
            )


def _open(data: Any, seed: int | None, batch_size: int | None, shuffle: Shuffle | None) -> Feed:
    return open_feed(
        data, batch_size=batch_size, shuffle=shuffle, shuffles_by_default=True, seed=seed or 0
    )


def _restored(opened: Opened, reopen: Callable[[], Feed]) -> tuple[Feed, Draws | None]:
    """Open the data where the run has saved it; without a run, where it begins."""
    feed = reopen()
    opened.stack.callback(feed.close)
    return feed, None if opened.run is None else opened.run.restore_data(feed)


def _adapted(
    opened: Opened,
    given: Any,
    callbacks: Sequence[Any],
    course: Course,
    feed: Feed,
    interval: int,
) -> KerasCallbacks | None:
    """Look at Keras's callbacks, and return what calls them; `None` where there are none.

    Raises:
        InfiniteDataError: If an epoch would never end, and no callback observes batches to end it.
    """
    _look_at_averages(opened, callbacks)
    adapted = None
    if callbacks:
        steps = course.steps_per_epoch or feed.length
        make = getattr(given, "adapted", KerasCallbacks)  # `keras_fit` has its own
        params = {"epochs": course.epochs, "steps": steps, "verbose": 0}
        adapted = make(callbacks, opened.step, params, interval, opened.run is not None)
    if course.epochs is not None and (adapted is None or not adapted.wants_batches):
        check_finite(feed, "steps_per_epoch", course.steps_per_epoch)
    return adapted


def _look_at_averages(opened: Opened, callbacks: Sequence[Any]) -> None:
    is_resumed = opened.run is not None and opened.run.loaded is not None
    is_again = internals(opened.step).begin_training() and not is_resumed
    opened.findings.report(diagnostics.findings_of("averages", callbacks, is_again))


def _programs(
    opened: Opened, course: Course, hooks: Sequence[Hook], asked: Execution | Choice
) -> Programs:
    if opened.execution.mode == "eager" and as_execution(asked) == Execution():
        function = getattr(opened.step, "read_in_python", None)
        opened.findings.report(diagnostics.findings_of("eager", function))
    return Programs(
        opened.step,
        "train_step",
        opened.execution,
        findings=opened.findings,
        accumulate=course.accumulate,
        nonfinite=course.nonfinite,
        watches=watched_by(hooks),
        is_kept=opened.run is not None,
    )


def _rehearsed(opened: Opened, programs: Programs, feed: Feed) -> Program:
    """Return the program for the first batch, on which all processes must agree."""
    batch, resumed_at = feed.peek(), opened.resumed_at
    opened.workers.agree(
        {
            "first batch": checksum(batch),
            "step of the checkpoint": 0 if resumed_at is None else resumed_at.step,
        }
    )
    try:
        program = program_for_next(programs, feed)
    except Exception as error:
        if opened.run is not None and opened.run.other_data is not None:
            error.add_note(str(opened.run.other_data))  # its cause, probably
        raise
    if opened.run is not None:
        opened.run.check_objects()
        opened.findings.report(diagnostics.findings_of("kept", feed))
    return program


def _validation(
    opened: Opened,
    course: Course,
    data: Any,
    steps: int | None,
    batch_size: int | None,
    callbacks: KerasCallbacks | None,
) -> Validation | None:
    """Open the validation data, and rehearse the `test_step` on it."""
    if data is None:
        return None
    feed = open_feed(data, usual_batch_size=batch_size or 32)
    opened.stack.callback(feed.close)
    if opened.run is not None:
        opened.run.restore_validation(feed)
    check_finite(feed, "validation_steps", steps)
    _check_drawn_once(course, data, steps)
    if opened.run is not None:
        opened.findings.report(diagnostics.findings_of("kept validation", feed))
    programs = Programs(opened.step, "test_step", opened.execution, findings=opened.findings)
    return Validation(programs, feed, opened.blocks(feed), limited_steps(steps), callbacks)


def _check_drawn_once(course: Course, validation: Any, steps: int | None) -> None:
    """Refuse a generator object that the first of several validations would use up."""
    every = course.validate_every
    if steps is not None or not isinstance(validation, GeneratorType) or every.epochs is None:
        return
    ends = (Clock(epoch=number) for number in range(1, (course.epochs or 0) + 1))
    if len(list(islice(filter(every.is_due, ends), 2))) == 2:
        raise ArgumentError(
            "validation_steps",
            "None",
            "the batches of one validation: several are due, and a generator object is drawn once.",
            "pass `validation_steps=...`, or the generator function instead of what it returned.",
        )


def _compared(
    opened: Opened,
    course: Course,
    program: Program,
    feed: Feed,
    measured: Validation | None,
    given: Mapping[str, Any],
) -> Start | None:
    """Compare with the start before, and return what the run records; `None` without a run."""
    if opened.run is None:
        return None
    feeds = {"data": feed} if measured is None else {"data": feed, "validation": measured.feed}
    kept = {name: given[name] for name in _KEPT_ARGUMENTS}
    kept |= {"epochs": course.epochs, "steps_per_epoch": course.steps_per_epoch}
    decides = {name: given[name] for name in ("steps_per_epoch", "accumulate", "nonfinite")}
    if measured is not None:
        decides["validation_steps"] = given["validation_steps"]
        decides["validate_every"] = course.validate_every
    hooks, callbacks = sorted_callbacks(given["callbacks"])
    return opened.compared(
        [*hooks, *callbacks],
        decides,
        {name: (each, given[name]) for name, each in feeds.items()},
        configuration(opened.step, program.rehearsal, kept, feeds),
    )


def _plan(opened: Opened, program: Program, blocks: Blocks, course: Course) -> Plan:
    """Return the plan of the run, or the fastest one on this machine."""
    if opened.run is not None and opened.run.plan is not None:
        return opened.run.plan
    ends = [course.steps]
    if course.epochs is not None:
        ends.append(course.epochs * (course.steps_per_epoch or blocks.feed.length or 0))
    ahead = min(end for end in ends if end is not None)
    with compiling():
        return make_plan(program, blocks, blocks.feed.peek(), ahead)


def _kept(
    opened: Opened,
    feed: Feed,
    draws: Draws | None,
    plan: Plan,
    program: Program,
    measured: Validation | None,
    start: Start | None,
) -> KeptRun | None:
    """Return what saves and logs the training; `None` without a run."""
    if draws is None or start is None:
        return None
    if opened.run is not None and opened.run.run.best is not None:
        means = [*program.batch_means, *(() if measured is None else measured.batch_means)]
        opened.findings.report(diagnostics.findings_of("best", opened.run.run.best, means))
    return opened.keep(feed, draws, plan, start, measured)


def _guards(
    opened: Opened,
    wanted: frozenset[str],
    program: Program,
    feed: Feed,
    reopen: Callable[[], Feed],
) -> diagnostics.Guards | None:
    if program.is_split:  # they need a look at a single step
        wanted -= {"PG122", "PG701"}
    return diagnostics.Guards(opened.step, wanted, feed.peek(), reopen) if wanted else None
