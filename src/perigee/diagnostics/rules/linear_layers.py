"""PG123, LinearLayers: two dense or convolutional layers in a row with nothing between them.

Without an activation in between they are one linear map, however wide; pooling, Dropout, Flatten
and `BatchNormalization` between them do not change that. A narrow layer between wider ones is a
low-rank map, and is not reported; nor are convolutions along one axis and then along another.

How sure: a warning, read from the layers. A product of two matrices may be meant.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import keras
from keras import layers as kl

from perigee._step.state import nested_layers
from perigee.diagnostics._chains import CONVOLUTIONS, chained
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import activation_of

_NOTHING = (kl.Dropout, kl.InputLayer, kl.Identity)
_MAXIMA = (kl.MaxPooling1D, kl.MaxPooling2D, kl.MaxPooling3D)


def check(evidence: Evidence) -> list[Finding]:
    """Examine chains of trained layers, those of `Sequential` models without a look at values."""
    found: dict[str, None] = {}
    for call in evidence.trained:
        for model in nested_layers(call.layer):
            if isinstance(model, keras.Sequential):
                found |= dict.fromkeys(_pairs(model))
        for first, second, between in chained(evidence, call):
            if type(first.layer) is not type(second.layer) and any(map(_averages, between)):
                continue  # as the last block of a MobileNet
            if _are_trained(evidence, first.layer, second.layer):
                found |= dict.fromkeys(_pair(first.layer, second.layer))
    if not found:
        return []
    return [
        Finding(
            code="PG123",
            name="LinearLayers",
            severity="warning",
            happened="Layers follow each other without an activation:",
            items=tuple(found),
            expected="an activation between two layers with weights.",
            fix='give the first one an activation, such as "relu", or remove it.',
        )
    ]


def _averages(layer: Any) -> bool:
    return not isinstance(layer, (kl.Flatten, kl.Dropout, *_MAXIMA))


def _are_trained(evidence: Evidence, *layers: Any) -> bool:
    return all(id(layer.kernel) in evidence.updated for layer in layers)


def _pairs(model: Any) -> list[str]:
    layers = [layer for layer in model.layers if not isinstance(layer, _NOTHING)]
    return [
        name
        for first, second in pairwise(layers)
        if type(first) is kl.Dense and type(second) is kl.Dense and first.built and second.built
        for name in _pair(first, second)
    ]


def _pair(first: Any, second: Any) -> list[str]:
    """Return the name of two layers that could be one; none where the first one narrows."""
    if activation_of(first) != "linear":
        return []
    if type(first) is kl.Dense and type(second) is not kl.Dense:
        return []  # a generator makes its first picture so
    taken, units = math.prod(first.kernel.shape[:-1]), int(first.kernel.shape[-1])
    if units < min(taken, int(second.kernel.shape[-1])) or _are_of_two_axes(first, second):
        return []
    return [f"{first.path} and {second.path}"]


def _are_of_two_axes(first: Any, second: Any) -> bool:
    """Return whether two convolutions make up a larger one, as 1x3 and 3x1 make 3x3."""
    if type(first) not in CONVOLUTIONS or type(second) not in CONVOLUTIONS:
        return False
    return first.kernel_size != second.kernel_size and min(*first.kernel_size, 2) == 1
