"""Measuring and predicting: passes over data that leave the Step as it was."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
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
from perigee._step.state import (
    Tracked,
    branch_seeds,
    host_random,
    preserved,
    restore,
    rewind_seeds,
    set_host_random,
    snapshot,
)
from perigee._step.step import Step
from perigee._step.updates import internals
from perigee._typing import Batch, Tree

ProgramFor = Callable[[Batch], Program]
"""Returns the program for batches like the one given."""


def evaluate(
    programs: ProgramFor,
    feed: Feed,
    blocks: Blocks,
    steps: int | None,
    callbacks: Callbacks | None = None,
    between: Callable[[int], None] | None = None,
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
        between: Called between batches, with their number so far; what it raises leaves the pass.
    """
    program = _prepared(programs, feed)
    with _undone(program):
        program.reset_metrics()
        tally, rows, first = Tally(), [], feed.position.batches

        def logs() -> dict[str, float]:
            _read(program, rows, tally)
            return {**tally.means(), **logged_metrics(program.rehearsal)}

        hooks = None
        if callbacks is not None and callbacks.wants_test_batches:
            hooks = _BatchHooks(
                callbacks.interval,
                callbacks.test_batch_begin,
                lambda index: callbacks.test_batch_end(index, logs()),
                lambda: callbacks.stop_evaluating,
            )
        for left in _stretches(feed, first, steps, hooks):
            if between is not None:
                between(feed.position.batches - first)
            block = None if left == 1 and hooks is not None else blocks.run(program, left)
            if block is not None:
                _read(program, rows, tally)
                tally.add(program.columns, block)
                continue
            batch = feed.draw()
            if batch is not None:
                rows.append(program.run(batch))
            if len(rows) == ROWS_BETWEEN_READS:
                _read(program, rows, tally)
        program.compare_batch_means()
        return logs()


class _Left(Exception):
    """The rest of a validation is not run."""


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
        batch_means: The names under which means of batch means are logged.
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
        self._begun_before: int | None = None
        program = program_for_next(programs, feed)
        self.batch_means: Sequence[str] = [self.name_of(name) for name in program.batch_means]

    @property
    def begun(self) -> int:
        """The passes begun over the data, without one that was left; see `Feed.begun`."""
        return self.feed.begun if self._begun_before is None else self._begun_before

    def __call__(self, is_left: Callable[[int], bool]) -> dict[str, float] | None:
        """Return exact means and metrics, by the names that the step gives them.

        Args:
            is_left: Asked between batches, with their number so far, whether to leave the others.

        Returns:
            The values; `None` where it was left. Then the host's generators are as they were before
            it, and so is `begun`, so that a resumed training repeats all of it.
        """

        def between(batches: int) -> None:
            if is_left(batches):
                raise _Left

        random = host_random()
        self.feed.rewind()
        begun = self.feed.begun
        given = self._programs, self.feed, self._blocks, self._steps, self._callbacks
        try:
            return evaluate(*given, between)
        except _Left:
            set_host_random(random)
            self._begun_before = begun
            return None

    def name_of(self, name: str) -> str:
        """Return the name under which a value of the validation is logged."""
        is_named = name.startswith("val_") and self._programs.step._is_as_written
        return name if is_named else f"val_{name}"

    def samples(self) -> dict[str, Shown]:
        """Return what was logged as samples since the last time."""
        return self._programs.samples()


def predict(
    programs: Programs,
    feed: Feed,
    blocks: Blocks,
    steps: int | None,
    callbacks: Callbacks | None = None,
    *,
    goes_on: bool = False,
    seed: int | None = None,
) -> Tree:
    """Run `predict_step` over a pass of the feed, and return its results put together on axis 0.

    Args:
        programs: Gives the program of the step.
        feed: Where batches come from.
        blocks: Runs many of them in one call.
        steps: Batches to draw; `None` draws to the end of the pass.
        callbacks: Called for each batch.
        goes_on: Whether random draws continue those of before, as in Keras, and stay so.
        seed: What random draws depend on; `None` gives every call a stream of its own.
    """
    program = _prepared(programs, feed)
    parts: list[Tree] = []
    shown = 0  # of these parts
    first = feed.position.batches

    def ended(index: int) -> None:
        nonlocal shown
        assert callbacks is not None
        callbacks.predict_batch_end(index, _joined(parts[shown:]))
        shown = len(parts)

    hooks = None
    if callbacks is not None and callbacks.wants_predict_batches:
        hooks = _BatchHooks(
            callbacks.interval,
            callbacks.predict_batch_begin,
            ended,
            lambda: callbacks.stop_predicting,
        )
    with _drawing(programs.step, program, goes_on, seed):
        for left in _stretches(feed, first, steps, hooks):
            block = None if left == 1 and hooks is not None else blocks.predict(program, left)
            if block is not None:
                parts += block
                continue
            batch = feed.draw()
            if batch is not None:
                parts.append(_backends.current().to_host(program.run(batch)))
    return _joined(parts)


