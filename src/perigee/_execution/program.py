"""One method of a Step, prepared to run many times, and rebuilt when the Step changes."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._backends import MOST_STEPS_A_BLOCK, Compiled, Mode, Pending
from perigee._errors import AS_MINIMIZE, ArgumentError, PerigeeError, ReplicasError, ScopeError
from perigee._execution.attributes import refuse_compiled_attributes
from perigee._execution.choice import Execution, preparing
from perigee._execution.compiling import count_as_compiling
from perigee._execution.finite import STATE, Written, where_it_was_finite
from perigee._execution.plan import Plan
from perigee._execution.timing import now
from perigee._execution.watching import Watching
from perigee._rehearsal.discovery import Rehearsal, rehearse
from perigee._rehearsal.outside import NumbersOutside, used_attributes
from perigee._rehearsal.raw_updates import shown
from perigee._rehearsal.recorder import Observer
from perigee._step.averages import Column, as_average
from perigee._step.frame import Method
from perigee._step.rows import leaves_of
from perigee._step.samples import Sample
from perigee._step.shown import Shown
from perigee._step.state import fingerprint, track
from perigee._step.step import Step, call
from perigee._step.updates import (
    flush_accumulators,
    flush_if_full,
    internals,
    refuse_other_scope,
    reset_metrics,
)
from perigee._typing import Batch, Tensor, Tree

_PREDICTED_BYTES = 32 * 2**20
"""The most bytes of the predictions of a block, at 8 per value."""

_NOT_FOR_XLA = 'XLA cannot compile all operations: `execution="graph"` runs those that it cannot.'

Nonfinite = Literal["raise", "skip", "stop"]
"""What happens when a returned value or the state is not finite."""


@dataclass(frozen=True, slots=True)
class Retrace:
    """A function that was recompiled, for a batch of other sizes.

    Attributes:
        traces: The number of compilations so far.
        axes: The number of array axes that have had several sizes so far.
        change: A readable description of how the batch differs.
    """

    traces: int
    axes: int
    change: str


class SizesNeeded(Exception):
    """A program cannot be traced for batches of any size; now it is compiled for each size."""


def for_each_size_if_needed(run: Callable[[], Any]) -> Any:
    """Return what `run` returns; it is called again if its program turns out to need sizes.

    Nothing has run until then: the first call fails while it is traced.
    """
    try:
        return run()
    except SizesNeeded:
        pass
    return run()


class Program:
    """One method of a Step, ready to run on one batch after another.

    Attributes:
        rehearsal: The rehearsal of the method.
        plan: How it runs.
        most_steps: The most steps of a block of any kind. Callers respect it; a longer block is
            refused.
        columns: The columns of a row, known once it has run.
        stops: Whether no step follows one that produces a NaN or an infinity.
        skips: Whether a step that produces one is undone.
        written: What a step writes.
        retraces: One entry for each time that a function was recompiled for other batches.
        like: Shapes and dtypes of its first batch; `None` if that is not only arrays.
    """

    def __init__(
        self,
        step: Step,
        method: Method,
        rehearsal: Rehearsal,
        accumulate: int,
        counts_examples: bool,
        nonfinite: Nonfinite,
        watches: frozenset[str] = frozenset(),
        like: Batch | None = None,
    ) -> None:
        self.rehearsal = rehearsal
        self.plan: Plan = Plan.usual(rehearsal.loops_well)
        self.most_steps: int = MOST_STEPS_A_BLOCK
        if method == "predict_step":
            self.most_steps = _predictions_a_block(rehearsal.predicted)
        self.columns: tuple[Column, ...] = ()
        self._suspected: Sequence[Any] | None = None
        self.retraces: list[Retrace] = []
        self._step = step
        self._method: Method = method
        self._accumulate = accumulate
        self._counts_examples = counts_examples
        self._replicas = internals(step).replicas
        self._settled = _settled(rehearsal)
        self.stops: bool = nonfinite == "stop"
        self.skips: bool = nonfinite == "skip"
        self.written: Written = Written(step, rehearsal)
        self._end: Any = None
        if method == "train_step":  # its steps may run before a training, to be timed
            self.written.begin()
        self._fingerprint = _fingerprint(step, rehearsal.volatile)
        self._numbers_outside = NumbersOutside(step, method)
        self._outside = self._numbers_outside.now()
        self.like: Batch | None = like
        self._watching = Watching(rehearsal, watches) if watches else None
        self._compiled: dict[Any, Compiled] = {}
        self._needs_sizes = False
        self._traced_for: dict[Compiled, Sequence[str]] = {}
        self._sizes: dict[Compiled, list[set[tuple[Any, ...]]]] = {}

    @classmethod
    def of(
        cls,
        step: Step,
        method: Method,
        batch: Batch,
        execution: Execution,
        *,
        observers: Sequence[Observer] = (),
        accumulate: int = 1,
        nonfinite: Nonfinite = "raise",
        watches: frozenset[str] = frozenset(),
    ) -> Program:
        """Return the program for batches like this one, rebuilt only if the Step has changed.

        Args:
            step: The Step.
            method: The name of the method.
            batch: The first batch of the data.
            execution: How it runs.
            observers: Called with each call of a loss object during the rehearsal.
            accumulate: Micro-batches per update.
            nonfinite: What happens when a step produces a NaN or an infinity.
            watches: What hooks observe of its updates.

        Raises:
            ArgumentError: If steps are to be skipped or watched, but Perigee does not see their
                updates.
            ScopeError: If it is called in the scope of other replicas.
        """
        refuse_other_scope(step)
        asked = execution.given_mode
        if method == "train_step" or asked == "eager":
            internals(step).run_as_python(asked == "eager")
        if asked == "xla" and "graph" in _backends.current().capabilities.modes:
            _refuse_text(batch)
        programs = internals(step).programs
        counts_examples = step.num_examples(batch) is not None
        key = (method, accumulate, nonfinite, counts_examples, watches, describe(batch))
        known = programs.get(key)
        if known is None or known.is_stale:
            _backends.current().check_devices(track(step).variables)
            first = _backends.current().tensors(batch)
            _refuse_shares(step, batch, asked)
            _refuse_other_scopes(step)
            with preparing(execution):
                rehearsal = rehearse(
                    step, method, first, observers=observers, accumulate=accumulate
                )
            _refuse_other_scopes(step)
            is_raw = bool(rehearsal.raw.paths) and not rehearsal.raw.is_of_keras
            if nonfinite == "skip" and (is_raw or not rehearsal.updated):
                raise ArgumentError(
                    "nonfinite",
                    "'skip'",
                    "updates through `minimize` or `apply`, the only ones that Perigee can undo.",
                    f'{AS_MINIMIZE} Or pass "raise" or "stop".',
                )
            _refuse_watches(step, rehearsal, accumulate, watches)
            made = cls(
                step,
                method,
                rehearsal,
                accumulate,
                counts_examples,
                nonfinite,
                watches,
                _like(first),
            )
            if asked != "eager":
                made.refuse_compiled_attributes(first)
            programs[key] = made
        found = programs[key]
        if asked is not None or execution.fuses is not None or found.plan.origin == "requested":
            found.plan = Plan.usual(found.rehearsal.loops_well, asked, execution.fuses)
        return found

    @classmethod
    def last(cls, step: Step, method: Method) -> Program | None:
        """Return the newest program of a method; `None` if there is none."""
        programs = internals(step).programs
        return next((programs[key] for key in reversed(programs) if key[0] == method), None)

    @property
    def is_split(self) -> bool:
        """Whether batches are split over several replicas."""
        return self._replicas is not None and self._replicas.splits

    @property
    def spans_processes(self) -> bool:
        """Whether the step runs in several processes at once."""
        peers = self._replicas or _backends.current().peers()
        return peers is not None and peers.processes > 1

    @property
    def block_mode(self) -> Mode:
        """The mode that blocks are made for: XLA's if the sizes of batches must be known."""
        return "xla" if self.is_sized else self.plan.mode

    @property
    def is_sized(self) -> bool:
        """Whether each size of batches is compiled on its own."""
        return self._needs_sizes or bool(self.rehearsal.carried)

    @property
    def _states(self) -> Sequence[Any] | None:
        """What `Backend.compile` takes as states."""
        return None if self._needs_sizes else self.rehearsal.carried

    @property
    def accumulates(self) -> bool:
        """Whether gradients are accumulated over several batches per update."""
        return self._accumulate > 1

    @property
    def traces(self) -> int:
        """How often the method has been compiled, in any mode."""
        return sum(compiled.traces for compiled in self._compiled.values())

    @property
    def is_stale(self) -> bool:
        """Whether the Step has changed since the method was compiled."""
        return self._fingerprint != _fingerprint(self._step, self.rehearsal.volatile)

    @property
    def changed_outside(self) -> dict[str, float]:
        """Numbers outside the Step that have changed since it was compiled: their old values."""
        if not self.traces or not self._outside:
            return {}
        now = self._numbers_outside.now()
        return {
            name: old
            for name, old in self._outside.items()
            if now.get(name, old) != old and not (math.isnan(old) and math.isnan(now[name]))
        }

    @property
    def counted_once(self) -> list[str]:
        """Numbers in attributes that the step changes and uses, which compiled code does once."""
        numbers = self.rehearsal.counted
        if not numbers or self.plan.mode == "eager" or not self.traces:
            return []
        return used_attributes(self._step, self._method, numbers)

    def refuse_compiled_attributes(self, batch: Batch) -> None:
        """Refuse attributes that the step changes, and on which its compiled program depends.

        Raises:
            CompiledAttributeError: If there are any.
        """
        if self._replicas is not None or self.spans_processes:
            return  # PG445 reports numbers
        variables = [*self.rehearsal.tracked.variables, *self._slot_variables]
        body = self._predict if self._method == "predict_step" else self._row

        def program() -> Any:
            compiled = _backends.current().compile(
                body, variables, self.plan.mode, states=self._states
            )
            return compiled.program(batch)

        refuse_compiled_attributes(self._step, self._method, self.rehearsal, program)

    def use(self, plan: Plan) -> None:
        """Run as a plan says from now on."""
        self.plan = plan

    def begin(self) -> None:
        """Note, before a training, what of the state is not finite: that is not held against it."""
        self.forget_end()
        if self.written.begin():
            self._compiled.clear()  # it looks at the others

    def reset_metrics(self) -> None:
        """Reset the metrics of the Step, for another pass."""
        reset_metrics(self._step)
        self.forget_end()

    def no_longer_finite(self) -> Sequence[Any]:
        """Return the variables that were finite and are not. It waits for the device."""
        told = self._told()
        if told is not None and told[0].size and np.isfinite(told[0]):
            return []
        return self.written.no_longer_finite()

    @property
    def results(self) -> Mapping[str, Tree]:
        """The results of Keras's own metrics after the block that ran last, on the host.

        Empty as soon as something else may have changed them. It waits for the device.
        """
        told = self._told()
        return {} if told is None else told[1]

    def _told(self) -> tuple[np.ndarray, Mapping[str, Tree]] | None:
        if self._end is not None:
            self._end = _backends.current().to_host(self._end)
        return self._end

    def forget_end(self) -> None:
        """Drop what the last block returned at its end: something may have changed it since."""
        self._end = None

    @property
    def batch_means(self) -> list[str]:
        """The names of metrics that are means of batch means."""
        return internals(self._step).batch_means.names(self.rehearsal.metrics)

    def compare_batch_means(self) -> None:
        """Look, at the end of a pass, for means of batch means that differ from exact ones."""
        internals(self._step).batch_means.compare(self.rehearsal.metrics.values())

    def suspected(self, look: Callable[[], Sequence[Any]]) -> Sequence[Any]:
        """Return the findings about it; `look` finds them the first time."""
        if self._suspected is None:
            self._suspected = look()
        return self._suspected

    def run(self, batch: Batch) -> Tree:
        """Run the method on a batch; accumulated gradients wait for `flush`.

        Returns:
            The row of logged values, shape `(columns, 2)`: means and counts, on the device; for
            `predict_step`, its result.
        """
        self.forget_end()
        return for_each_size_if_needed(lambda: self._watched(self._single(), batch))

    def run_block(self, arrays: Batch, batch_size: int, first: int, count: int) -> Tensor:
        """Run the method on `count` batches cut from arrays, in one call.

        Accumulated gradients are applied within it, whenever there are enough.

        Args:
            arrays: Tensors with one common first axis.
            batch_size: Rows per batch.
            first: The first batch.
            count: How many batches, at most `most_steps`; each must be full, except the last one of
                the arrays if the framework accepts that.

        Returns:
            The rows of logged values, shape `(at least count, columns, 2)`, on the device.
        """
        length = self._length(count)
        compiled = self.compiled_block(batch_size)
        return self._ended(self._watched(compiled, arrays, np.int32(first), length))

    def begin_block(
        self, arrays: Batch, batch_size: int, first: int, count: int, mode: Mode | None = None
    ) -> Pending:
        """Begin `run_block`, in another mode than the plan's if given; the result is the rows."""
        compiled, length = self.compiled_block(batch_size, mode), self._length(count)
        self.forget_end()
        pending = self._watched(compiled, arrays, np.int32(first), length, run=compiled.begin)
        return _Pending(pending, self._ended)

    def _ended(self, result: tuple[Tree, Tree]) -> Tree:
        """Take note of the end of a block, and return the rest."""
        rows, end = result
        self._end = end or None
        return rows

    def run_stream(self, iterator: Any, ahead: Any, count: int) -> tuple[Tensor, Tensor]:
        """Run the method on up to `count` batches drawn from an iterator, in one call.

        Args:
            iterator: An iterator of the framework.
            ahead: A batch that was already taken from it, as an optional; it may be empty.
            count: The most batches, at most `most_steps`.

        Returns:
            The rows of logged values, shape `(steps, columns, 2)`, and how many there are.
        """
        backend = _backends.current()
        compiled = self._kept(
            ("stream", self.plan.mode),
            lambda: backend.streamed(self._row_of_block, self._until(), self._at_end),
        )
        rows, done, end = self._run(compiled, iterator, ahead, self._length(count))[0]
        return self._ended((rows, end)), done

    def _length(self, count: int) -> np.int32:
        """Return the length of a block in the type that compiled code takes.

        Raises:
            ValueError: If `count` is out of range.
        """
        if not 1 <= count <= self.most_steps:
            raise ValueError(f"A block has from 1 to {self.most_steps} steps, not {count}.")
        return np.int32(count)

    def flush(self) -> None:
        """Apply the gradients that were accumulated, if any."""
        self.forget_end()
        self._run(self._kept(("flush", self.plan.mode), lambda: self._flush_all))

    def samples(self) -> dict[str, Shown]:
        """Return the samples logged since the last call. It waits for the device."""
        found = {name: slot.take() for name, slot in self.rehearsal.samples.items()}
        watched = {} if self._watching is None else self._watching.shown()
        return {**watched, **{name: shown for name, shown in found.items() if shown is not None}}

    def structure(self) -> list[Any]:
        """Return what identifies this method across processes, as plain values."""
        entries = self.rehearsal.tracked.entries
        code = getattr(self._step._function(self._method), "__code__", None)
        return [
            type(self._step).__qualname__,
            self._method,
            0 if self._watching is None else len(self._watching.variables),
            zlib.crc32(code.co_code) if code is not None else None,
            self._accumulate,
            [[e.key, list(e.variable.shape), str(e.variable.dtype), e.kind] for e in entries],
        ]

    def obstacles(self, batch: Batch, sample: tuple[Batch, int, int]) -> Sequence[str]:
        """Compile the method as its plan says, without running it; see `Compiled.obstacles`.

        Args:
            batch: For a plan of single steps.
            sample: For a plan of blocks: arrays, the batch size, and how many full batches.
        """

        def compiled() -> Sequence[str]:
            if self.plan.is_fused:
                arrays, batch_size, _ = sample
                block = self.compiled_block(batch_size)
                arguments = arrays, np.int32(0), np.int32(1)
                return self._traced(block, block.obstacles, *arguments)
            single = self._single()
            return self._traced(single, single.obstacles, batch)

        return for_each_size_if_needed(compiled)

    def operations(self) -> float | None:
        """Count the floating-point operations of one step, of matrix products and convolutions.

        A multiplication and an addition are two. The step is recompiled for it (on torch it is run)
        on a batch of zeros: the caller restores what that writes.

        Returns:
            The number for a batch like the first one; `None` if unknown.
        """
        if self.like is None or self.is_split or self.spans_processes:
            return None
        variables = [*self.rehearsal.tracked.variables, *self._slot_variables]
        compiled = _backends.current().compile(
            self._row, variables, self.plan.mode, states=self._states
        )
        try:
            count = compiled.operations(keras.tree.map_structure(_zeros, self.like))
        except Exception:  # of user code, for which such a batch is new
            return None
        return None if math.isnan(count) else count

    def hidden_state(self) -> list[str]:
        """Return the kinds of operations run so far whose state cannot be saved."""
        return sorted({op for c in self._compiled.values() for op in c.hidden_state()})

    def _watched(self, compiled: Compiled, batch: Batch, *more: Any, run: Any = None) -> Any:
        """Run compiled code, and record a batch that made it recompile."""
        result, is_traced = self._run(compiled, batch, *more, run=run)
        if is_traced:
            self._take_note(compiled, batch)
        return result

    def _take_note(self, compiled: Compiled, batch: Batch) -> None:
        """Record a batch that caused a compilation, and how it differs from others."""
        arrays = leaf_shapes(batch)
        before = self._traced_for.get(compiled)
        self._traced_for[compiled] = arrays
        shapes = [(*getattr(leaf, "shape", ()), *_stored(leaf)) for leaf in leaves_of(batch)]
        seen = self._sizes.setdefault(compiled, [set() for _ in shapes])
        for shape, known in zip(shapes, seen, strict=False):
            known.add(shape)
        if before is not None:
            pairs = zip(before, arrays, strict=False)
            changed = [f"{new}, was {old}" for old, new in pairs if old != new]
            axes = sum(
                len(set(of_axis)) > 1 for known in seen for of_axis in zip(*known, strict=False)
            )
            change = "; ".join(changed) or "other values that are not arrays"
            self.retraces.append(Retrace(compiled.traces, axes, change))

    def _run(self, compiled: Compiled, *arguments: Any, run: Any = None) -> tuple[Any, bool]:
        """Run compiled code; if that compiles it first, the time counts as compiling.

        That includes the steps of the call, if it waits for the device.
        """
        traces, began = compiled.traces, now()
        result = self._traced(compiled, run or compiled, *arguments)
        is_traced = compiled.traces != traces
        if is_traced:
            count_as_compiling(now() - began)
        return result, is_traced

    def _traced(self, compiled: Compiled, run: Callable[..., Any], *arguments: Any) -> Any:
        """Run what may trace compiled code first.

        Raises:
            SizesNeeded: If only the sizes are missing, which open axes leave undefined. From then
                on each size is compiled on its own, as `tf.function` does.
        """
        traces = compiled.traces
        try:
            return run(*arguments)
        except Exception as error:
            is_traced = compiled.traces != traces
            is_of_tracing = is_traced and not isinstance(error, PerigeeError)
            if is_of_tracing and self._fits_sized() and not _traces(compiled, arguments):
                self._needs_sizes = True
                self._compiled.clear()
                raise SizesNeeded from error
            self._note_other_mode(error, is_traced)
            raise

    def _note_other_mode(self, error: Exception, is_traced: bool) -> None:
        """Add to an error of XLA, which may have no such operations, how to run the step."""
        backend = _backends.current()
        has_other = self.plan.mode == "xla" and "graph" in backend.capabilities.modes
        if is_traced and has_other and backend.is_compiler_error(error):
            error.add_note(_NOT_FOR_XLA)

    def _fits_sized(self) -> bool:
        """Return whether the method can be compiled for one size, if it fails for any size."""
        open_modes = _backends.current().capabilities.fuses_ragged
        if self.like is None or self.block_mode not in open_modes:
            return False
        variables = [*self.rehearsal.tracked.variables, *self._slot_variables]
        body = self._predict if self._method == "predict_step" else self._row
        sized = _backends.current().compile(body, variables, self.plan.mode, states=None)
        return _traces(sized, [keras.tree.map_structure(_zeros, self.like)])

    def _single(self) -> Compiled:
        body = self._predict if self._method == "predict_step" else self._row
        return self._kept(("single", self.plan.mode), lambda: body)

    def compiled_block(self, batch_size: int, mode: Mode | None = None) -> Compiled:
        """Return the compiled code for blocks of batches of this size, by default as planned."""
        mode = mode or self.plan.mode
        function, dtypes = self._row_of_block, "float32"
        if self._method == "predict_step":
            function = self._predict
            dtypes = keras.tree.map_structure(lambda leaf: leaf.dtype, self.rehearsal.predicted)
        return self._kept(
            ("block", mode, batch_size),
            lambda: _backends.current().sliced(
                function,
                batch_size,
                "xla" if self.is_sized else mode,
                self.most_steps,
                dtypes,
                self._until(),
                self._at_end,
            ),
            mode,
        )

    def _kept(self, key: Any, make: Any, mode: Mode | None = None) -> Compiled:
        """Return the compiled code for `key`, made at its first use."""
        compiled = self._compiled.get(key)
        if compiled is None:
            variables = [*self.rehearsal.tracked.variables, *self._slot_variables]
            compiled = _backends.current().compile(
                make(), variables, mode or self.plan.mode, states=self._states
            )
            self._compiled[key] = compiled
        return compiled

    def _row(self, batch: Batch) -> Tensor:
        return self._on_replicas(self._row_of_share, batch)

    def _row_of_block(self, batch: Batch) -> Tensor:
        def row_of_share(batch: Batch, rows: Tensor | None) -> Tensor:
            row = self._row_of_share(batch, rows)
            if self._accumulate > 1:
                flush_if_full(self._step, self._accumulate)
            return row

        return self._on_replicas(row_of_share, batch)

    def _on_replicas(self, function: Callable[[Batch, Tensor | None], Tensor], batch: Batch) -> Any:
        if self._replicas is None:
            return function(batch, None)
        row = self._replicas.run(function, batch)
        return self._with_results(row) if self._replicas.splits else row

    def _row_of_share(self, batch: Batch, rows: Tensor | None) -> Tensor:
        """Run the step on a batch, or on one replica's share of a batch of `rows` rows."""
        run = self._unless_nonfinite if self.skips else self._cells
        columns, cells = run(batch, rows)
        if self.stops:
            columns, cells = [*columns, Column(STATE, "aside")], [*cells, self.written.cell()]
        self.columns = tuple(columns)  # at once: replicas alternate within a step
        if self._accumulate > 1:
            internals(self._step).accumulated.assign_add(1)
        # Counts and flags are float32, or what `floatx` says.
        row = ops.cast(ops.stack(cells), "float32") if cells else ops.zeros((0, 2), "float32")
        return row if rows is None else self._of_all(row, batch, rows)

    def _of_all(self, row: Tensor, batch: Batch, rows: Tensor) -> Tensor:
        """Return the row of all replicas, and synchronize their variables."""
        means, counts = row[:, 0], row[:, 1]
        totals = ops.where(counts == 0, ops.zeros_like(means), means * counts)
        share = ops.cast(_rows(batch), "float32") / ops.cast(ops.maximum(rows, 1), "float32")
        sums = _backends.current().settle(ops.stack([totals, counts], 1), *self._settled, share)
        totals, counts = sums[:, 0], sums[:, 1]
        return ops.stack([totals / ops.where(counts == 0, 1.0, counts), counts], 1)

    def _with_results(self, row: Tensor) -> Tensor:
        """Replace the results of metrics over a share by those over all replicas."""
        results = self.rehearsal.results
        if not any(column.name in results for column in self.columns):
            return row
        cells = [row[index] for index in range(len(self.columns))]
        assert self._replicas is not None
        with self._replicas.scope():
            for index, column in enumerate(self.columns):
                if column.name in results:
                    metric, leaf = results[column.name]
                    value = keras.tree.flatten(metric.result())[leaf]
                    cells[index] = ops.stack([ops.cast(value, "float32"), ops.ones(())])
        return ops.stack(cells)

    def _cells(self, batch: Batch, rows: Tensor | None) -> tuple[list[Column], list[Tensor]]:
        watching = self._watching
        if watching is not None:
            watching.begin()
        raw, tracked = self.rehearsal.raw, self.rehearsal.tracked
        own = nullcontext() if watching is None else shown(self._step, tracked, raw, watching)
        with own:
            returned, examples = call(
                self._step,
                self._method,
                batch,
                is_accumulating=self._accumulate > 1,
                counts_examples=self._counts_examples,
                rows=rows,
                keep=self._keep,
                watch=watching,
            )
        columns: list[Column] = []
        cells: list[Tensor] = []
        for name, value in returned.items():
            if isinstance(value, Sample):
                self._keep(name, value)
                continue
            for mean, count in as_average(value, examples).pairs(examples):
                columns.append(Column(name, self.rehearsal.kinds.get(name, "mean")))
                cells.append(ops.stack([ops.cast(mean, "float32"), ops.cast(count, "float32")]))
        if watching is not None:
            watched, norms = watching.cells()
            columns, cells = [*columns, *watched], [*cells, *norms]
        return columns, cells

    def _keep(self, name: str, sample: Sample) -> None:
        self.rehearsal.samples[name].write(sample)

    @property
    def _slot_variables(self) -> list[Any]:
        watched = [] if self._watching is None else self._watching.variables
        return [*watched, *(v for s in self.rehearsal.samples.values() for v in s.variables)]

    def _unless_nonfinite(
        self, batch: Batch, rows: Tensor | None
    ) -> tuple[list[Column], list[Tensor]]:
        """Run the step, and undo all its writes if it produced a NaN or an infinity."""
        written = self.written.variables()
        before = [ops.copy(ops.convert_to_tensor(variable)) for variable in written]
        columns, cells = self._cells(batch, rows)
        after = [ops.convert_to_tensor(v) for v in written]
        means = [cell[0] for cell in cells]
        is_finite = _backends.current().all_finite([*means, *where_it_was_finite(before, after)])
        if rows is not None:
            against = ops.cast(ops.logical_not(is_finite), "float32")
            (votes,) = _backends.current().sum_over_replicas([against], rows=_rows(batch))
            is_finite = ops.equal(votes, 0.0)
        for variable, old, new in zip(written, before, after, strict=True):
            variable.assign(ops.where(is_finite, new, old))
        zero = ops.zeros(())
        cells = [
            ops.stack([mean, ops.where(is_finite, cell[1], zero)])
            for mean, cell in zip(means, cells, strict=True)
        ]
        cells.append(ops.stack([1.0 - ops.cast(is_finite, "float32"), ops.ones(())]))
        return [*columns, Column("skipped_steps", "sum")], cells

    def _until(self) -> Callable[[Tensor], Tensor] | None:
        """Return a function that decides whether a block continues after a row, or `None`."""
        if not self.stops:
            return None
        return lambda row: _backends.current().all_finite([row[:, 0]])

    def _at_end(self) -> Tree:
        """Return, at the end of a block, what shows whether all is finite, and metrics' results.

        Reading them afterwards would cost more than many steps. Several replicas are left out as
        their variables are added up only outside, and metrics that are not Keras's own, since
        Python may compute their results.
        """
        if self._method != "train_step" or self._replicas is not None or self.spans_processes:
            return ()
        results = {
            name: metric.result()
            for name, metric in self.rehearsal.metrics.items()
            if type(metric).__module__.partition(".")[0] == "keras"
        }
        return self.written.total(), results

    def _predict(self, batch: Batch) -> Tree:
        def predict(batch: Batch, rows: Tensor | None) -> Tree:
            del rows
            return call(self._step, self._method, batch)[0]

        if self._replicas is None:
            return predict(batch, None)
        return self._replicas.run(predict, batch, joins=True)

    def _flush_all(self) -> Tensor:
        def flush(batch: Batch, rows: Tensor | None) -> Tensor:
            del batch, rows
            flush_accumulators(self._step)
            return ops.zeros(())

        return flush((), None) if self._replicas is None else self._replicas.run(flush, ())


