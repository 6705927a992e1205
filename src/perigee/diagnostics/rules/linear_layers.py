"""PG123, LinearLayers: two dense layers in a row with nothing between them.

Without an activation in between they are one linear map, however wide. A narrow layer between wider
ones is a low-rank map, and is not reported.

How sure: a warning, read from the layers: nothing stands between the two. A product of two matrices
may be meant.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import keras
from keras import layers as kl

from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import activation_of

_NOTHING = (kl.Dropout, kl.InputLayer, kl.Identity)


def check(evidence: Evidence) -> list[Finding]:
    """Examine chains of trained layers."""
    found: dict[str, None] = {}
    for call in evidence.trained:
        for model in nested_layers(call.layer):
            if isinstance(model, keras.Sequential):
                found |= dict.fromkeys(_pairs(model))
    if not found:
        return []
    return [
        Finding(
            code="PG123",
            name="LinearLayers",
            severity="warning",
            happened="Dense layers follow each other without an activation:",
            items=tuple(found),
            expected="an activation between two dense layers.",
            fix='give the first one an activation, such as "relu", or remove it.',
        )
    ]


def _pairs(model: Any) -> list[str]:
    layers = [layer for layer in model.layers if not isinstance(layer, _NOTHING)]
    pairs: list[str] = []
    for first, second in pairwise(layers):
        if type(first) is not kl.Dense or type(second) is not kl.Dense or not first.built:
            continue
        width = min(int(first.kernel.shape[0]), second.units)
        if activation_of(first) == "linear" and first.units >= width:
            pairs.append(f"{first.path} and {second.path}")
    return pairs
