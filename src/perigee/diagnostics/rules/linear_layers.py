"""PG123, LinearLayers: layers with weights in a row with nothing between them that bends values.

Without an activation in between they are one linear map, however wide; pooling, Dropout, Flatten
and `BatchNormalization` between them do not change that. A narrow layer between wider ones is a
low-rank map, and is not reported; nor are convolutions along one axis and then along another.

Where the layers do not tell, the model is asked: if all that comes before its last layer is linear,
halfway between two rows of inputs it is halfway between what it is for each.

How sure: a warning, read from the layers or shown by their values. A product of two matrices may be
meant.
"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import keras
import numpy as np
from keras import layers as kl

from perigee._step.state import nested_layers
from perigee.diagnostics._chains import CONVOLUTIONS, chained
from perigee.diagnostics._evidence import Evidence, Inner
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import activation_of
from perigee.diagnostics._recording import ModelCall

_NOTHING = (kl.Dropout, kl.InputLayer, kl.Identity)
_KERNELS = (kl.Dense, kl.EinsumDense, kl.Conv1D, kl.Conv2D, kl.Conv3D)
_SCALES = 1.0, 1e4
"""By which factors inputs are larger: near 0 activations are nearly linear, and far from it what is
bounded is small beside what is not."""
_ROUNDED = 1e-3
"""What is due to rounding, beside the largest difference of values."""


def check(evidence: Evidence) -> list[Finding]:
    """Examine chains of trained layers, those of `Sequential` models without a look at values."""
    found: dict[str, None] = {}
    for call in evidence.trained:
        for model in nested_layers(call.layer):
            if isinstance(model, keras.Sequential):
                found |= dict.fromkeys(_pairs(model))
        for first, second in chained(evidence, call):
            if type(first.layer) is not type(second.layer):
                continue  # as the last block of a MobileNet, or a filter before a classifier
            if _are_trained(evidence, first.layer, second.layer):
                found |= dict.fromkeys(_pair(first.layer, second.layer))
    happened = "Layers follow each other without an activation:"
    if not found:
        found |= dict.fromkeys(path for call in evidence.trained for path in _all(evidence, call))
        happened = "Up to its last layer the model is linear: these layers do no more than one:"
    if not found:
        return []
    return [
        Finding(
            code="PG123",
            name="LinearLayers",
            severity="warning",
            happened=happened,
            items=tuple(found),
            expected="an activation between two layers with weights.",
            fix='give the first one an activation, such as "relu", or remove it.',
        )
    ]


def _are_trained(evidence: Evidence, *layers: Any) -> bool:
    return all(id(layer.kernel) in evidence.updated for layer in layers)


def _all(evidence: Evidence, call: ModelCall) -> list[str]:
    """Return the layers of a model if everything up to the last of them is linear."""
    if call.inputs is None:
        return []
    leaves = keras.tree.flatten(call.inputs)
    is_of_rows = all(leaf.ndim > 1 and leaf.dtype.kind == "f" and len(leaf) > 1 for leaf in leaves)
    inner = [
        one
        for one in evidence.inside(call)
        if isinstance(one.layer, _KERNELS) and one.inputs and one.outputs
    ]
    is_chain = len(inner) > 1 and len({id(one.layer) for one in inner}) == len(inner)
    if not leaves or not is_of_rows or not is_chain:
        return []
    *before, last = inner
    if not any(_is_wide(one, last) for one in before):
        return []
    if not all(_is_linear(evidence, call, last, scale) for scale in _SCALES):
        return []
    return [one.layer.path for one in (*before, last)]


def _is_linear(evidence: Evidence, call: ModelCall, last: Inner, scale: float) -> bool:
    """Return whether what comes before the last layer is linear in inputs of this scale."""
    ends = keras.tree.map_structure(lambda leaf: _scaled(leaf, scale), call.inputs)
    middle = keras.tree.map_structure(
        lambda leaf: ((leaf + np.roll(leaf, 1, axis=0)) / 2).astype(leaf.dtype), ends
    )
    given = [
        one.inputs[0].astype("float64")
        for inputs in (ends, middle)
        for one in evidence.inside_on(call, inputs)
        if one.layer is last.layer
    ]
    if len(given) != 2:
        return False
    own, found = given
    halfway = (own + np.roll(own, 1, axis=0)) / 2
    size = float(np.abs(own - own.mean(axis=0)).max())
    if not np.isfinite(size) or size <= _ROUNDED * float(np.abs(own).max()):
        return False
    return float(np.abs(found - halfway).max()) <= _ROUNDED * size


def _scaled(leaf: np.ndarray, scale: float) -> np.ndarray:
    """Return rows on both sides of 0: of positive ones, a ReLU may keep all."""
    signs = np.where(np.arange(len(leaf)) % 2, -scale, scale)
    return (leaf * signs.reshape(-1, *[1] * (leaf.ndim - 1))).astype(leaf.dtype)


def _is_wide(inner: Inner, last: Inner) -> bool:
    """Return whether a layer is no narrower than both what it is given and what comes last."""
    given, made, end = (
        array.size / max(1, len(array))
        for array in (inner.inputs[0], inner.outputs[0], last.outputs[0])
    )
    return made >= min(given, end)


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