def _joined(parts: list[Tree]) -> Tree:
    return keras.tree.map_structure(lambda *leaves: np.concatenate(leaves), *parts)


@dataclass(frozen=True, slots=True)
class _BatchHooks:
    """What is called around the batches of a pass.

    Attributes:
        interval: The number of batches between two calls.
        begin: Called before the first of them, with its index.
        end: Called after the last of them, with its index.
        has_stopped: Tells then whether the pass ends there.
    """

    interval: int
    begin: Callable[[int], None]
    end: Callable[[int], None]
    has_stopped: Callable[[], bool]


def _stretches(
    feed: Feed, first: int, steps: int | None, hooks: _BatchHooks | None
) -> Generator[int | None]:
    """Yield how many batches to draw at most, until none is left; `None` is any number.

    Hooks are called before and after their batches. A draw that returns `None` ends the pass.
    """
    end = 0  # of the batches that began with a call
    while (left := _left(feed, first, steps)) != 0:
        index, passes = feed.position.batches - first, feed.position.passes
        if hooks is not None and index == end:
            if feed.ends():
                return
            hooks.begin(index)
            end = index + hooks.interval
        yield left if hooks is None or (left is not None and left < end - index) else end - index
        is_over = feed.position.passes != passes
        is_last = is_over or _left(feed, first, steps) == 0
        if hooks is not None and (is_last or feed.position.batches - first == end):
            hooks.end(end - 1)
            is_over = is_over or hooks.has_stopped()
        if is_over:
            return


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
def _undone(program: Program, begin: Callable[[Tracked], None] = rewind_seeds) -> Generator[None]:
    """Restore afterwards whatever a pass may write. It waits for what still runs on the device.

    Args:
        program: What the pass runs.
        begin: Sets where random draws begin; they are undone too.
    """
    gradients = _backends.current().gradients_restored(program.rehearsal.tracked.variables)
    with preserved(_touched(program), host=False), gradients:
        _backends.current().rewind_random_state()
        begin(program.rehearsal.tracked)
        yield


def _drawing(
    step: Step, program: Program, goes_on: bool, seed: int | None
) -> AbstractContextManager[None]:
    """Let a prediction draw from a stream of its own, and undo what it writes; see `predict`."""
    if goes_on and seed is None:
        return _undone_but_draws(program)
    seeds = [state.tolist() for state in snapshot(program.rehearsal.tracked.of_kind("seed"))]
    key = internals(step).count_prediction(seeds) if seed is None else seed

    def begin(tracked: Tracked) -> None:
        branch_seeds(tracked, key, is_seed=seed is not None)
        _backends.current().rewind_random_state(key)

    return _undone(program, begin)


@contextmanager
def _undone_but_draws(program: Program) -> Generator[None]:
    seeds = {id(v) for v in program.rehearsal.tracked.of_kind("seed")}
    touched = [v for v in _touched(program) if id(v) not in seeds]
    values = snapshot(touched)
    try:
        with _backends.current().gradients_restored(program.rehearsal.tracked.variables):
            yield
    finally:
        restore(touched, values)


def _touched(program: Program) -> list[Any]:
    """Return what a pass may write: what the rehearsal wrote, and all state but weights.

    Results may be collected in lists and numbers of Python: those stay.
    """
    rehearsal = program.rehearsal
    objects = {id(found): found.of_tensors() for found in rehearsal.tracked.objects.values()}
    touched = {id(v): v for v in rehearsal.tracked.of_kind("metric", "seed", "variable")}
    touched |= {id(v): v for v in rehearsal.written}
    return list((touched | objects).values())


def _left(feed: Feed, first: int, steps: int | None) -> int | None:
    """Return how many batches are left to draw of those from the first on."""
    return None if steps is None else steps - (feed.position.batches - first)


def _read(program: Program, rows: list[Any], tally: Tally) -> None:
    """Add rows to the tally and forget them. It waits for the device."""
    if rows:
        tally.add(program.columns, rows_on_host(rows))
        rows.clear()
