"""PG122, DeadUnits: a layer whose units are 0 for every example.

A ReLU passes no gradient to a unit that is 0, so the layer, and all before it, never learn. Causes
are biases far below 0, inputs far from unit scale and too large a learning rate. Where only these
initial weights show it, as they may in a layer of a few units, it is a hint.

How sure: an error, shown by the outputs of the layer, which are 0 for every example with these
weights and with others; a hint where it is so with these weights only.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from perigee.diagnostics._evidence import Evidence, Inner
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import activation_of

_FEWEST_ROWS, _DRAWS = 8, 6


def check(evidence: Evidence) -> list[Finding]:
    """Run each trained model in inference mode, and examine the outputs of ReLUs.

    Few units may all be 0 by chance: other draws of the weights show whether it is the program.
    """
    dead: dict[str, str] = {}
    is_by_chance = True
    seen: set[int] = set()
    for call in evidence.trained:
        if call.inputs is None or id(call.layer) in seen:
            continue
        seen.add(id(call.layer))
        found = _dead(evidence.inside(call))
        if found:
            others = (_dead(evidence.inside_redrawn(call, turn)) for turn in range(_DRAWS))
            is_by_chance &= not all(set(found) & set(other) for other in others)
        dead |= found
    if not dead:
        return []
    return [
        Finding(
            code="PG122",
            name="DeadUnits",
            severity="hint" if is_by_chance else "error",
            happened="All units of these layers are 0 for every example"
            + (", for these weights:" if is_by_chance else ":"),
            items=tuple(dead.values()),
            expected="units that are above 0 for some examples.",
            fix="initialize biases with 0, scale the inputs, or lower the learning rate.",
        )
    ]


def _dead(inside: Sequence[Inner]) -> dict[str, str]:
    """Return the layers whose units are all 0, by path."""
    dead: dict[str, str] = {}
    for inner in inside:
        for output in inner.outputs:
            if activation_of(inner.layer) != "relu" or len(output) < _FEWEST_ROWS:
                continue
            if not np.any(output):
                units = output.shape[-1]
                dead[inner.layer.path] = f"{inner.layer.path}: {units} of {units} units"
    return dead
