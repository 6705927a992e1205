"""PG120, ZeroGradients: every gradient that an optimizer gets is exactly 0.

Nothing will ever be learned. Under float16 gradients below 6e-8 become 0; elsewhere the loss does
not depend on the weights, as after a rounding, or all units behind them are dead.
"""

from __future__ import annotations

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Find updates of which no gradient has a value besides 0."""
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
                expected="gradients that tell how to make the loss smaller.",
                fix="make the loss larger: in float16 nothing below 6e-8 is left of it."
                if is_half
                else "look for rounding, argmax or `stop_gradient` between weights and loss.",
            )
        )
    return found
