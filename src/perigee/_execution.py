"""Steps made ready to run many times: rehearsed, compiled, and compiled anew when they change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from perigee import _backends, _state
from perigee._averages import Average, Column, as_average
from perigee._backends import Compiled, Mode
from perigee._discovery import Observer, Rehearsal, rehearse
from perigee._errors import ArgumentError
from perigee._step import Method, Step, call, flush_accumulators, internals
from perigee._typing import Batch, Tensor, Tree

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
    """

    def __init__(
        self,
        step: Step,
        method: Method,
        rehearsal: Rehearsal,
        mode: Mode,
        is_accumulating: bool,
    ) -> None:
        self.rehearsal = rehearsal
        self.columns: tuple[Column, ...] = ()
        self._step = step
        self._method: Method = method
        self._is_accumulating = is_accumulating
        self._fingerprint = _fingerprint(step, rehearsal.volatile)
        variables = rehearsal.tracked.variables
        backend = _backends.current()
        body = self._predict if method == "predict_step" else self._row
        self._compiled: Compiled = backend.compile(body, variables, mode)
        self._flush: Compiled = backend.compile(self._flush_all, variables, mode)

    @property
    def traces(self) -> int:
        """How often the method has been compiled."""
        return self._compiled.traces

    @property
    def is_stale(self) -> bool:
        """Whether the Step has changed since the method was compiled."""
        return self._fingerprint != _fingerprint(self._step, self.rehearsal.volatile)

    def run(self, batch: Batch) -> Tree:
        """Run the method on a batch of tensors.

        Returns:
            The row of logged values, shape `(columns, 2)`: means and counts, on the device. Of
            `predict_step` what it returned.
        """
        return self._compiled(batch)

    def flush(self) -> None:
        """Apply the gradients that were accumulated, if any."""
        self._flush()

    def _row(self, batch: Batch) -> Tensor:
        returned, examples = call(
            self._step, self._method, batch, is_accumulating=self._is_accumulating
        )
        columns, cells = [], []
        for name, value in returned.items():
            for mean, count in _pairs(value, examples):
                columns.append(Column(name, self.rehearsal.kinds.get(name, "mean")))
                cells.append(ops.stack([ops.cast(mean, "float32"), ops.cast(count, "float32")]))
        self.columns = tuple(columns)
        return ops.stack(cells) if cells else ops.zeros((0, 2))

    def _predict(self, batch: Batch) -> Tree:
        return call(self._step, self._method, batch)[0]

    def _flush_all(self) -> Tensor:
        flush_accumulators(self._step)
        return ops.zeros(())


def _pairs(value: Any, examples: Tensor) -> Sequence[tuple[Tensor, Tensor]]:
    average = value if isinstance(value, Average) else as_average(value, examples)
    return average.pairs(examples)


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
        batch: Tensors, the first batch of the data.
        execution: How it runs.
        observers: Look at each call of a loss object while the method is rehearsed.
        accumulate: Micro-batches an update.
    """
    mode = execution.resolved
    programs = internals(step).programs
    key = (method, mode, accumulate > 1, _describe(batch))
    known = programs.get(key)
    if known is None or known.is_stale:
        rehearsal = rehearse(step, method, batch, observers=observers, accumulate=accumulate)
        programs[key] = Program(step, method, rehearsal, mode, accumulate > 1)
    return programs[key]


def _describe(batch: Batch) -> str:
    """Describe the structure, dtypes and ranks of a batch, not its sizes."""
    return repr(
        keras.tree.map_structure(
            lambda leaf: f"{getattr(leaf, 'dtype', None)}/{len(getattr(leaf, 'shape', ()))}", batch
        )
    )


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
