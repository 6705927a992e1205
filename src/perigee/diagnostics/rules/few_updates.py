"""PG137, FewUpdates: a training that ends before it has begun.

If it is known how long the training is (`epochs=`, `steps=`), one of these holds:

- An optimizer gathers gradients over more steps than there are, and is never applied.
- It ends before each example was seen once, after fewer than 100 steps.
- It makes fewer than 150 updates at a usual learning rate, which together can move the weights by
  less than 40% of their size, and the model is not trained yet, by its loss. For Adam and
  similar optimizers this is the sum of the rates; for plain SGD, the first gradient tells.

Typical causes are a batch as large as the data, a `take(2)` or `steps_per_epoch=1` that was left
in, steps where epochs were meant, and a `validation_split` that keeps back nearly all. The last is
a hint for fewer than 100 rows: such data is often a demonstration.

How sure: a warning or, as said, a hint, read from the length of the training, the optimizers and
the first step.
"""

from __future__ import annotations

from typing import Literal

import keras

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._planned import Planned, planned, reach

_FEW, _VERY_FEW = 150, 100
_FEWEST_ROWS = 100
_LEAST_REACH, _LEAST_OF_DESCENT = 0.4, 0.1
_USUAL, _USUAL_OF_DESCENT = 1e-4, 1e-3
"""Rates at which a training of usual length learns something."""


def check(evidence: Evidence) -> list[Finding]:
    """Count the updates of the training."""
    length, plans = evidence.length, planned(evidence)
    if length is None or not evidence.training.updates:
        return []
    steps, a_pass = length.steps, length.steps_per_pass
    for plan in plans:
        if not plan.updates:
            every = plan.optimizer.gradient_accumulation_steps
            return [
                _finding(
                    f"{plan.path!r} is applied at every {every}th step, and the training has "
                    f"{steps}: no weight is ever changed.",
                    "lower `gradient_accumulation_steps`, or train for longer.",
                )
            ]
    if a_pass is not None and steps < min(a_pass, _VERY_FEW):
        return [
            _finding(
                f"The training ends after {steps} steps, before each example was seen once: the "
                f"data has {a_pass} batches.",
                "train for whole epochs: check `steps` and `steps_per_epoch`.",
            )
        ]
    if plans and all(are_too_few(plan, evidence) for plan in plans):
        plan = plans[0]
        return [
            _finding(
                f"The training makes {plan.updates} updates: at its learning rates these move the "
                f"weights by some {reach(evidence, plan):.0%} of their size.",
                "train for more epochs, or use smaller batches: each batch makes one update.",
                "warning" if len(evidence.columns[0]) >= _FEWEST_ROWS else "hint",
            )
        ]
    return []


def are_too_few(plan: Planned, evidence: Evidence) -> bool:
    """Return whether it is the number of updates, not their rate, that moves weights too little."""
    if not 0 < plan.updates < _FEW:
        return False
    is_descent = isinstance(plan.optimizer, keras.optimizers.SGD)
    usual = _USUAL_OF_DESCENT if is_descent else _USUAL
    if plan.total < usual * plan.updates:
        return False
    far = reach(evidence, plan)
    return far is not None and far < (_LEAST_OF_DESCENT if is_descent else _LEAST_REACH)


def _finding(happened: str, fix: str, severity: Literal["hint", "warning"] = "warning") -> Finding:
    return Finding(
        code="PG137",
        name="FewUpdates",
        severity=severity,
        happened=happened,
        expected="enough updates to learn what the rows hold.",
        fix=fix,
    )
