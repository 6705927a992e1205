"""PG120, ZeroGradients: all gradients given to an optimizer are exactly 0.

Nothing will ever be learned. In float16, gradients below 6e-8 become 0; otherwise the loss does not
depend on the weights, as after a rounding, or all units after them are dead.
"""

from __future__ import annotations

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Find updates whose gradients are all 0."""
    found: list[Finding] = []
    for update in evidence.training.updates:
        if not update.gradients or any(value.any() for value in update.gradients):
            continue
        is_half = any(
            getattr(layer, "compute_dtype", "") == "float16"
            for model in evidence.tracked.models.values()
            for layer in getattr(model, "layers", ())
        )
        found.append(
            Finding(
                code="PG120",
                name="ZeroGradients",
                severity="error",
                happened=f"All gradients of {len(update.gradients)} variables are exactly 0"
                + (" in float16:" if is_half else ":"),
                items=tuple(evidence.tracked.names_of(update.variables)),
                expected="gradients that are not all 0.",
                fix="scale the loss up: float16 rounds gradients below 6e-8 to 0."
                if is_half
                else "check for rounding, argmax or `stop_gradient` between weights and loss.",
            )
        )
    return found