@dataclass(frozen=True, slots=True)
class _Pending:
    """A block that was begun, and what takes in its result."""

    pending: Pending
    take: Callable[[Any], Tree]

    def done(self) -> bool:
        """See `Pending.done`."""
        return self.pending.done()

    def result(self) -> Tree:
        """See `Pending.result`."""
        return self.take(self.pending.result())


def _predictions_a_block(predicted: Tree) -> int:
    """Return how many predictions are concatenated; 1 if they are not tensors of rows."""
    leaves = keras.tree.flatten(predicted)
    if not leaves or any(
        not isinstance(leaf, keras.KerasTensor) or not leaf.shape for leaf in leaves
    ):
        return 1
    size = sum(8 * math.prod(leaf.shape) for leaf in leaves)
    return max(1, min(MOST_STEPS_A_BLOCK, _PREDICTED_BYTES // max(1, size)))


def _settled(rehearsal: Rehearsal) -> tuple[list[Any], list[Any]]:
    """Return variables written by a step that replicas synchronize: summed, and averaged ones."""
    is_sum = _backends.current().is_sum
    written = {id(v) for v in rehearsal.written}
    updated = {id(v) for variables in rehearsal.updated.values() for v in variables}
    sums: list[Any] = []
    others: list[Any] = []
    for entry in rehearsal.tracked.entries:
        if id(entry.variable) not in written or entry.kind in ("seed", "optimizer"):
            continue
        if is_sum(entry.variable):
            sums.append(entry.variable)
        elif id(entry.variable) not in updated and not entry.key.startswith("perigee/"):
            others.append(entry.variable)
    return sums, others


def _rows(batch: Batch) -> Tensor:
    leaf = next(leaf for leaf in keras.tree.flatten(batch) if leaf is not None)
    return ops.shape(leaf)[0]


def _fingerprint(step: Step, volatile: frozenset[str]) -> tuple[Any, ...]:
    variables, optimizers, plain = fingerprint(step)
    return variables, optimizers, tuple(item for item in plain if item[0] not in volatile)


def _refuse_watches(
    step: Step, rehearsal: Rehearsal, accumulate: int, watches: frozenset[str]
) -> None:
    """Refuse to watch updates that are made outside the step, or not through Perigee."""
    if not watches:
        return
    replicas = internals(step).replicas
    if accumulate > 1:
        expected = "an update in each step; with `accumulate` only some steps update."
    elif replicas is not None and replicas.splits:
        expected = "a single replica, since only that can be watched."
    elif not rehearsal.updated or rehearsal.raw.hides_scale:
        expected = "updates through `minimize` or `apply`, the only ones that are seen."
    else:
        return
    raise ArgumentError(
        "callbacks",
        f"a hook that watches {', '.join(sorted(watches))}",
        expected,
        "remove the hook.",
    )


def _like(batch: Batch) -> Batch | None:
    """Return the shapes and dtypes of a batch, or `None` if it is not only arrays."""

    def leaf_like(leaf: Any) -> Any:
        if leaf is None:
            return None
        return keras.KerasTensor(leaf.shape, keras.backend.standardize_dtype(leaf.dtype))

    try:
        return keras.tree.map_structure(leaf_like, batch)
    except (AttributeError, TypeError, ValueError):
        return None


def _traces(compiled: Compiled, arguments: Sequence[Any]) -> bool:
    """Return whether compiled code can be traced: what fails once, in user code, may not again."""
    try:
        compiled.obstacles(*arguments)
    except Exception:
        return False
    return True


def _zeros(leaf: Any) -> Any:
    return None if leaf is None else np.zeros(leaf.shape, leaf.dtype)


def _refuse_text(batch: Batch) -> None:
    """Refuse text where XLA is requested: it has no such values, and may abort the process."""
    for leaf in keras.tree.flatten(batch):
        dtype = getattr(leaf, "dtype", None)
        name = str(getattr(dtype, "name", dtype))
        if isinstance(leaf, str | bytes) or name.startswith(("str", "bytes", "object")):
            raise ArgumentError(
                "execution",
                "'xla'",
                f"batches without text, which XLA does not have; this one has {name}.",
                'pass `execution="graph"`, or map text to numbers in the data.',
            )


def _refuse_shares(step: Step, batch: Batch, asked: Mode | None) -> None:
    """Refuse replicas among which this batch cannot be divided."""
    replicas = internals(step).replicas
    if replicas is None:
        return
    replicas.check()
    if replicas.splits and asked == "xla":
        raise ReplicasError(
            f"XLA cannot compile a function for several devices of {replicas.name}",
            'leave `execution` at "auto".',
        )
    if replicas.splits and not _can_be_split(batch):
        raise ReplicasError(
            f"a batch of {', '.join(leaf_shapes(batch)) or 'no arrays'} has no common first axis "
            "along which it could be split",
            "yield batches whose arrays share their first axis, or train on one device.",
        )


def _can_be_split(batch: Batch) -> bool:
    leaves = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
    shapes: list[tuple[Any, ...]] = [tuple(getattr(leaf, "shape", ())) for leaf in leaves]
    return bool(shapes) and all(shapes) and len({shape[0] for shape in shapes}) == 1


def _refuse_other_scopes(step: Step) -> None:
    replicas, backend = internals(step).replicas, _backends.current()
    tracked = track(step)
    variables = tracked.variables
    if replicas is None:
        others = [v for v in variables if len(backend.copies(v)) > 1]
    else:
        others = [v for v in variables if not replicas.holds(v)]
    if others:
        name = "no strategy" if replicas is None else replicas.name
        raise ScopeError(name, variables=tracked.names_of(others))


def describe(batch: Batch) -> str:
    """Describe the structure, dtypes and ranks of a batch, not its sizes."""

    def leaf(value: Any) -> str:
        dtype, shape = getattr(value, "dtype", None), getattr(value, "shape", ())
        return f"{getattr(dtype, 'name', dtype)}/{len(shape)}"

    return repr(keras.tree.map_structure(leaf, batch))


def leaf_shapes(batch: Batch) -> list[str]:
    """Return each leaf of a batch by its number, with dtype and shape."""
    leaves = enumerate(leaves_of(batch))
    return [
        " ".join(
            [
                f"leaf {index}: {leaf.dtype} {tuple(leaf.shape)}",
                *map("({} stored)".format, _stored(leaf)),
            ]
        )
        for index, leaf in leaves
        if hasattr(leaf, "shape")
    ]


def _stored(leaf: Any) -> tuple[int, ...]:
    """Return how many values a sparse array of JAX has room for: a size, like those of its axes."""
    return (leaf.nse,) if hasattr(leaf, "nse") else ()
