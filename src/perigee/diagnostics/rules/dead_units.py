"""PG122, DeadUnits: a layer whose units are 0 for every example.

A ReLU passes no gradient to a unit that is 0, so the layer, and all before it, never learn. Causes
are biases far below 0, inputs far from unit scale and too large a learning rate.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import activation_of

_FEWEST_ROWS = 8


def check(evidence: Evidence) -> list[Finding]:
    """Run each trained model in inference mode, and examine the outputs of ReLUs."""
    dead: dict[str, str] = {}
    seen: set[int] = set()
    for call in evidence.trained:
        if call.inputs is None or id(call.layer) in seen:
            continue
        seen.add(id(call.layer))
        for inner in evidence.inside(call):
            for output in inner.outputs:
                if activation_of(inner.layer) != "relu" or len(output) < _FEWEST_ROWS:
                    continue
                if not np.any(output):
                    units = output.shape[-1]
                    dead[inner.layer.path] = f"{inner.layer.path}: {units} of {units} units"
    if not dead:
        return []
    return [
        Finding(
            code="PG122",
            name="DeadUnits",
            severity="error",
            happened="All units of these layers are 0 for every example:",
            items=tuple(dead.values()),
            expected="units that are above 0 for some examples.",
            fix="initialize biases with 0, scale the inputs, or lower the learning rate.",
        )
    ]
