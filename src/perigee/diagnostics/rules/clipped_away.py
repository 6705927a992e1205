"""PG141, ClippedAway: gradients that are clipped or scaled to almost nothing.

An optimizer such as SGD moves the weights in proportion to the gradients. `clipnorm=1e-5`, or a
factor of your own, then leaves steps too small to change anything. Clip at what large gradients
exceed, such as 1.0. Optimizers that divide by the size of the gradients, as Adam does, are not
reported, nor are gradients that are small by themselves.

How sure: a warning, shown by the gradients before and after the clipping, on one batch.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from perigee._execution import constant_rate
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import Update

_LEAST_CHANGE, _LEAST_CHANGE_OF_SMALL = 1e-5, 1e-4
"""The change of a kernel in one step, as a part of its norm, of which many thousands make a
difference; the second where what is applied is smaller than anybody needs to clip to."""
_SMALL = 1e-2
_LEAST_FACTOR = 1e-2
_LOWEST_RATE = 1e-6
"""Below it, the rate itself is the fault."""


def check(evidence: Evidence) -> list[Finding]:
    """Compare what SGD applies, after its clipping, with the gradients that were computed."""
    computed: dict[int, float] = {}
    for derived in evidence.training.derived:
        for variable, gradient in zip(derived.variables, derived.gradients, strict=False):
            norm = float(np.linalg.norm(gradient))
            computed[id(variable)] = max(norm, computed.get(id(variable), 0.0))
    for update in evidence.training.updates:
        optimizer = update.inner
        rate = constant_rate(optimizer) or 0.0
        if not isinstance(optimizer, keras.optimizers.SGD) or rate < _LOWEST_RATE:
            continue
        if update.is_conditional or len(update.gradients) != len(update.variables):
            continue
        rows = _rows(update, optimizer, evidence, computed)
        if not rows:
            continue
        before, after = (sum(norms) for norms in zip(*(row[1:] for row in rows), strict=True))
        largest = max(change for change, _, _ in rows)
        least = _LEAST_CHANGE_OF_SMALL if after < _SMALL else _LEAST_CHANGE
        if largest > least or not 0 < after < _LEAST_FACTOR * before:
            continue
        path = evidence.tracked.path_of(update.optimizer)
        return [
            Finding(
                code="PG141",
                name="ClippedAway",
                severity="warning",
                happened=f"{path!r} applies {after / before:.2g} of the gradients, so a step "
                f"changes no kernel by more than {largest:.2g} of its norm.",
                expected=f"steps that change kernels by {least:g} of their norm or more.",
                fix="clip at a larger norm, such as `clipnorm=1.0`, or remove the factor.",
            )
        ]
    return []


def _rows(
    update: Update, optimizer: Any, evidence: Evidence, computed: dict[int, float]
) -> list[tuple[float, float, float]]:
    """Return, for each kernel, its relative change and the norms of its gradient before and after.

    Empty if one is not known.
    """
    applied = [float(np.linalg.norm(gradient)) for gradient in update.gradients]
    joint = float(np.linalg.norm(applied))
    rate = float(constant_rate(optimizer) or 0.0)
    found: list[tuple[float, float, float]] = []
    pairs = zip(update.variables, update.gradients, applied, strict=True)
    for variable, gradient, norm in pairs:
        if len(variable.shape) < 2:
            continue
        weight = evidence.training.before.get(id(variable))
        size = 0.0 if weight is None else float(np.linalg.norm(weight))
        if not size or not np.isfinite(norm):
            return []
        after = norm
        if optimizer.clipnorm and norm:
            after = norm * min(1.0, optimizer.clipnorm / norm)
        elif optimizer.global_clipnorm and joint:
            after = norm * min(1.0, optimizer.global_clipnorm / joint)
        elif optimizer.clipvalue:
            limit = optimizer.clipvalue
            after = float(np.linalg.norm(np.clip(gradient, -limit, limit)))
        found.append((rate * after / size, computed.get(id(variable), norm), after))
    return found
