"""PG126, FrozenChanged: a layer that is frozen and changes all the same.

`trainable = False` keeps a layer out of what optimizers update. What the step assigns by itself,
or gives to an optimizer by hand, changes it none the less. A model that is frozen as a whole, as
one that follows another by a moving average, is left alone.
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
            fix="do not assign to them, or leave `trainable = False` out.",
        )
    ]
