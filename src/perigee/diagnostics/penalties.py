"""PG229, PenaltyDropped: weight penalties that do not come into the loss.

Layers have a `kernel_regularizer`, and the step does not add what it says to the loss that it
minimizes. `minimize` adds it by itself; with `add_losses=False`, and with a gradient tape of your
own, add `sum(model.losses)` within the objective.
"""

from __future__ import annotations

from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Find regularizers of updated variables where nothing has read the penalties."""
    if evidence.training.adds_losses:
        return []
    regularized = {
        f"{layer.path} ({name})": None
        for call in evidence.trained
        for layer in nested_layers(call.layer)
        for name in ("kernel_regularizer", "bias_regularizer", "embeddings_regularizer")
        if getattr(layer, name, None) is not None and evidence.is_updated(layer)
    }
    if not regularized:
        return []
    return [
        Finding(
            code="PG229",
            name="PenaltyDropped",
            severity="warning",
            happened="The penalties of these layers are not in the loss:",
            items=tuple(regularized),
            expected="a regularizer adds its penalty to the loss.",
            fix="leave `add_losses=False` out, or add `sum(model.losses)` to the loss; or leave "
            "the regularizers out.",
        )
    ]
