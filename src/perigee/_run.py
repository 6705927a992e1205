"""`fit`, `evaluate` and `predict`: the only place where the rooms meet."""

from __future__ import annotations

import contextlib
import difflib
import functools
import inspect
import time
import warnings
from collections.abc import Callable, Sequence
from os import PathLike
from typing import Any, ParamSpec, TypeVar

import keras
import numpy as np

from perigee import _backends, _evaluation, diagnostics
from perigee._callbacks import KerasCallbacks
from perigee._errors import (
    ArgumentError,
    InfiniteDataError,
    MissingMethodError,
    UnknownArgumentError,
)
from perigee._events import Hook, Hooks
from perigee._execution import (
    Blocks,
    Choice,
    Execution,
    Plan,
    Program,
    make_plan,
    program,
)
from perigee._frame import Method
from perigee._loop import Course, Nonfinite, Training
from perigee._protocols import Feed
from perigee._runs import OpenRun, Run
from perigee._schedule import Every
from perigee._signals import Signals
from perigee._step import Step
from perigee._typing import Batch, Tree
from perigee.data import open_feed
from perigee.diagnostics import Finding
from perigee.writers.history import History
from perigee.writers.terminal import Progress, terminal


class PerigeeWarning(UserWarning):
    """Something is probably wrong; the same is on `History.findings`."""


_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_KERAS_WORDS = {
    "x": "pass the arrays as one data set: `data=(x, y)`.",
    "y": "pass the arrays as one data set: `data=(x, y)`.",
    "validation_data": "it is called `validation`.",
    "validation_split": "split the arrays yourself and pass `validation=(x, y)`.",
    "validation_freq": "pass `validate_every=pg.Every(epochs=...)`.",
    "validation_batch_size": "`batch_size` is used for validation arrays too.",
    "sample_weight": "make it part of the batch: `data=(x, y, sample_weight)`.",
    "class_weight": "it is an argument of `pg.Supervised`.",
    "verbose": 'it is called `progress`: "auto", "bar", "lines" or "off".',
    "initial_epoch": "leave it out: `epochs` count from this call.",
}


