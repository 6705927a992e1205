"""Trials of some hundred steps on a copy of the state, for `check(..., level="full")`."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import keras
import numpy as np

from perigee import _backends
from perigee._errors import PerigeeError
from perigee._events.protocols import Feed
from perigee._execution import Blocks, Plan, Program, constant_rate
from perigee._rehearsal.discovery import Rehearsal, rehearse
from perigee._step.state import preserved, restore, snapshot
from perigee._step.updates import inner_of
from perigee._typing import Batch
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._planned import highest_rate, rate_at, schedule_of
from perigee.diagnostics._recording import Compared
from perigee.diagnostics._variations import (
    Odd,
    labels_of,
    odd_weights,
    of_other_rows,
    standardized,
    unscaled,
)

MOST_STEPS = 600
"""The most steps of one trial."""

UNKNOWN_UPDATES = 10_000
"""How many updates a training has whose length is not known: so many that few need more."""

_FEWEST_STEPS, _TRIALS = 30, 14
_STEPS_OF_ALL = 400
"""The steps of all trials together, however large the model: some twenty for each probe."""
_OPERATIONS = 4e10
"""The operations of all further steps."""
_MOST_STEPS_EAGERLY = 40

_RATIOS_AT = (1, 2, 5, 10, 20, 50, 100, 200)
_LOOKS = (1 / 8, 1 / 3, 2 / 3, 1.0)
"""After which parts of a trial the held-out loss is measured; its lowest value counts."""
_END = 4
"""The last part of a trial is a quarter."""
_PIECES = 16
"""The pieces of a schedule, each with a constant rate."""
_FEWEST_ROWS, _MOST_ROWS = 40, 8192
_FEWEST_HELD_OUT, _MOST_HELD_OUT = 64, 256
_A_LOOK = 1 / 40
"""The rows that are held out, as a part of those that a trial trains on."""

_RATE = "_tried_rate"


@dataclass(slots=True)
class Trial:
    """The results of some steps.

    Attributes:
        losses: The logged `loss` of each step at which it counted examples, by itself.
        bad: Name, value and number of the step of the first value that was not finite.
        ratios: For some steps, the median over kernels of the norm of the change divided by the
            norm of the kernel, ignoring kernels that did not change.
        judged: The comparisons of losses, with the model's outputs after the steps in inference
            mode.
        held_out: The losses on the held-out rows, measured a few times.
        running: The number of steps that a running mean of the loss covers, and the mean.
    """

    losses: list[float] = field(default_factory=list)
    bad: tuple[str, float, int] | None = None
    ratios: list[float] = field(default_factory=list)
    judged: list[Compared] = field(default_factory=list)
    held_out: list[float] = field(default_factory=list)
    running: tuple[int, float] = 0, 0.0

    @property
    def loss(self) -> float:
        """How little it has learned; infinite if a value was not finite.

        The lowest loss on the held-out rows, since it rises again where rows are learned by heart;
        but no less than what is left of the loss in training: where that stays high, a low one
        in between was luck.
        """
        if self.bad or not self.held_out:
            return math.inf
        end = self.losses[-max(1, len(self.losses) // _END) :]
        return max(min(self.held_out), float(np.median(end)) if end else -math.inf)


@dataclass(frozen=True, slots=True)
class Variation:
    """What is different in a trial; with the defaults, nothing.

    Attributes:
        steps: How many steps.
        factor: What the learning rate is multiplied by.
        is_constant: Whether a schedule is replaced by its highest rate.
        is_scaled: Whether the inputs are standardized.
        is_fresh: Whether weights of an unusual size are replaced by new ones.
        is_blind: Whether each label belongs to another row, so that nothing can be learned but
            their frequencies.
        start: Which rows are held out, the order of the others, and what is replaced by new ones.
    """

    steps: int
    factor: float = 1.0
    is_constant: bool = False
    is_scaled: bool = False
    is_fresh: bool = False
    is_blind: bool = False
    start: int = 0


class Trials:
    """Trains a Step for a while, and restores everything.

    Args:
        evidence: Evidence about the Step, rehearsed.
        open_feed: Opens data; see `perigee.data.open_feed`.

    Attributes:
        updates: How many updates the training has; `None` if that is not known.
    """

    def __init__(self, evidence: Evidence, open_feed: Callable[..., Feed]) -> None:
        self.evidence = evidence
        self._open_feed = open_feed
        self.updates: int | None = None if evidence.length is None else evidence.length.steps
        self._known: dict[Variation, Trial] = {}

    @cached_property
    def own(self) -> Trial:
        """The training as it is."""
        return self._train(self.unchanged, measures=True)

    def of(self, variation: Variation) -> Trial:
        """Return the trial of a variation, in which only what is held out is measured."""
        if variation == self.unchanged:
            return self.own
        found = self._known.get(variation)
        if found is None:
            try:
                found = self._train(variation)
            except PerigeeError:
                raise
            except Exception:
                if variation == replace(self.unchanged, start=variation.start):
                    raise
                found = Trial()  # the step does not take what was changed
            self._known[variation] = found
        return found

    @cached_property
    def unchanged(self) -> Variation:
        """The training itself, as long as it is or trials are."""
        return Variation(min(self.most_steps, self.updates or self.most_steps))

    @cached_property
    def horizon(self) -> int:
        """How many updates the training has, or may have."""
        return self.updates or max(UNKNOWN_UPDATES, self.most_steps)

    @cached_property
    def most_steps(self) -> int:
        """The most steps of a trial: fewer, the larger the model is."""
        with preserved(self.evidence.tracked.state):  # on torch, a step runs
            operations = self._program.operations()
        total = float(_STEPS_OF_ALL)
        if operations is not None:
            total += _OPERATIONS / max(1.0, operations)
        most = MOST_STEPS if self._program.plan.is_fused else _MOST_STEPS_EAGERLY
        return int(min(most, max(_FEWEST_STEPS, total / _TRIALS)))

    @cached_property
    def optimizers(self) -> Sequence[Any]:
        """The optimizers, if only a schedule of a single one changes learning rates; else none.

        Several must be given parts of one gradient: a sum of the losses of others says nothing.
        """
        training = self.evidence.training
        updates = {id(u.optimizer): u.optimizer for u in training.updates}
        found = [inner_of(each) for each in updates.values()]
        written = {id(variable) for variable in self._rehearsal.written}
        for optimizer in found:
            is_constant = constant_rate(optimizer) is not None
            if not is_constant and (schedule_of(optimizer) is None or len(found) > 1):
                return ()
            if id(optimizer.learning_rate) in written or highest_rate(optimizer, self.updates) <= 0:
                return ()
        return found if len(found) == 1 or len(training.derived) == 1 else ()

    @property
    def optimizer(self) -> Any:
        """The first of the optimizers; `None` without one."""
        return self.optimizers[0] if self.optimizers else None

    @cached_property
    def rate(self) -> float:
        """The learning rate of the first optimizer; of a schedule, the highest one."""
        return highest_rate(self.optimizer, self.updates)

    @cached_property
    def has_schedule(self) -> bool:
        """Whether the learning rate changes in the course of the training."""
        return constant_rate(self.optimizer) is None

    @cached_property
    def held_out(self) -> bool:
        """Whether rows can be held out; else what is trained on is measured."""
        if self._rows is not None:
            return len(self._rows[0]) >= _FEWEST_ROWS
        return len(self.evidence.batches) >= 4

    @cached_property
    def first_loss(self) -> float:
        """The loss before the first step, on the rows that are measured."""
        _, batches, _ = self._split(self.unchanged)
        with preserved(self.evidence.tracked.state):
            return self._loss(batches)

    @cached_property
    def is_blindable(self) -> bool:
        """Whether labels can be told from inputs."""
        leaves = keras.tree.flatten(self.evidence.batches[0])
        return 0 < len(labels_of(self.evidence)) < len(leaves) and self.evidence.size > 1

    @cached_property
    def odd(self) -> list[Odd]:
        """Weights of an unusual size."""
        return odd_weights(self.evidence)

    @cached_property
    def unscaled(self) -> str | None:
        """What is said about inputs that are far from unit scale; `None` if none are."""
        return unscaled(self.evidence, self._columns)

    # What is trained on.

    @cached_property
    def _rows(self) -> list[np.ndarray] | None:
        """All known rows, a leaf an array; `None` where batches are used as they are."""
        columns = list(self.evidence.columns)
        if not self.evidence.is_of_arrays or not all(column.ndim for column in columns):
            return None
        return columns if columns and len({len(column) for column in columns}) == 1 else None

    @cached_property
    def _columns(self) -> list[np.ndarray]:
        if self._rows is not None:
            return self._rows
        return list(self.evidence.columns)

    def _split(self, variation: Variation) -> tuple[Any, list[Batch], int | None]:
        """Return the data to train on, the held-out batches, and the batch size of arrays."""
        evidence, start = self.evidence, variation.start
        like = evidence.batches[0]

        def changed(batch: Batch) -> Batch:
            if variation.is_scaled:
                batch = standardized(evidence, self._columns, batch)
            return of_other_rows(evidence, batch, start) if variation.is_blind else batch

        if self._rows is None:
            batches = [changed(batch) for batch in evidence.batches]
            held = len(batches) // 4
            if not held:
                return batches, batches, None
            shift = start * held % len(batches)
            batches = batches[shift:] + batches[:shift]
            return batches[:-held], batches[-held:], None
        length = len(self._rows[0])
        order = np.random.default_rng(start).permutation(length)[: _MOST_ROWS + _MOST_HELD_OUT]
        most = int(self.most_steps * evidence.size * _A_LOOK)
        most = min(_MOST_HELD_OUT, max(_FEWEST_HELD_OUT, most))
        held = min(most, len(order) // 4) if self.held_out else 0

        def packed(rows: np.ndarray) -> Batch:
            assert self._rows is not None
            return changed(keras.tree.pack_sequence_as(like, [leaf[rows] for leaf in self._rows]))

        size = min(evidence.size, len(order) - held)
        last = (
            len(order) - (len(order) - held) % size
        )  # a smaller batch may need another compilation
        trained = packed(np.sort(order[held:last]))
        measured = packed(order[:held] if held else order)
        return trained, [measured], size

    def _feed(self, data: Any, size: int | None, start: int) -> Feed:
        if size is None:
            return self._open_feed(data)
        return self._open_feed(data, batch_size=size, shuffle=True, seed=start)

    # How it is trained.

    @cached_property
    def _rehearsal(self) -> Rehearsal:
        assert self.evidence.training.rehearsal is not None
        return self.evidence.training.rehearsal

    @cached_property
    def _program(self) -> Program:
        return self._made(self._rehearsal)

    def _made(self, rehearsal: Rehearsal) -> Program:
        evidence = self.evidence
        counts_examples = evidence.step.num_examples(evidence.batch) is not None
        like = keras.tree.map_structure(_like, evidence.batch)
        program = Program(
            evidence.step, "train_step", rehearsal, 1, counts_examples, "raise", like=like
        )
        if evidence.is_eager:
            program.use(Plan.usual(rehearsal.loops_well, "eager"))
        return program

    @cached_property
    def _steered(self) -> tuple[keras.Variable, Program]:
        """A variable in place of the schedule, and the program of the step that reads it."""
        held = getattr(self.evidence.step, _RATE)
        rehearsal = rehearse(self.evidence.step, "train_step", self.evidence.batch)
        return held, self._made(rehearsal)

    @contextmanager
    def _steering(self) -> Generator[tuple[Callable[[float], None], Program]]:
        """Yield a function that sets the learning rate, and the program that follows it."""
        optimizer = self.optimizer
        if optimizer is None:
            yield lambda rate: None, self._program
            return
        if not self.has_schedule:
            own = [constant_rate(each) or 0.0 for each in self.optimizers]

            def steer(rate: float) -> None:
                for each, its_own in zip(self.optimizers, own, strict=True):
                    each.learning_rate = its_own * rate / own[0]

            yield steer, self._program
            return
        schedule, step = schedule_of(optimizer), self.evidence.step
        held, train_step = self._held_rate, step.train_step
        read: list[Any] = []

        def reading(batch: Batch) -> Any:
            # Keras's own step on JAX does not see variables that it is not given.
            read[:] = [keras.ops.convert_to_tensor(held)]
            return train_step(batch)

        setattr(step, _RATE, held)
        step.train_step = reading
        optimizer.learning_rate = lambda: read[0]
        try:
            _, program = self._steered
            yield held.assign, program
        finally:
            optimizer.learning_rate = schedule
            del step.train_step
            delattr(step, _RATE)

    @cached_property
    def _held_rate(self) -> keras.Variable:
        return keras.Variable(0.0, trainable=False, dtype="float32", name="rate")

    def _rates(self, variation: Variation) -> list[tuple[int, float]]:
        """Return pieces of a trial: how many steps, and their learning rate."""
        steps, factor = variation.steps, variation.factor
        if self.optimizer is None:
            return [(steps, 0.0)]
        if variation.is_constant or not self.has_schedule or self.updates is None:
            return [(steps, self.rate * factor)]
        edges = np.linspace(0, steps, min(steps, _PIECES) + 1).round().astype(int)
        pieces: list[tuple[int, float]] = []
        for first, last in pairwise(edges):
            update = int((first + last - 1) / 2 * self.updates / self.unchanged.steps)
            rate = rate_at(self.optimizer, update)
            pieces.append((int(last - first), rate * factor))
        return pieces

    def _train(self, variation: Variation, measures: bool = False) -> Trial:
        trial, tracked = Trial(), self.evidence.tracked
        data, held_out, size = self._split(variation)
        rates = self._rates(variation)
        feed = self._feed(data, size, variation.start)
        try:
            with preserved(tracked.state), self._steering() as (steer, program):
                for metric in tracked.metrics.values():
                    metric.reset_state()
                if variation.is_fresh:
                    drawn = [odd.fresh(variation.start) for odd in self.odd]
                    restore([odd.variable for odd in self.odd], drawn)
                self._run(feed, program, steer, rates, trial, measures, held_out)
                if measures and trial.bad is None:
                    trial.judged = self._judged()
        finally:
            feed.close()
        return trial

    def _run(
        self,
        feed: Feed,
        program: Program,
        steer: Callable[[float], None],
        rates: Sequence[tuple[int, float]],
        trial: Trial,
        measures: bool,
        held_out: Sequence[Batch],
    ) -> None:
        blocks, steps = Blocks(feed, program.most_steps), sum(count for count, _ in rates)
        looks = {max(1, round(steps * look)) for look in _LOOKS}
        done = 0
        for count, rate in rates:
            steer(rate)
            end = done + count
            while done < end and trial.bad is None:
                at = [n for n in _RATIOS_AT if n > done] if measures else []
                most = min([end, *(look for look in looks if look > done)]) - done
                before = None
                if at:
                    most = min(most, max(1, at[0] - done - 1))
                    if at[0] == done + 1:
                        before = snapshot(self._kernels)
                rows = self._next(feed, blocks, program, most)
                if before is not None:
                    self._measure(before, trial)
                self._take(program, rows, done, trial)
                done += len(rows)
                if done in looks and trial.bad is None:
                    self._look(held_out, trial)

    def _look(self, held_out: Sequence[Batch], trial: Trial) -> None:
        loss = self._loss(held_out)
        trial.running = 0, 0.0
        if math.isfinite(loss):
            trial.held_out.append(loss)

    def _loss(self, batches: Sequence[Batch]) -> float:
        """Return the mean loss of batches with the current weights; infinite if there is none."""
        losses: list[float] = []
        for batch in batches:
            for metric in self.evidence.tracked.metrics.values():
                metric.reset_state()  # the loss of a compiled model is a running mean
            loss = self.evidence.loss(batch, 1)
            losses.append(math.inf if loss is None else loss)
        mean = float(np.mean(losses))
        return mean if math.isfinite(mean) else math.inf

    def _next(self, feed: Feed, blocks: Blocks, program: Program, most: int) -> np.ndarray:
        rows = blocks.run(program, most)
        if rows is not None:
            return rows
        batch = feed.draw()
        batch = feed.draw() if batch is None else batch  # of the next pass
        return np.asarray(_backends.current().to_host(program.run(batch)))[None]

    def _take(self, program: Program, rows: np.ndarray, done: int, trial: Trial) -> None:
        columns = program.columns
        places = [i for i, column in enumerate(columns) if column.name == "loss"]
        for index, row in enumerate(rows):
            bad = np.flatnonzero(~np.isfinite(row[:, 0]) & (row[:, 1] > 0))
            if len(bad):
                name = columns[int(bad[0])].name
                trial.bad = name, float(row[int(bad[0]), 0]), done + index + 1
                return
            if row[places, 1].sum() > 0:
                loss = float(row[places, 0].sum())
                if columns[places[0]].kind == "last":  # as of compiled models
                    count, mean = trial.running
                    trial.running = count + 1, loss
                    loss = loss * (count + 1) - mean * count
                trial.losses.append(loss)

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
                    y_pred = evidence.outputs_now(call)[places[0]]
                    found.append(Compared(seen.by, seen.y_true, y_pred))
                    break
        return found


def _like(leaf: Any) -> Any:
    """Return what tells the shape and the dtype of a tensor; other leaves as they are."""
    if not hasattr(leaf, "shape") or not hasattr(leaf, "dtype"):
        return leaf
    return keras.KerasTensor(leaf.shape, keras.backend.standardize_dtype(leaf.dtype))


def median_ratio(trial: Trial) -> float | None:
    """Return the median of the ratios, or `None` if nothing was measured."""
    return float(np.median(trial.ratios)) if trial.ratios else None
