"""PG127, ZeroedUpdate: gradients set to zero to skip an update.

With zero gradients an optimizer with momentum still moves the weights, its slots decay and its
counter grows. `apply(optimizer, gradients, when=condition)` changes nothing.

How sure: a warning, shown by the gradients that are applied: all 0, for this batch or one with far
larger gradients, where those that were computed are not.
"""

from __future__ import annotations

import keras
import numpy as np

from perigee._typing import Batch
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import Recording

_FACTORS = (1.0, 30.0, 1000.0)


def check(evidence: Evidence) -> list[Finding]:
    """If gradients are altered before they are applied, try batches with very large ones."""
    if not any(u.is_altered and not u.is_conditional for u in evidence.training.updates):
        return []
    if not evidence.training.derived:
        return []
    for factor in _FACTORS:
        recording = evidence.training if factor == 1.0 else _recorded(evidence, factor)
        path = None if recording is None else _zeroed(evidence, recording)
        if path is not None:
            where = "" if factor == 1.0 else f" with inputs {factor:g} times as large"
            return [
                Finding(
                    code="PG127",
                    name="ZeroedUpdate",
                    severity="warning",
                    happened=f"{path!r} is applied to gradients that the step has set to "
                    f"0{where}: its momentum and counter still advance.",
                    expected="a skipped step changes nothing.",
                    fix="pass the gradients as they are to `apply(optimizer, gradients, "
                    "when=condition)`.",
                )
            ]
    return []


def _recorded(evidence: Evidence, factor: float) -> Recording | None:
    """Record the step on scaled inputs; `None` if it rejects them."""
    return evidence.training_on(_scaled(evidence.batches[0], factor))


def _zeroed(evidence: Evidence, recording: Recording) -> str | None:
    computed = [g for derived in recording.derived for g in derived.gradients]
    if not computed or not any(np.any(gradient) for gradient in computed):
        return None
    for update in recording.updates:
        is_zero = update.gradients and not any(np.any(gradient) for gradient in update.gradients)
        if is_zero and update.is_altered and not update.is_conditional:
            return evidence.tracked.path_of(update.optimizer)
    return None


def _scaled(batch: Batch, factor: float) -> Batch:
    def scale(leaf: object) -> np.ndarray:
        array = np.asarray(leaf)
        return (array * factor).astype(array.dtype) if array.dtype.kind == "f" else array

    return keras.tree.map_structure(scale, batch)
