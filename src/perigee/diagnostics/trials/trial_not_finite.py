"""PG710, TrialNotFinite: a training that produces NaN or infinity within some hundred steps.

Checked at `level="full"`, by 400 steps on a copy of the state. The learning rate is too high, the
loss takes the logarithm of 0, or something is divided by 0. `fit` reports where such a value began
(PG701).

How sure: an error, shown by a value in the trial.
"""

from __future__ import annotations

from perigee.diagnostics._finding import Finding
from perigee.diagnostics._trials import Trials


def check(trials: Trials) -> list[Finding]:
    """Examine what the steps logged."""
    if trials.own.bad is None:
        return []
    name, value, step = trials.own.bad
    return [
        Finding(
            code="PG710",
            name="TrialNotFinite",
            severity="error",
            happened=f"In a trial, {name!r} was {value} at step {step}.",
            expected="finite values.",
            fix="lower the learning rate, clip the gradients, or check the loss for a logarithm "
            "of 0 or a division by 0.",
        )
    ]
