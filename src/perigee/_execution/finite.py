"""Whether all that a step writes is still finite: weights, slots, statistics, metrics.

What a step returns does not tell. A loss may be taken before the update that ruins the weights, and
a ReLU, a `maximum` or a mask after a NaN can hide it for good.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._rehearsal.discovery import Rehearsal
from perigee._step.step import Step
from perigee._step.updates import internals
from perigee._typing import Tensor

STATE = "perigee/state"
"""The column of a step that stops a training: NaN where its state is no longer finite."""


class Written:
    """The variables that a step writes, and which of them are finite.

    Only what was finite before counts: the running minimum that begins at infinity never does.

    Args:
        step: The Step.
        rehearsal: The rehearsal of its method.
    """

    def __init__(self, step: Step, rehearsal: Rehearsal) -> None:
        self._step, self._rehearsal = step, rehearsal
        self._excluded: frozenset[int] = frozenset()
        self._known: list[Any] = []
        self._look: Callable[[], np.ndarray] = lambda: np.ones(0, bool)

    def variables(self) -> list[Any]:
        """Return all of them, the accumulated gradients included."""
        own = internals(self._step).variables
        own.pop("accumulated", None)  # counts batches, including skipped ones
        return self._of_a_step(own.values())

    def begin(self) -> bool:
        """Note what is not finite now, before a training: it never counts.

        Returns:
            Whether that is something else than before.
        """
        before, self._excluded = self._excluded, frozenset()
        self._excluded = frozenset(map(id, self.no_longer_finite()))
        return self._excluded != before

    def no_longer_finite(self) -> list[Any]:
        """Return the variables that were finite and are not. It waits for the device."""
        variables = self._looked_at()
        if [id(v) for v in variables] != [id(v) for v in self._known]:
            self._known, self._look = variables, _looker(variables)
        return [v for v, is_finite in zip(variables, self._look(), strict=True) if not is_finite]

    def total(self) -> Tensor:
        """Return, within compiled code, a scalar that is finite only if all of them are.

        It is a sum: one that overflows says nothing about the variables. Where looking at them from
        the host costs no copy, it is empty: reductions take long to compile, and `jax_debug_nans`
        would refuse a NaN.
        """
        if _reads_without_copies():
            return ops.zeros((0,))
        sums = [ops.sum(ops.cast(variable, "float32")) for variable in self._looked_at()]
        return ops.sum(ops.stack(sums)) if sums else ops.zeros(())

    def cell(self) -> Tensor:
        """Return, within a step, the value and the count of the column `STATE`."""
        tensors = [ops.convert_to_tensor(variable) for variable in self._looked_at()]
        value = ops.zeros(())
        if tensors:
            is_finite = _backends.current().all_finite(tensors)
            value = ops.where(is_finite, value, float("nan"))
        return ops.stack([value, ops.ones(())])

    def _looked_at(self) -> list[Any]:
        """Return those with floating-point values that count.

        Accumulated gradients do not: those that a `LossScaleOptimizer` skips overflow by design.
        """
        return [
            v
            for v in self._of_a_step(())
            if id(v) not in self._excluded and "float" in keras.backend.standardize_dtype(v.dtype)
        ]

    def _of_a_step(self, more: Any) -> list[Any]:
        written = [*self._rehearsal.written, *more]
        for path, variables in self._rehearsal.updated.items():
            # Slots may have been created only after the rehearsal.
            optimizer = self._rehearsal.tracked.optimizers.get(path)
            written += [*variables, *(() if optimizer is None else optimizer.variables)]
        return list({id(v): v for v in written}.values())


def where_it_was_finite(before: Sequence[Tensor], after: Sequence[Tensor]) -> list[Tensor]:
    """Return the floating-point tensors of `after`, with 0 where those before were not finite."""
    return [
        ops.where(ops.isfinite(old), new, ops.zeros_like(new))
        for old, new in zip(before, after, strict=True)
        if "float" in keras.backend.standardize_dtype(new.dtype)
    ]


def first_bad_value(variable: Any) -> float:
    """Return the first value of a variable that is NaN or infinite."""
    value = _as_numbers(_backends.current().read(variable))
    return float(value[~np.isfinite(value)][0])


def _looker(variables: Sequence[Any]) -> Callable[[], np.ndarray]:
    """Return a function that returns for each variable whether it is finite.

    On a CPU, NumPy reads the memory of the framework, or copies it; compiling a function for it
    would take longer than all its calls. Elsewhere, one call on the device answers for all.
    """
    backend = _backends.current()
    if _reads_without_copies():
        return lambda: _are_finite(backend.to_host([v.value for v in variables]))
    if _is_on_cpu():
        return lambda: _are_finite(map(backend.read, variables))

    def look() -> Tensor:
        tensors = [ops.convert_to_tensor(variable) for variable in variables]
        return ops.stack([backend.all_finite([tensor]) for tensor in tensors])

    compiled = backend.compile(look, variables, backend.capabilities.modes[0], is_probe=True)
    return lambda: np.asarray(backend.to_host(compiled()), bool)


def _is_on_cpu() -> bool:
    return all(name.lower() == "cpu" for name in _backends.current().device_names())


def _reads_without_copies() -> bool:
    return _backends.current().capabilities.shares_memory and _is_on_cpu()


def _are_finite(values: Iterable[np.ndarray]) -> np.ndarray:
    with np.errstate(all="ignore"):
        return np.array([_is_finite(_as_numbers(value)) for value in values], bool)


def _is_finite(numbers: np.ndarray) -> bool:
    # A sum needs no memory. It is not finite if any value is not, and else almost always is.
    return bool(np.isfinite(np.add.reduce(numbers, axis=None)) or np.isfinite(numbers).all())


def _as_numbers(value: np.ndarray) -> np.ndarray:
    """Return 16-bit numbers, some of which NumPy does not know, with 32 bits."""
    return value if value.dtype.itemsize >= 4 else value.astype(np.float32)
