"""`evaluate` and `predict`: passes over data that leave the Step as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import keras

from perigee._api.arguments import (
    as_execution,
    check_count,
    check_seed,
    check_step,
    named,
    sorted_callbacks,
)
from perigee._api.limits import limited_steps
from perigee._api.model_callbacks import CallbacksOfModel
from perigee._backends import MOST_STEPS_A_BLOCK
from perigee._errors import ArgumentError, InfiniteDataError
from perigee._events.callbacks import KerasCallbacks
from perigee._events.protocols import Feed
from perigee._execution import Blocks, Choice, Execution
from perigee._loop import evaluation
from perigee._loop.findings import Findings
from perigee._loop.programs import Programs
from perigee._processes.workers import Workers
from perigee._step.frame import Method
from perigee._step.step import Step
from perigee._typing import Tree
from perigee.data import open_feed
from perigee.steps.function_step import FunctionStep
from perigee.steps.keras_step import KerasStep


@named
def evaluate(
    step: Step,
    data: Any,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    callbacks: Any = None,
    execution: Execution | Choice = "auto",
) -> dict[str, float]:
    """Measure a Step by its `test_step`, and leave it as it was.

    Args:
        step: The Step.
        data: As in `fit`; arrays are drawn in order.
        steps: Batches to draw; `None` uses the whole pass.
        batch_size: Rows a batch, 32 by default; for arrays only.
        callbacks: Keras callbacks, whose `on_test_...` are called as by `model.evaluate`.
        execution: As in `fit`.

    Returns:
        Name to exact mean, and every metric that the step updates.
    """
    most = limited_steps(steps)
    with _a_pass(step, "test_step", data, most, batch_size, callbacks, execution) as given:
        *_, called = given
        if called is not None:
            called.test_begin()
        values = evaluation.evaluate(*given)
        if called is not None:
            called.test_end(values)
        return values


@named
def predict(
    step: Step,
    data: Any,
    *,
    steps: int | None = None,
    batch_size: int | None = None,
    callbacks: Any = None,
    execution: Execution | Choice = "auto",
    seed: int | None = None,
) -> Tree:
    """Run `predict_step` over data, and leave the Step as it was.

    Random draws, as of Dropout with `training=True`, are new ones at each call and do not depend on
    how often the Step was measured. Those of a `KerasStep` continue where they stand, as in
    `model.predict`, and its seed generators advance.

    Args:
        step: The Step.
        data: As in `fit`; arrays are drawn in order. For a model with several inputs, a list of
            arrays is these, as in Keras.
        steps: Batches to draw; `None` uses the whole pass.
        batch_size: Rows a batch, 32 by default; for arrays only.
        callbacks: Keras callbacks, whose `on_predict_...` are called as by `model.predict`.
        execution: As in `fit`.
        seed: What all random draws depend on: two calls with one seed return the same. The Step's
            seed generators are restored afterwards, as they are without.

    Returns:
        What `predict_step` returned, as NumPy arrays put together on axis 0.
    """
    most = limited_steps(steps)
    check_seed(seed)
    if isinstance(step, KerasStep) and _is_inputs(step.model, data):
        data = (data,)
    with _a_pass(step, "predict_step", data, most, batch_size, callbacks, execution) as given:
        *_, called = given
        if called is not None:
            called.predict_begin()
        values = evaluation.predict(*given, goes_on=isinstance(step, KerasStep), seed=seed)
        if called is not None:
            called.predict_end()
        return values


def _is_inputs(model: keras.Model, data: Any) -> bool:
    """Return whether a list holds one array for each of several inputs of a model."""
    if not isinstance(data, list) or not all(hasattr(leaf, "shape") for leaf in data):
        return False
    inputs = getattr(model, "inputs", None)  # a subclass has none
    return len(data) > 1 and (inputs is None or len(data) == len(inputs))


@contextlib.contextmanager
def _a_pass(
    step: Step,
    method: Method,
    data: Any,
    steps: int | None,
    batch_size: int | None,
    callbacks: Any,
    execution: Execution | Choice,
) -> Generator[tuple[Programs, Feed, Blocks, int | None, KerasCallbacks | None]]:
    """Open data for a pass without updates, with what runs a method on it."""
    check_step(step, method)
    check_count("steps", steps)
    called = _keras_callbacks(callbacks)
    feed = open_feed(data, batch_size=batch_size)
    try:
        if not called:  # one of them may end the pass
            check_finite(feed, "steps", steps)
        execution, interval = as_compiled(step, execution)
        programs = Programs(step, method, execution, findings=Findings(step))
        workers = Workers(step)
        blocks = Blocks(feed, workers.most_steps(execution.most_steps))
        adapted = None
        if called:
            params = {"epochs": 1, "steps": steps or feed.length, "verbose": 0}
            adapted = (
                CallbacksOfModel(called, step, params, interval)
                if isinstance(step, KerasStep)
                else KerasCallbacks(called, step, params, interval)
            )
        with workers.reporting_loss():
            yield programs, feed, blocks, steps, adapted
    finally:
        feed.close()


def check_finite(feed: Feed, name: str, steps: int | None) -> None:
    """Refuse data without an end where nothing says how many batches to draw.

    Args:
        feed: The data. Its first batch is looked at: only then a function tells what it returns.
        name: The argument that says it.
        steps: What it says, or `None`.
    """
    if steps is None and not feed.is_infinite:
        feed.peek()
    if steps is None and feed.is_infinite:
        raise InfiniteDataError(feed.kind, name)


def as_compiled(step: Step, execution: Execution | Choice) -> tuple[Execution, int]:
    """Return how a Step runs, and the number of batches between two calls of a hook of batches.

    How a model or a function was compiled decides, unless something else is requested.
    """
    given = as_execution(execution)
    if isinstance(step, FunctionStep) and given == Execution():
        if step.is_compiled_for_xla:
            return Execution("xla"), 1
        return Execution("auto" if step.read_in_python is None else "eager"), 1
    if not isinstance(step, KerasStep) or given != Execution():
        return given, 1
    steps = step.model.steps_per_execution
    mode = "eager" if step.is_compiled_eager else "auto"
    if steps == 1:  # what Keras does if nothing is said
        return Execution(mode), 1
    return Execution(mode, min(steps, MOST_STEPS_A_BLOCK)), steps


def _keras_callbacks(given: Any) -> list[Any]:
    """Return Keras callbacks as a list, however they are given."""
    if isinstance(given, keras.callbacks.CallbackList):
        given = given.callbacks
    hooks, callbacks = sorted_callbacks([] if given is None else keras.tree.flatten(given))
    if hooks:
        raise ArgumentError(
            "callbacks",
            type(hooks[0]).__name__,
            "Keras callbacks: a `pg.Hook` observes trainings.",
            "subclass `keras.callbacks.Callback`.",
        )
    return [c for c in callbacks if not isinstance(c, keras.callbacks.ProgbarLogger)]
