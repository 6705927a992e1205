"""Measuring and predicting: passes over data that leave the Step as it was."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

from perigee import _backends
from perigee._events.protocols import Callbacks, Feed
from perigee._execution import Blocks, Program, logged_metrics, rows_on_host
from perigee._loop.programs import Programs
from perigee._loop.values import ROWS_BETWEEN_READS
from perigee._step.averages import Tally
from perigee._step.shown import Shown
from perigee._step.state import preserved, rewind_seeds
from perigee._typing import Batch, Tree

ProgramFor = Callable[[Batch], Program]
"""Returns the program for batches like the one given."""


def evaluate(
    programs: ProgramFor,
    feed: Feed,
    blocks: Blocks,
    steps: int | None,
    callbacks: Callbacks | None = None,
) -> dict[str, float]:
    """Run `test_step` over a pass of the feed, and return exact means and metrics.

    Metrics are reset and seed generators begin at their first draw. Whatever the step writes is
    restored afterwards, so that training does not depend on how often it is measured.

    Args:
        programs: Gives the program of the step.
        feed: Where batches come from.
        blocks: Runs many of them in one call.
        steps: Batches to draw; `None` draws to the end of the pass.
        callbacks: Called for each batch.
    """
    program = _prepared(programs, feed)
    tracked = program.rehearsal.tracked
    with _undone(program):
        for metric in tracked.metrics.values():
            metric.reset_state()
        tally, rows, first = Tally(), [], feed.position.batches
        looks = callbacks is not None and callbacks.wants_test_batches
        while (left := _left(feed, first, steps)) != 0:
            block = None if looks else blocks.run(program, left)
            if block is not None:
                _read(program, rows, tally)
                tally.add(program.columns, block)
                continue
            batch = feed.draw()
            if batch is None:
                break
            if callbacks is not None:
                callbacks.test_batch_begin(feed.position.batches - first - 1)
            rows.append(program.run(batch))
            if callbacks is not None:
                logs: dict[str, float] = {}
                if looks:
                    _read(program, rows, tally)
                    logs = {**tally.means(), **logged_metrics(program.rehearsal)}
                callbacks.test_batch_end(feed.position.batches - first - 1, logs)
            if len(rows) == ROWS_BETWEEN_READS:
                _read(program, rows, tally)
        _read(program, rows, tally)
        return {**tally.means(), **logged_metrics(program.rehearsal)}


class Validation:
    """Measures a Step on its validation data, whenever it is called.

    Its `test_step` is rehearsed at once, so that a bad one is refused before training begins.

    Args:
        programs: Programs of the `test_step`.
        feed: The validation data.
        blocks: Runs many batches of it in one call.
        steps: Batches a validation; `None` uses the whole pass.
        callbacks: Keras's callbacks, or `None`.

    Attributes:
        feed: The validation data.
    """

    def __init__(
        self,
        programs: Programs,
        feed: Feed,
        blocks: Blocks,
        steps: int | None,
        callbacks: Callbacks | None,
    ) -> None:
        self.feed = feed
        self._programs, self._blocks = programs, blocks
        self._steps, self._callbacks = steps, callbacks
        program_for_next(programs, feed)

    def __call__(self) -> dict[str, float]:
        """Return exact means and metrics, by the names that the step gives them."""
        return evaluate(self._programs, self.feed, self._blocks, self._steps, self._callbacks)

    def samples(self) -> dict[str, Shown]:
        """Return what was logged as samples since the last time."""
        return self._programs.samples()


def predict(programs: ProgramFor, feed: Feed, blocks: Blocks, steps: int | None) -> Tree:
    """Run `predict_step` over a pass of the feed, and return its results put together on axis 0."""
    program = _prepared(programs, feed)
    parts: list[Tree] = []
    first = feed.position.batches
    with _undone(program):
        while (left := _left(feed, first, steps)) != 0:
            block = blocks.predict(program, left)
            if block is not None:
                parts += block
                continue
            batch = feed.draw()
            if batch is None:
                break
            parts.append(_backends.current().to_host(program.run(batch)))
    return keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *parts)


def _prepared(programs: ProgramFor, feed: Feed) -> Program:
    """Return the program for the feed, which then stands where the pass begins."""
    feed.rewind()
    return program_for_next(programs, feed)


def program_for_next(programs: ProgramFor, feed: Feed) -> Program:
    """Return the program for the next batch; an error of the step is noted if the data looks odd.

    Nothing is certain about it, so it is said only where the step takes no such batch.
    """
    batch = feed.peek()
    try:
        return programs(batch)
    except Exception as error:
        advice = feed.advice(batch)
        if advice is not None and advice not in getattr(error, "__notes__", ()):
            error.add_note(advice)
        raise


@contextmanager
def _undone(program: Program) -> Generator[None]:
    """Begin at the first draw of every seed, and restore afterwards whatever a pass may write.

    It waits for the steps that still run on the device.
    """
    with preserved(_touched(program), host=False):
        rewind_seeds(program.rehearsal.tracked)
        _backends.current().rewind_random_state()
        yield


def _touched(program: Program) -> list[Any]:
    """Return what a pass may write: what the rehearsal wrote, and all state but weights."""
    rehearsal = program.rehearsal
    touched = {id(v): v for v in rehearsal.tracked.of_kind("metric", "seed", "variable")}
    touched |= {id(v): v for v in rehearsal.written}
    return list(touched.values())


def _left(feed: Feed, first: int, steps: int | None) -> int | None:
    """Return how many batches are left to draw of those from the first on."""
    return None if steps is None else steps - (feed.position.batches - first)


def _read(program: Program, rows: list[Any], tally: Tally) -> None:
    """Add rows to the tally and forget them. It waits for the device."""
    if rows:
        tally.add(program.columns, rows_on_host(rows))
        rows.clear()
