"""PG713, OtherLearningRate: in a trial, a rate ten times higher or lower trains far better.

Checked at `level="full"`, as a hint: 100 steps from the same state on the same batches. A rate that
is better over the first hundred steps need not be better in the end.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._finding import Finding
from perigee.diagnostics._trials import STEPS_OF_A_RATE, Trial, Trials

_FIRST, _LAST = 5, 20
_MUCH = 0.3
_FACTOR = 3.0


def check(trials: Trials) -> list[Finding]:
    """Compare how far the loss falls with each rate, if it hardly falls with its own."""
    own = trials.own
    if trials.optimizer is None or len(own.losses) < STEPS_OF_A_RATE:
        return []
    first = float(np.mean(own.losses[:_FIRST]))
    fallen = first - float(np.mean(own.losses[STEPS_OF_A_RATE - _LAST : STEPS_OF_A_RATE]))
    if first <= 0 or fallen >= _MUCH * first:
        return []
    rate = float(trials.optimizer.learning_rate)
    for factor, word in ((10.0, "higher"), (0.1, "lower")):
        other = _fallen(trials.with_rate(factor), first)
        if other is None or other < _MUCH * first or other < _FACTOR * max(fallen, 0.0):
            continue
        return [
            Finding(
                code="PG713",
                name="OtherLearningRate",
                severity="hint",
                happened=f"In a trial of {STEPS_OF_A_RATE} steps the loss went from {first:.4g} to "
                f"{first - fallen:.4g} with the learning rate {rate:.3g}, and to "
                f"{first - other:.4g} with {rate * factor:.3g}.",
                expected="a rate at which the loss falls.",
                fix=f"try a learning rate that is ten times {word}.",
            )
        ]
    return []


def _fallen(trial: Trial, first: float) -> float | None:
    if trial.bad is not None or len(trial.losses) < STEPS_OF_A_RATE:
        return None
    return first - float(np.mean(trial.losses[-_LAST:]))
