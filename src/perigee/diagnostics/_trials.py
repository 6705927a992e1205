"""Trials of some hundred steps on a copy of the state, for `check(..., level="full")`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import keras
import numpy as np

from perigee import _backends
from perigee._events.protocols import Feed
from perigee._execution import Blocks, Plan, Program, constant_rate
from perigee._execution.timing import now
from perigee._step.state import preserved, snapshot
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._recording import Compared

STEPS = 400
STEPS_OF_A_RATE = 100

_RATIOS_AT = (1, 2, 5, 10, 20, 50, 100, 200)
_MOST_SECONDS = 30.0


@dataclass(slots=True)
class Trial:
    """The results of some steps.

    Attributes:
        losses: The logged `loss` of each step at which it counted examples.
        bad: Name, value and number of the step of the first value that was not finite.
        ratios: For some steps, the median over kernels of the norm of the change divided by the
            norm of the kernel, ignoring kernels that did not change.
        judged: The comparisons of losses, with the model's outputs after the steps in inference
            mode.
    """

    losses: list[float] = field(default_factory=list)
    bad: tuple[str, float, int] | None = None
    ratios: list[float] = field(default_factory=list)
    judged: list[Compared] = field(default_factory=list)


class Trials:
    """Trains a Step for a while, and restores everything.

    Args:
        evidence: Evidence about the Step, rehearsed.
        open_feed: Opens the training data from the start, each time.
    """

    def __init__(self, evidence: Evidence, open_feed: Callable[[], Feed]) -> None:
        self.evidence = evidence
        self._open_feed = open_feed

    @cached_property
    def own(self) -> Trial:
        """The training with its own learning rate."""
        return self._train(STEPS, 1.0)

    def with_rate(self, factor: float) -> Trial:
        """Train with the learning rate times `factor`; `optimizer` must not be `None`."""
        return self._train(STEPS_OF_A_RATE, factor)

    @cached_property
    def optimizer(self) -> Any:
        """The only optimizer, if its learning rate is constant; else `None`."""
        updates = {id(u.optimizer): u.optimizer for u in self.evidence.training.updates}
        if len(updates) != 1:
            return None
        (optimizer,) = updates.values()
        return optimizer if (constant_rate(optimizer) or 0.0) > 0 else None

    @cached_property
    def _program(self) -> Program:
        evidence = self.evidence
        assert evidence.training.rehearsal is not None
        counts_examples = evidence.step.num_examples(evidence.batch) is not None
        rehearsal = evidence.training.rehearsal
        program = Program(evidence.step, "train_step", rehearsal, 1, counts_examples, "raise")
        if evidence.is_eager:
            program.use(Plan.usual(rehearsal.loops_well, "eager"))
        return program

    def _train(self, steps: int, factor: float) -> Trial:
        trial, tracked = Trial(), self.evidence.tracked
        feed = self._open_feed()
        try:
            with preserved(tracked.state):
                for metric in tracked.metrics.values():
                    metric.reset_state()
                if factor != 1.0:
                    rate = self.optimizer.learning_rate
                    self.optimizer.learning_rate = float(keras.ops.convert_to_numpy(rate)) * factor
                self._run(feed, steps, trial, measures=factor == 1.0)
                if factor == 1.0 and trial.bad is None:
                    trial.judged = self._judged()
        finally:
            feed.close()
        return trial

    def _run(self, feed: Feed, steps: int, trial: Trial, measures: bool) -> None:
        blocks, end = Blocks(feed), now() + _MOST_SECONDS
        done = 0
        while done < steps and trial.bad is None and now() < end:
            at = [n for n in _RATIOS_AT if n > done] if measures else []
            most = min(steps - done, at[0] - done if at else steps)
            if at and at[0] == done + 1:
                before, most = snapshot(self._kernels), 1
            else:
                before, most = None, max(1, most - 1) if at else most
            rows = self._next(feed, blocks, most)
            if before is not None:
                self._measure(before, trial)
            self._take(rows, done, trial)
            done += len(rows)

    def _next(self, feed: Feed, blocks: Blocks, most: int) -> np.ndarray:
        rows = blocks.run(self._program, most)
        if rows is not None:
            return rows
        batch = feed.draw()
        batch = feed.draw() if batch is None else batch  # of the next pass
        return np.asarray(_backends.current().to_host(self._program.run(batch)))[None]

    def _take(self, rows: np.ndarray, done: int, trial: Trial) -> None:
        columns = self._program.columns
        places = [i for i, column in enumerate(columns) if column.name == "loss"]
        for index, row in enumerate(rows):
            bad = np.flatnonzero(~np.isfinite(row[:, 0]) & (row[:, 1] > 0))
            if len(bad):
                name = columns[int(bad[0])].name
                trial.bad = name, float(row[int(bad[0]), 0]), done + index + 1
                return
            if row[places, 1].sum() > 0:
                trial.losses.append(float(row[places, 0].sum()))

    @cached_property
    def _kernels(self) -> Sequence[Any]:
        updated = self.evidence.updated
        trainable = self.evidence.tracked.of_kind("trainable")
        return [v for v in trainable if id(v) in updated and len(v.shape) >= 2]

    def _measure(self, before: Sequence[np.ndarray], trial: Trial) -> None:
        ratios: list[float] = []
        for old, new in zip(before, snapshot(self._kernels), strict=True):
            old, new = old.astype("float64"), new.astype("float64")
            size, change = float(np.linalg.norm(old)), float(np.linalg.norm(new - old))
            if size > 0 and 0 < change < np.inf:
                ratios.append(change / size)
        if ratios:
            trial.ratios.append(float(np.median(ratios)))

    def _judged(self) -> list[Compared]:
        """Return labels with the model's current outputs, where a Keras loss was given them."""
        evidence = self.evidence
        found: list[Compared] = []
        for seen in evidence.training.losses:
            for call in evidence.trained:
                places = [i for i, o in enumerate(call.outputs) if np.array_equal(o, seen.y_pred)]
                if places and call.inputs is not None:
                    y_pred = evidence.outputs(call, call.inputs)[places[0]]
                    found.append(Compared(seen.by, seen.y_true, y_pred))
                    break
        return found


def median_ratio(trial: Trial) -> float | None:
    """Return the median of the ratios, or `None` if nothing was measured."""
    return float(np.median(trial.ratios)) if trial.ratios else None
