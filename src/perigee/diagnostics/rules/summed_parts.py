"""PG129, SummedParts: gradients of parts of a batch that are added and not divided.

A step of your own divides the batch, as to save memory, and takes the gradient of the mean over
each part. The gradient of the mean over the batch is the mean of these gradients; their sum is as
many times larger as there are parts. Optimizers such as SGD then take larger steps, and clipping
and weight decay act on the wrong scale. Reported only if every value is known: each part's loss is
what a Keras loss returned, and what is applied is their sum.

How sure: a hint, shown by the values: what is applied is the sum of the gradients of the parts. A
sum may be meant.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import Derived, Update


def check(evidence: Evidence) -> list[Finding]:
    """Compare what was applied with the sum of what was computed on parts of the batch."""
    parts = [d for d in evidence.training.derived if 0 < d.rows < evidence.size]
    if len(parts) < 2 or sum(part.rows for part in parts) != evidence.size:
        return []
    if not any(_is_sum(update, parts) for update in evidence.training.updates):
        return []
    rows = " + ".join(str(part.rows) for part in parts)
    return [
        Finding(
            code="PG129",
            name="SummedParts",
            severity="hint",
            happened=f"The gradients of the means over {len(parts)} parts of the batch ({rows} "
            "rows) are added, and their sum is applied.",
            expected="the gradient of the mean over the batch.",
            fix=f"divide the sum by {len(parts)}, or call `minimize` on the whole step and pass "
            f"`accumulate={len(parts)}` to `fit`, with batches of the size of a part.",
        )
    ]


def _is_sum(update: Update, parts: list[Derived]) -> bool:
    """Return whether all gradients of an update are sums over the parts."""
    computed = [dict(zip(map(id, p.variables), p.gradients, strict=False)) for p in parts]
    if not update.gradients or len(update.gradients) != len(update.variables):
        return False
    for variable, applied in zip(update.variables, update.gradients, strict=True):
        own = [gradients.get(id(variable)) for gradients in computed]
        if any(gradient is None for gradient in own):
            return False
        total = np.sum(np.asarray(own, "float64"), axis=0)
        if not np.allclose(applied, total, rtol=1e-3, atol=1e-6 + 1e-4 * np.abs(total).max()):
            return False
    return any(np.any(applied) for applied in update.gradients)
