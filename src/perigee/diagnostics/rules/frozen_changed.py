"""PG126, FrozenChanged: a frozen layer whose weights change nonetheless.

`trainable = False` excludes a layer from what optimizers update. It changes nonetheless if the step
assigns its weights, or passes them to an optimizer explicitly. A model that is frozen as a whole,
such as a moving average of another, is not reported.

How sure: a warning, shown by the weights before and after the step. It may be meant.
"""

from __future__ import annotations

from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Find weights of frozen layers, inside models that are trained, that the step changes."""
    if not evidence.training.after:
        return []
    changed: dict[int, str] = {}
    for call in evidence.trained:
        if not call.layer.trainable:
            continue
        for layer in nested_layers(call.layer):
            if layer.trainable or list(nested_layers(layer)) != [layer]:
                continue
            for variable in layer.weights:
                if evidence.training.changed(variable):
                    changed[id(variable)] = evidence.tracked.name_of(variable)
    if not changed:
        return []
    return [
        Finding(
            code="PG126",
            name="FrozenChanged",
            severity="warning",
            happened=f"`train_step` changes {len(changed)} weights of frozen layers:",
            items=tuple(changed.values()),
            expected="layers with `trainable = False` stay as they are.",
            fix="do not assign to them, or remove `trainable = False`.",
        )
    ]
