"""PG129, SummedParts: gradients of parts of a batch that are added and not divided.

A step of your own divides the batch, as to save memory, and takes the gradient of the mean over
each part. The gradient of the mean over the batch is the mean of these gradients; their sum is as
many times larger as there are parts. SGD then takes steps that are as many times larger, and
clipping and weight decay act on the wrong scale; for optimizers that divide by the size of the
gradients it is a hint. Reported only if every value is known: what is applied is the sum, and each
part's loss is what a Keras loss returned, or the step logs the mean of the parts' losses as its
`loss`.

How sure: a warning for SGD, else a hint, shown by the values: what is applied is the sum of the
gradients of the parts. A sum may be meant.
"""

from __future__ import annotations

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import Derived, Update


def check(evidence: Evidence) -> list[Finding]:
    """Compare what was applied with the sum of what was computed on parts of the batch."""
    parts = [d for d in evidence.training.derived if 0 < d.rows < evidence.size]
    if len(parts) >= 2 and sum(part.rows for part in parts) == evidence.size:
        of_what = f" ({' + '.join(str(part.rows) for part in parts)} rows)"
    elif len(parts := evidence.training.derived) >= 2 and _are_averaged(evidence):
        of_what = ", whose mean loss is logged,"
    else:
        return []
    summed = [u.inner for u in evidence.training.updates if _is_sum(u, parts)]
    if not summed:
        return []
    is_larger = any(isinstance(optimizer, keras.optimizers.SGD) for optimizer in summed)
    return [
        Finding(
            code="PG129",
            name="SummedParts",
            severity="warning" if is_larger else "hint",
            happened=f"The gradients of the means over {len(parts)} parts of the batch{of_what} "
            "are added, and their sum is applied.",
            expected="the gradient of the mean over the batch.",
            fix=f"divide the sum by {len(parts)}, or call `minimize` on the whole step and pass "
            f"`accumulate={len(parts)}` to `fit`, with batches of the size of a part.",
        )
    ]


def _are_averaged(evidence: Evidence) -> bool:
    """Return whether the mean of all that was differentiated is what the step logs as its loss."""
    losses = [derived.loss for derived in evidence.training.derived]
    logged = evidence.training.logs.get("loss")
    if logged is None or any(loss is None for loss in losses):
        return False
    mean = float(np.mean(np.asarray(losses, "float64")))
    value = float(np.mean(logged))
    return abs(value - mean) <= 1e-5 * abs(mean) and mean != 0


def _is_sum(update: Update, parts: list[Derived]) -> bool:
    """Return whether all gradients of an update are sums over the parts."""
    computed = [dict(zip(map(id, p.variables), p.gradients, strict=False)) for p in parts]
    for variable, applied in update.pairs:
        own = [gradients.get(id(variable)) for gradients in computed]
        if any(gradient is None for gradient in own):
            return False
        total = np.sum(np.asarray(own, "float64"), axis=0)
        if not np.allclose(applied, total, rtol=1e-3, atol=1e-6 + 1e-4 * np.abs(total).max()):
            return False
    return any(np.any(applied) for _, applied in update.pairs)
