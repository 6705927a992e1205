"""`evaluate` and `predict`: passes over data that leave the Step as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

from perigee._api.arguments import as_execution, check_count, check_step, named, one_data_set
from perigee._errors import InfiniteDataError
from perigee._events.protocols import Feed
from perigee._execution import Blocks, Choice, Execution
from perigee._loop import evaluation
from perigee._loop.programs import Programs
from perigee._processes.workers import Workers
from perigee._step.frame import Method
from perigee._step.step import Step
from perigee._typing import Tree
from perigee.data import open_feed


@named
@one_data_set
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
    with _a_pass(step, "test_step", data, steps, batch_size, execution) as given:
        return evaluation.evaluate(*given, steps)


@named
@one_data_set
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
    with _a_pass(step, "predict_step", data, steps, batch_size, execution) as given:
        return evaluation.predict(*given, steps)


@contextlib.contextmanager
def _a_pass(
    step: Step,
    method: Method,
    data: Any,
    steps: int | None,
    batch_size: int | None,
    execution: Execution | Choice,
) -> Generator[tuple[Programs, Feed, Blocks]]:
    """Open data for a pass without updates, with what runs a method on it."""
    check_step(step, method)
    check_count("steps", steps)
    feed = open_feed(data, batch_size=batch_size)
    try:
        check_finite(feed, "steps", steps)
        execution = as_execution(execution)
        programs = Programs(step, method, execution)
        workers = Workers(step)
        blocks = Blocks(feed, workers.most_steps(execution.most_steps))
        with workers.reporting_loss():
            yield programs, feed, blocks
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
