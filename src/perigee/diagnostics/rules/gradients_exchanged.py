"""PG121, GradientsExchanged: a variable that is updated by another variable's gradient.

Gradients and variables are paired by their order. Lists in different orders go unnoticed if the
shapes are equal: each layer then follows the gradient of the other.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_ALIKE = 0.9999
"""Cosine above which two gradients are equal up to a factor."""


def check(evidence: Evidence) -> list[Finding]:
    """Compare what was applied with what was computed, up to a factor."""
    own: dict[int, np.ndarray] = {}
    for derived in evidence.training.derived:
        if len(derived.gradients) == len(derived.variables):
            keys = map(id, derived.variables)
            own |= dict(zip(keys, derived.gradients, strict=True))
    for update in evidence.training.updates:
        if len(update.gradients) != len(update.variables):
            continue
        exchanged = [
            variable
            for variable, applied in zip(update.variables, update.gradients, strict=True)
            if id(variable) in own
            and not _is_along(applied, own[id(variable)])
            and any(_is_along(applied, gradient) for gradient in _of_shape(own, applied.shape))
        ]
        if exchanged:
            return [
                Finding(
                    code="PG121",
                    name="GradientsExchanged",
                    severity="error",
                    happened="These variables are updated by the gradients of others of the same "
                    "shape:",
                    items=tuple(evidence.tracked.names_of(exchanged)),
                    expected="each variable is updated by its own gradient.",
                    fix="pass what `gradients` returns to `apply`, or pair it in the same order.",
                )
            ]
    return []


def _of_shape(gradients: Mapping[int, np.ndarray], shape: tuple[int, ...]) -> list[np.ndarray]:
    return [gradient for gradient in gradients.values() if gradient.shape == shape]


def _is_along(a: np.ndarray, b: np.ndarray) -> bool:
    a, b = a.astype("float64").reshape(-1), b.astype("float64").reshape(-1)
    norms = np.linalg.norm(a) * np.linalg.norm(b)
    return bool(a.size > 1 and norms > 0 and a @ b > _ALIKE * norms)