def _named(function: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Answer arguments that do not exist with what was probably meant."""
    known = list(inspect.signature(function).parameters)

    @functools.wraps(function)
    def checked(*args: _Parameters.args, **kwargs: _Parameters.kwargs) -> _Result:
        for name in kwargs:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                meant = _KERAS_WORDS.get(name) or (f"did you mean `{near[0]}`?" if near else None)
                raise UnknownArgumentError(function.__name__, name, meant, known)
        return function(*args, **kwargs)

    return checked


@_named
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
    callbacks: Sequence[Any] = (),
    execution: Execution | Choice = "auto",
    progress: Progress = "auto",
    seed: int | None = None,
) -> History:
    """Train a Step.

    Every logged value is the exact mean over the examples that it covers, ragged last batch
    included; metrics held by the Step are reset at each epoch and read once at its end.

    Args:
        step: The Step, trained in place.
        data: Arrays (a tuple or dict of them is one data set), a `tf.data.Dataset`, a
            `keras.utils.PyDataset`, an iterable of batches, or a generator function.
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
        nonfinite: `"raise"` an error when a returned value is NaN or infinite, `"stop"`, or
            `"skip"` such a step: all that it wrote is as before, also where a variable became NaN
            or infinite, and `skipped_steps` of each epoch is logged.
        run: A directory (or a `Run`) that keeps `run.json` and `metrics.jsonl`.
        callbacks: Keras callbacks and `Hook`s.
        execution: `"auto"`, `"graph"`, `"xla"`, or `"eager"` for debugging.
        progress: `"auto"`, `"bar"`, `"lines"` or `"off"`.
        seed: Of the order of the data; `None` draws one from NumPy's global generator, so that
            `keras.utils.set_random_seed` repeats it.

    Returns:
        A `History`.

    Raises:
        ArgumentError: If arguments contradict each other.
        PerigeeError: For what is certainly wrong with the step or the data; see the error codes.
    """
    began = time.perf_counter()
    _check_step(step, "train_step")
    if validation is not None:
        _check_step(step, "test_step")
    _check_count("validation_steps", validation_steps)
    run = _run(run)
    course = _course(
        epochs, steps, steps_per_epoch, accumulate, nonfinite, validate_every, validation, run
    )
    seed = int(np.random.randint(2**31 - 1)) if seed is None else seed
    execution = _execution(execution)
    hooks, keras_callbacks = _sorted_callbacks(callbacks)
    shown = terminal(progress)
    history = History()
    signals = Signals()
    with contextlib.ExitStack() as stack:
        stack.callback(signals.deliver)  # last: it may end the process
        opened = None if run is None else OpenRun(run, step, seed)
        if opened is not None:
            stack.callback(opened.close)
        feed = open_feed(
            data, batch_size=batch_size, shuffle=shuffle, seed=seed, shuffles_by_default=True
        )
        stack.callback(feed.close)
        _check_endless(feed, course)
        finished = None if opened is None else opened.finished(course.epochs, course.steps)
        if opened is not None:
            opened.take_up(feed)
        adapted = None
        if keras_callbacks:
            steps_per_epoch = course.steps_per_epoch or feed.length
            params = {"epochs": course.epochs, "steps": steps_per_epoch, "verbose": 0}
            adapted = KerasCallbacks(keras_callbacks, step, params)
        # A bad step is refused before a run is made.
        programs = _Programs(
            step, "train_step", execution, accumulate, history, skips=nonfinite == "skip"
        )
        batch = feed.peek()
        trained = programs(batch)
        if opened is not None:
            programs.is_kept = True
            programs.report(diagnostics.of_a_run(feed))
        validate: Callable[[], dict[str, float]] | None = None
        if validation is not None:
            validation_feed = open_feed(validation, usual_batch_size=batch_size or 32)
            stack.callback(validation_feed.close)
            _check_finite(validation_feed, validation_steps)
            measured = _Programs(step, "test_step", execution)
            measured(validation_feed.peek())
            validate = functools.partial(
                _evaluation.evaluate,
                measured,
                validation_feed,
                Blocks(validation_feed, execution.most_steps),
                validation_steps,
                adapted,
            )
        blocks = Blocks(feed, execution.most_steps)
        plan = None if opened is None else opened.plan
        if plan is None:
            plan = make_plan(trained, blocks, batch, _steps_ahead(course, feed))
        programs.plan = history.plan = plan
        kept: list[Hook] = [] if opened is None else [opened.writers(plan, feed), opened]
        training = Training(
            step=step,
            course=course,
            feed=feed,
            blocks=blocks,
            programs=programs,
            validate=validate,
            hooks=Hooks([history, *hooks, *kept, *([shown] if shown else [])]),
            callbacks=adapted,
            saving=opened,
            interruption=lambda: "signal" if signals.received else None,
            now=lambda: time.perf_counter() - began,
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
        training.run()
        programs.look_back()
    return history


@_named
def evaluate(
    step: Step,
    data: Any,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    execution: Execution | Choice = "auto",
) -> dict[str, float]:
    """Measure a Step by its `test_step`, and leave it as it was.

    Args:
        step: The Step.
        data: As in `fit`; arrays are drawn in order.
        steps: Batches to draw; `None` uses the whole pass.
        batch_size: Rows a batch, 32 by default; for arrays only.
        execution: As in `fit`.

    Returns:
        Name to exact mean, and every metric that the step updates.
    """
    _check_step(step, "test_step")
    _check_count("steps", steps)
    feed = open_feed(data, batch_size=batch_size)
    try:
        _check_finite(feed, steps)
        execution = _execution(execution)
        programs = _Programs(step, "test_step", execution)
        return _evaluation.evaluate(programs, feed, Blocks(feed, execution.most_steps), steps)
    finally:
        feed.close()


@_named
def predict(
    step: Step,
    data: Any,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    execution: Execution | Choice = "auto",
) -> Tree:
    """Run `predict_step` over data, and leave the Step as it was.

    Args:
        step: The Step.
        data: As in `fit`; arrays are drawn in order.
        steps: Batches to draw; `None` uses the whole pass.
        batch_size: Rows a batch, 32 by default; for arrays only.
        execution: As in `fit`.

    Returns:
        What `predict_step` returned, as NumPy arrays put together on axis 0.
    """
    _check_step(step, "predict_step")
    _check_count("steps", steps)
    feed = open_feed(data, batch_size=batch_size)
    try:
        _check_finite(feed, steps)
        programs = _Programs(step, "predict_step", _execution(execution))
        return _evaluation.predict(programs, feed, steps)
    finally:
        feed.close()


class _Programs:
    """Gives the program of one method, and reports what its rehearsal found, once."""

    def __init__(
        self,
        step: Step,
        method: Method,
        execution: Execution,
        accumulate: int = 1,
        history: History | None = None,
        skips: bool = False,
    ) -> None:
        self._step, self._execution = step, execution
        self._method: Method = method
        self._accumulate, self._history, self._skips = accumulate, history, skips
        self.plan: Plan | None = None
        self.is_kept = False
        self._last: Program | None = None
        self._looked_at: Program | None = None

    def __call__(self, batch: Batch) -> Program:
        found = program(
            self._step,
            self._method,
            batch,
            self._execution,
            observers=diagnostics.LOSS_CALL_CHECKS,
            accumulate=self._accumulate,
            skips=self._skips,
        )
        if self.plan is not None:  # also of a Step that has changed
            found.plan = self.plan
        if self._history is not None and self._last is found:
            self.look_back()  # it has run an epoch
        self._last = found
        if self._history is not None:
            if found.findings is None:
                first = _backends.current().tensors(batch)
                found.findings = diagnostics.after_rehearsal(self._step, found.rehearsal, first)
            self.report(found.findings)
        return found

    def look_back(self) -> None:
        """Report what is known only once the program has run."""
        if self._last is None:
            return
        self.report(diagnostics.after_running(self._last))
        if self.is_kept and self._last is not self._looked_at and self._last.traces:
            self._looked_at = self._last
            self.report(diagnostics.of_a_run_after_running(self._last))

    def report(self, findings: Sequence[Finding]) -> None:
        """Put findings on the history and warn of them, each once."""
        assert self._history is not None
        known = {str(finding) for finding in self._history.findings}
        new = [finding for finding in findings if str(finding) not in known]
        self._history.findings = [*self._history.findings, *new]
        for finding in new:
            warnings.warn(str(finding), PerigeeWarning, stacklevel=_levels_to_caller())


def _levels_to_caller() -> int:
    """Return the `stacklevel` at which a warning names the line that called Perigee."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith("perigee."):
        frame, level = frame.f_back, level + 1
    return level


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
        _check_count(name, value, is_optional=name != "accumulate")
    if nonfinite not in ("raise", "skip", "stop"):
        raise ArgumentError(
            "nonfinite", repr(nonfinite), '"raise", "skip" or "stop".', "choose one."
        )
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


def _check_count(name: str, value: Any, is_optional: bool = True) -> None:
    if value is None and is_optional:
        return
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 1:
        raise ArgumentError(name, repr(value), "a whole number, at least 1.", "count from 1.")


def _run(given: Any) -> Run | None:
    if given is None or isinstance(given, Run):
        return given
    if not isinstance(given, str | PathLike):
        raise ArgumentError("run", repr(given), "a path or a `pg.Run`.", 'pass `run="runs/first"`.')
    return Run(given)


def _check_step(step: Any, method: Method) -> None:
    if not isinstance(step, Step):
        raise ArgumentError(
            "step",
            type(step).__name__,
            "an instance of a subclass of `pg.Step`.",
            "subclass `pg.Step`, or use `pg.Supervised(model, optimizer, loss)`.",
        )
    if getattr(type(step), method) is getattr(Step, method) and method not in vars(step):
        raise MissingMethodError(type(step).__name__, method)


def _check_endless(feed: Feed, course: Course) -> None:
    if feed.is_infinite and course.epochs is not None and course.steps_per_epoch is None:
        raise InfiniteDataError(feed.kind)


def _steps_ahead(course: Course, feed: Feed) -> int:
    """Return how many steps are going to be run; 0 where that is not known."""
    ends = [course.steps]
    if course.epochs is not None:
        ends.append(course.epochs * (course.steps_per_epoch or feed.length or 0))
    return min(end for end in ends if end is not None)


def _check_finite(feed: Feed, steps: int | None) -> None:
    if feed.is_infinite and steps is None:
        raise InfiniteDataError(feed.kind)


def _execution(given: Execution | Choice) -> Execution:
    return given if isinstance(given, Execution) else Execution(given)


def _sorted_callbacks(callbacks: Any) -> tuple[list[Hook], list[Any]]:
    """Tell hooks from Keras callbacks."""
    given = list(callbacks) if isinstance(callbacks, Sequence) else [callbacks]
    hooks = [c for c in given if isinstance(c, Hook)]
    others = [c for c in given if not isinstance(c, Hook)]
    for other in others:
        if not isinstance(other, keras.callbacks.Callback):
            raise ArgumentError(
                "callbacks",
                type(other).__name__,
                "`keras.callbacks.Callback`s and `pg.Hook`s.",
                "subclass one of them.",
            )
    return hooks, others
