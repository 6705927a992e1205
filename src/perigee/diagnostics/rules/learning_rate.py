"""PG124, LearningRate: a learning rate at which nothing can be learned.

At rates of 1 and more, the steps of Adam and similar optimizers are larger than usual weights; at
rates below 1e-6 nothing moves. Schedules are not checked: they may begin at 0.

How sure: a warning, read from the rate of the optimizer. An unusual loss or unusual weights may
need such a rate.
"""

from __future__ import annotations

import keras

from perigee._execution import constant_rate
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_LOWEST = 1e-6
_HIGHEST_ADAPTIVE, _HIGHEST = 1.0, 50.0
_ADAPTIVE = (
    keras.optimizers.Adam,
    keras.optimizers.AdamW,
    keras.optimizers.Nadam,
    keras.optimizers.Adamax,
    keras.optimizers.RMSprop,
    keras.optimizers.Lion,
)


def check(evidence: Evidence) -> list[Finding]:
    """Examine the constant rates of optimizers that were applied."""
    found: dict[str, Finding] = {}
    for update in evidence.training.updates:
        optimizer = getattr(update.optimizer, "inner_optimizer", update.optimizer)
        rate = constant_rate(optimizer)
        if not rate:
            continue
        highest = _HIGHEST_ADAPTIVE if isinstance(optimizer, _ADAPTIVE) else _HIGHEST
        if _LOWEST <= rate < highest:
            continue
        path = evidence.tracked.path_of(update.optimizer)
        found[path] = Finding(
            code="PG124",
            name="LearningRate",
            severity="warning",
            happened=f"{path!r} ({type(optimizer).__name__}) has a learning rate of {rate:g}.",
            expected=f"a rate from {_LOWEST:g} to below {highest:g}.",
            fix="start with 1e-3 for Adam and 1e-2 for SGD.",
        )
    return list(found.values())
