"""PG461, FixedInTraining: a model that is not trained and is called in training mode.

Its Dropout is active, or its BatchNorm uses the statistics of the batch and changes its own: what a
teacher says is then noise in part. Call it with `training=False`. Reported of models that are
frozen or were trained before; a model that the step itself assigns, as the moving average of
another, may be noisy on purpose.

How sure: a warning, shown by the layers that ran in training mode. It may be meant.
"""

from __future__ import annotations

from keras import layers as kl

from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import was_trained
from perigee.diagnostics._recording import DRAWING


def check(evidence: Evidence) -> list[Finding]:
    """Find active Dropout, and BatchNorm that changes, in models that nothing updates."""
    applied = {id(update.optimizer) for update in evidence.training.updates}
    if any(id(o) not in applied for o in evidence.tracked.optimizers.values()):
        return []  # another step may train what this one leaves alone
    trained = {id(layer) for layer in evidence.trained_layers}
    rehearsal = evidence.training.rehearsal
    written = set() if rehearsal is None else {id(v) for v in rehearsal.written}
    for call in evidence.training.calls:
        model = call.layer
        if evidence.is_updated(model) or not evidence.trained:
            continue
        if not model.weights or (model.trainable_weights and not was_trained(model)):
            continue
        layers = [layer for layer in nested_layers(model) if id(layer) not in trained]
        norms = [layer for layer in layers if isinstance(layer, kl.BatchNormalization)]
        own = {id(v) for layer in norms for v in layer.non_trainable_variables}
        if any(id(v) in written for v in model.weights if id(v) not in own):
            continue
        found = [
            f"{layer.path or layer.name} ({type(layer).__name__})"
            for layer in layers
            if (isinstance(layer, DRAWING) and id(layer) in evidence.training.drew)
            or (layer in norms and any(evidence.training.changed(v) for v in layer.variables))
        ]
        if found:
            return [
                Finding(
                    code="PG461",
                    name="FixedInTraining",
                    severity="warning",
                    happened=f"`train_step` does not train {model.name!r}, and calls it in "
                    "training mode:",
                    items=tuple(found),
                    expected="a model that stays as it is answers as it does in use.",
                    fix="call it with `training=False`.",
                )
            ]
    return []
