"""Steps made ready to run many times: rehearsed, compiled, and compiled anew when they change."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from perigee import _backends, _state
from perigee._averages import Column, as_average
from perigee._backends import MOST_STEPS_A_BLOCK, Compiled, Mode
from perigee._discovery import Rehearsal, rehearse
from perigee._errors import ArgumentError
from perigee._frame import Method
from perigee._protocols import Feed, Resident
from perigee._recorder import Observer
from perigee._step import Step, call
from perigee._typing import Batch, Tensor, Tree
from perigee._updates import flush_accumulators, internals

_FIRST_BLOCK = 16
_BLOCK_SECONDS = 0.25
_MEASURED_STEPS = 8
_WORTH_MEASURING_SECONDS = 1.0

Choice = Literal["auto", "eager", "graph", "xla"]


@dataclass(frozen=True, slots=True)
class Execution:
    """How a step runs.

    Attributes:
        mode: `"graph"` compiles it, `"xla"` compiles it with XLA, `"eager"` runs it as plain
            Python, for debugging; `"auto"` is the framework's compiled default.
    """

    mode: Choice = "auto"

    def __post_init__(self) -> None:
        known = ("auto", "eager", "graph", "xla")
        if self.mode not in known:
            raise ArgumentError(
                "execution", repr(self.mode), f"one of {', '.join(known)}.", "choose one of them."
            )

    @property
    def resolved(self) -> Mode:
        """The mode that runs on this framework.

        Raises:
            ArgumentError: If the framework has no such mode.
        """
        modes = _backends.current().capabilities.modes
        if self.mode == "auto":
            return modes[0]
        if self.mode not in modes:
            raise ArgumentError(
                "execution",
                repr(self.mode),
                f"one of auto, {', '.join(modes)} on {_backends.current().name}.",
                "choose one of them.",
            )
        return self.mode


class Program:
    """One method of a Step, ready to run on one batch after another.

    Attributes:
        rehearsal: What is known of the method.
        columns: What the columns of a row are, known once it has run.
        is_fused_faster: Whether blocks of steps were measured to be faster; `None` if not measured.
        steps_run: Steps that it has run.
        findings: What is probably wrong with it; `None` while nobody has looked.
    """

    def __init__(
        self,
        step: Step,
        method: Method,
        rehearsal: Rehearsal,
        mode: Mode,
        is_accumulating: bool,
        counts_examples: bool,
    ) -> None:
        self.rehearsal = rehearsal
        self.columns: tuple[Column, ...] = ()
        self._step = step
        self._method: Method = method
        self._is_accumulating = is_accumulating
        self._counts_examples = counts_examples
        self._fingerprint = _fingerprint(step, rehearsal.volatile)
        variables = rehearsal.tracked.variables
        backend = _backends.current()
        body = self._predict if method == "predict_step" else self._row
        self._compiled: Compiled = backend.compile(body, variables, mode)
        self._flush: Compiled = backend.compile(self._flush_all, variables, mode)
        self._mode: Mode = mode
        self._blocks: dict[int, Compiled] = {}
        self.is_fused_faster: bool | None = None
        self.steps_run = 0
        self.findings: Sequence[Any] | None = None

    @property
    def traces(self) -> int:
        """How often the method has been compiled."""
        return self._compiled.traces

    @property
    def is_stale(self) -> bool:
        """Whether the Step has changed since the method was compiled."""
        return self._fingerprint != _fingerprint(self._step, self.rehearsal.volatile)

    def run(self, batch: Batch) -> Tree:
        """Run the method on a batch.

        Returns:
            The row of logged values, shape `(columns, 2)`: means and counts, on the device. Of
            `predict_step` what it returned.
        """
        self.steps_run += 1
        return self._compiled(batch)

    @property
    def can_fuse(self) -> bool:
        """Whether many steps can go into one call."""
        return self._mode == _backends.current().capabilities.modes[0] != "eager"

    def run_block(
        self, arrays: Batch, order: Tensor, batch_size: int, first: int, count: int
    ) -> Tensor:
        """Run the method on `count` batches gathered from arrays, in one call.

        Args:
            arrays: Tensors with one common first axis.
            order: Their rows in order, shape `(rows,)`, int32.
            batch_size: Rows a batch.
            first: The first batch.
            count: How many batches, at most `MOST_STEPS_A_BLOCK`.

        Returns:
            The rows of logged values, shape `(at least count, columns, 2)`, on the device.
        """
        self.steps_run += count
        block = self._blocks.get(batch_size)
        if block is None:
            backend = _backends.current()
            variables = self.rehearsal.tracked.variables
            block = backend.compile(backend.gathered(self._row, batch_size), variables, self._mode)
            self._blocks[batch_size] = block
        return block(arrays, order, np.int32(first), np.int32(count))

    def flush(self) -> None:
        """Apply the gradients that were accumulated, if any."""
        self._flush()

    def _row(self, batch: Batch) -> Tensor:
        returned, examples = call(
            self._step,
            self._method,
            batch,
            is_accumulating=self._is_accumulating,
            counts_examples=self._counts_examples,
        )
        columns, cells = [], []
        for name, value in returned.items():
            for mean, count in as_average(value, examples).pairs(examples):
                columns.append(Column(name, self.rehearsal.kinds.get(name, "mean")))
                cells.append(ops.stack([ops.cast(mean, "float32"), ops.cast(count, "float32")]))
        self.columns = tuple(columns)
        return ops.stack(cells) if cells else ops.zeros((0, 2))

    def _predict(self, batch: Batch) -> Tree:
        return call(self._step, self._method, batch)[0]

    def _flush_all(self) -> Tensor:
        flush_accumulators(self._step)
        return ops.zeros(())


def _fingerprint(step: Step, volatile: frozenset[str]) -> tuple[Any, ...]:
    variables, optimizers, plain = _state.track(step).fingerprint()
    return variables, optimizers, tuple(item for item in plain if item[0] not in volatile)


def program(
    step: Step,
    method: Method,
    batch: Batch,
    execution: Execution,
    *,
    observers: Sequence[Observer] = (),
    accumulate: int = 1,
) -> Program:
    """Return the program for batches like this one, made anew only if the Step has changed.

    Args:
        step: The Step.
        method: Which of its methods.
        batch: The first batch of the data.
        execution: How it runs.
        observers: Look at each call of a loss object while the method is rehearsed.
        accumulate: Micro-batches an update.
    """
    mode = execution.resolved
    programs = internals(step).programs
    counts_examples = step.num_examples(batch) is not None
    key = (method, mode, accumulate > 1, counts_examples, _describe(batch))
    known = programs.get(key)
    if known is None or known.is_stale:
        first = _backends.current().tensors(batch)
        rehearsal = rehearse(step, method, first, observers=observers, accumulate=accumulate)
        programs[key] = Program(step, method, rehearsal, mode, accumulate > 1, counts_examples)
    return programs[key]


def _describe(batch: Batch) -> str:
    """Describe the structure, dtypes and ranks of a batch, not its sizes."""

    def leaf(value: Any) -> str:
        dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", ())
        return f"{getattr(dtype, 'name', dtype)}/{len(shape)}"

    return repr(keras.tree.map_structure(leaf, batch))


class Blocks:
    """Runs many steps of a program in one call, where the data allows it and it is faster.

    The size of a block changes no number: one compiled program runs blocks of every size.

    Args:
        feed: Where batches come from.
        steps_ahead: Steps that are going to be run, for what measuring may cost; 0 measures
            nothing.
    """

    def __init__(self, feed: Feed, steps_ahead: int) -> None:
        self._feed, self._steps_ahead = feed, steps_ahead
        self._arrays: Any = None
        self._order: tuple[Resident | None, Any] = (None, None)
        self._most = _FIRST_BLOCK
        self._ran: set[int] = set()
        self._is_off = False

    def steps(self, program: Program, most: int | None) -> int:
        """Return how many steps the next block has; 0 where a single batch must be drawn.

        Args:
            program: What runs.
            most: Steps until something else is due, or `None`.
        """
        capabilities = _backends.current().capabilities
        if self._is_off or capabilities.fuses == "never" or not program.can_fuse:
            return 0
        resident = self._feed.resident()
        if resident is None:
            return 0
        batches, ragged = divmod(len(resident.order), resident.batch_size)
        left = batches + (ragged > 0 and capabilities.fuses_ragged) - self._feed.position.batches
        count = max(0, min(left, self._most, most if most is not None else left))
        if count and capabilities.fuses == "measured":
            if program.is_fused_faster is None:
                program.is_fused_faster = self._is_faster(program, resident)
            if program.is_fused_faster is None:  # too short to be worth measuring
                self._is_off = True
            return count if program.is_fused_faster else 0
        return count

    def run(self, program: Program, count: int) -> np.ndarray:
        """Run a block of `count` steps and return its rows on the host. It waits for the device."""
        resident = self._feed.resident()
        assert resident is not None
        arrays, order = self._on_device(resident)
        began = time.perf_counter()
        first = self._feed.position.batches
        rows = program.run_block(arrays, order, resident.batch_size, first, count)
        rows = _backends.current().to_host(rows)[:count]
        self._feed.skip(count)
        if id(program) in self._ran:  # the first call compiles
            self._adapt(count, time.perf_counter() - began)
        self._ran.add(id(program))
        return rows

    def _adapt(self, count: int, seconds: float) -> None:
        """Let blocks take about a quarter of a second, so that nothing waits for them for long."""
        if seconds > _BLOCK_SECONDS and self._most > 1:
            self._most = max(1, count // 2)
        elif count == self._most and seconds < _BLOCK_SECONDS / 2:
            self._most = min(2 * self._most, MOST_STEPS_A_BLOCK)

    def _on_device(self, resident: Resident) -> tuple[Batch, Tensor]:
        tensors = _backends.current().tensors
        if self._arrays is None:
            self._arrays = tensors(resident.arrays)
        if self._order[0] is not resident:
            self._order = resident, tensors(resident.order.astype(np.int32))
        return self._arrays, self._order[1]

    def _is_faster(self, program: Program, resident: Resident) -> bool | None:
        """Measure one step a call against a block, on a copy of the state.

        A block is compiled only where the steps ahead, or as many as there were, could pay for it;
        else `None`.
        """
        variables = program.rehearsal.tracked.variables
        saved = _state.snapshot(variables)
        backend = _backends.current()
        size = resident.batch_size
        try:
            arrays, order = self._on_device(resident)
            chosen = resident.order[:size]
            batch = keras.tree.map_structure(
                lambda array: None if array is None else array[chosen], resident.arrays
            )

            def timed(run: Callable[[], Any]) -> float:
                began = time.perf_counter()
                backend.to_host(run())
                return time.perf_counter() - began

            program.run(batch)
            single = min(timed(lambda: program.run(batch)) for _ in range(3))
            if single * max(self._steps_ahead, program.steps_run) < _WORTH_MEASURING_SECONDS:
                return None
            few = min(_MEASURED_STEPS, len(resident.order) // size)
            program.run_block(arrays, order, size, 0, 1)
            if timed(lambda: program.run_block(arrays, order, size, 0, 1)) > 3 * single:
                return False
            runs = [timed(lambda: program.run_block(arrays, order, size, 0, few)) for _ in range(3)]
            return min(runs) / few < single
        finally:
            _state.restore(variables, saved)


def rows_on_host(rows: Sequence[Tensor]) -> np.ndarray:
    """Return rows of single steps as one array, shape `(steps, columns, 2)`. It waits."""
    return np.stack(_backends.current().to_host(list(rows)))


def logged_metrics(rehearsal: Rehearsal) -> dict[str, float]:
    """Read every metric that the step updates. It waits for the device."""
    values: dict[str, float] = {}
    for name, metric in rehearsal.metrics.items():
        values |= _flat(name, metric.result())
    return values


def _flat(name: str, result: Any) -> dict[str, float]:
    if isinstance(result, dict):
        flat: dict[str, float] = {}
        for key, value in result.items():
            flat |= _flat(key if name == key else f"{name}/{key}", value)
        return flat
    array = np.asarray(ops.convert_to_numpy(result), dtype=np.float64)
    if array.ndim == 0:
        return {name: float(array)}
    return {f"{name}/{index}": float(value) for index, value in enumerate(array.ravel())}


def learning_rates(rehearsal: Rehearsal) -> dict[str, float]:
    """Read the learning rate of each optimizer that the step applies. It waits for the device."""
    written = {id(variable) for variable in rehearsal.written}
    rates = {
        path: float(ops.convert_to_numpy(optimizer.learning_rate))
        for path, optimizer in rehearsal.tracked.optimizers.items()
        if path in rehearsal.updated or id(optimizer.iterations) in written
    }
    if len(rates) == 1:
        return {"learning_rate": next(iter(rates.values()))}
    return {f"{path}/learning_rate": rate for path, rate in rates.items()}


def finalize(rehearsal: Rehearsal) -> None:
    """Put averaged weights (`use_ema`) into the variables, where Keras's `fit` does so."""
    for path, variables in rehearsal.updated.items():
        optimizer = rehearsal.tracked.optimizers.get(path)
        if optimizer is not None:
            optimizer.finalize_variable_values(list(variables))
