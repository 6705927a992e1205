"""PG121, GradientsExchanged: a variable that is updated by another variable's gradient.

Gradients and variables are paired by their order. Lists in different orders go unnoticed if the
shapes are equal: each layer then follows the gradient of the other.

How sure: an error, shown by the values: what a variable is updated by is the gradient that was
computed for another one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perigee._rehearsal.discovery import Rehearsal
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_ALIKE = 0.9999
"""Cosine above which two gradients are equal up to a factor."""


def check(evidence: Evidence) -> list[Finding]:
    """Compare what was applied with what was computed, up to a factor."""
    own: dict[int, list[np.ndarray]] = {}
    for derived in evidence.training.derived:
        if len(derived.gradients) == len(derived.variables):
            for variable, gradient in zip(derived.variables, derived.gradients, strict=True):
                own.setdefault(id(variable), []).append(gradient)
    computed = [gradient for gradients in own.values() for gradient in gradients]
    for update in evidence.training.updates:
        exchanged = [
            variable
            for variable, applied in update.pairs
            if id(variable) in own
            and not any(_is_along(applied, gradient) for gradient in own[id(variable)])
            and any(_is_along(applied, g) for g in computed if g.shape == applied.shape)
        ]
        if exchanged:
            return [_finding(evidence.tracked.names_of(exchanged))]
    return []


def check_rehearsals(rehearsals: Sequence[Rehearsal]) -> list[Finding]:
    """Find variables that got the very gradient that a tape computed for another one.

    Args:
        rehearsals: Rehearsals of `train_step`, one for each batch structure.
    """
    exchanged = {id(v): v for one in rehearsals for v in one.raw.exchanged}
    tracked = rehearsals[-1].tracked
    return [_finding(tracked.names_of(list(exchanged.values())))] if exchanged else []


def _finding(exchanged: Sequence[str]) -> Finding:
    return Finding(
        code="PG121",
        name="GradientsExchanged",
        severity="error",
        happened="These variables are updated by the gradients of others of the same shape:",
        items=tuple(exchanged),
        expected="each variable is updated by its own gradient.",
        fix="pass what `gradients` returns to `apply`, or pair it in the same order.",
    )


def _is_along(a: np.ndarray, b: np.ndarray) -> bool:
    a, b = a.astype("float64").reshape(-1), b.astype("float64").reshape(-1)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return bool(a.size > 1 and norms > 0 and a @ b > _ALIKE * norms)
