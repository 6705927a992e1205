"""PG229, PenaltyDropped: weight penalties that are not part of the loss.

Layers have a `kernel_regularizer`, but the step does not add its penalty to the loss that it
minimizes. `minimize` adds it automatically; with `add_losses=False`, or with a gradient tape of
your own, add `sum(model.losses)` within the objective.

How sure: a warning, shown by what the step read: layers that it updates have penalties, and nothing
has read them. It may be meant.
"""

from __future__ import annotations

from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Find regularizers of updated variables whose penalties nothing has read."""
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
            fix="remove `add_losses=False`, or add `sum(model.losses)` to the loss; or remove "
            "the regularizers.",
        )
    ]
