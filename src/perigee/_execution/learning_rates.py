"""The optimizers that a step applies: their learning rates, as they are logged, and averages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from perigee import _backends
from perigee._rehearsal.discovery import Rehearsal
from perigee._step.updates import counter_of, inner_of


def learning_rates(rehearsal: Rehearsal) -> dict[str, float]:
    """Read the learning rate of each optimizer that the step applies. It waits for the device."""
    return named_rates(applied(rehearsal))


def named_rates(optimizers: Mapping[str, Any]) -> dict[str, float]:
    """Read learning rates by the names under which they are logged. It waits for the device.

    Args:
        optimizers: Optimizers by attribute path.
    """
    rates = {path: _number(one.learning_rate) for path, one in optimizers.items()}
    if len(rates) == 1:
        return {"learning_rate": next(iter(rates.values()))}
    return {f"{path}/learning_rate": rate for path, rate in rates.items()}


def constant_rate(optimizer: Any) -> float | None:
    """Read the learning rate of an optimizer; `None` if it follows a schedule.

    It waits for the device. A schedule of the user's need not have a `get_config`.
    """
    rate = inner_of(optimizer).learning_rate
    return _number(rate) if isinstance(rate, keras.Variable) else None


def has_constant_rates(rehearsal: Rehearsal) -> bool:
    """Return whether all learning rates are constant: no schedule, no change by the step."""
    written = {id(variable) for variable in rehearsal.written}
    rates = [optimizer.learning_rate for optimizer in applied(rehearsal).values()]
    return all(isinstance(rate, keras.Variable) and id(rate) not in written for rate in rates)


def applied(rehearsal: Rehearsal) -> dict[str, Any]:
    """Return the optimizers that a step applies, by attribute path."""
    written = {id(variable) for variable in rehearsal.written}
    return {
        path: optimizer
        for path, optimizer in rehearsal.tracked.optimizers.items()
        if path in rehearsal.updated or id(counter_of(optimizer)) in written
    }


def _number(rate: Any) -> float:
    """Return a learning rate, from a variable or a schedule. It waits for the device."""
    backend = _backends.current()
    if isinstance(rate, keras.Variable):
        return float(backend.read(rate))
    return float(backend.to_host(ops.convert_to_tensor(rate)))


def finalize(rehearsal: Rehearsal) -> bool:
    """Assign averaged weights (`use_ema`) to the variables, where Keras's `fit` does so.

    It waits for the device. Averages over no update at all are zeros, and are left where they are.

    Returns:
        Whether any were assigned.
    """
    is_any = False
    with _backends.current().as_one_device(rehearsal.tracked.variables):
        for path, variables in rehearsal.updated.items():
            optimizer = rehearsal.tracked.optimizers.get(path)
            is_own = path in rehearsal.raw.paths and not rehearsal.raw.is_of_keras
            if optimizer is None or is_own:
                continue
            inner = inner_of(optimizer)
            if inner.use_ema and int(_backends.current().read(counter_of(inner))) > 0:
                optimizer.finalize_variable_values(list(variables))
                is_any = True
    return is_any
