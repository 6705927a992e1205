"""What the first layers with weights are given: inputs, after all that was done to scale them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers as kl

from perigee._step.state import nested_layers
from perigee.diagnostics._chains import key_of
from perigee.diagnostics._evidence import Evidence, Inner
from perigee.diagnostics._recording import ModelCall

NORMALIZING = (
    kl.BatchNormalization,
    kl.LayerNormalization,
    kl.GroupNormalization,
    kl.UnitNormalization,
    *((kl.RMSNormalization,) if hasattr(kl, "RMSNormalization") else ()),
)
"""Layers after which the scale of what they are given does not matter."""

_OF_KERAS = (
    kl.Dense,
    kl.EinsumDense,
    kl.Conv1D,
    kl.Conv2D,
    kl.Conv3D,
    kl.Conv1DTranspose,
    kl.Conv2DTranspose,
    kl.Conv3DTranspose,
    kl.DepthwiseConv1D,
    kl.DepthwiseConv2D,
    kl.SeparableConv1D,
    kl.SeparableConv2D,
    kl.RNN,
    kl.TimeDistributed,
)
"""Layers that multiply what they are given by their weights."""


def first_layers(evidence: Evidence, call: ModelCall) -> list[Inner]:
    """Return the layers that multiply inputs by trained weights, before any others did.

    An input is followed by its values: through `Rescaling` and the like as what these return. So it
    is known what reaches the weights, whatever a model does to its inputs. Nothing is returned for
    a model that normalizes afterwards.

    Args:
        evidence: Holds what the layers return.
        call: A call of a model or of a single layer.
    """
    if call.inputs is None:
        return []
    given = keras.tree.flatten(call.inputs)
    inside = [one for one in evidence.inside(call) if _is_unit(one.layer)]
    if not inside:
        inside = [Inner(call.layer, given, call.outputs)] if _is_unit(call.layer) else []
    if any(isinstance(one.layer, NORMALIZING) or _learns(evidence, one.layer) for one in inside):
        return []
    plain = {key_of(leaf) for leaf in given}
    found: list[Inner] = []
    is_past = False
    for one in inside:
        is_given = bool(one.inputs) and all(key_of(leaf) in plain for leaf in one.inputs)
        if one.layer.weights and not isinstance(one.layer, kl.Normalization):
            if (is_given or not is_past) and _multiplies(evidence, one):
                found.append(one)
            is_past = True
        elif is_given or not is_past:
            plain |= {key_of(leaf) for leaf in one.outputs}
    return found


def _is_unit(layer: Any) -> bool:
    """Return whether a layer is looked at as a whole, not as the layers inside it."""
    return isinstance(layer, _OF_KERAS) or list(nested_layers(layer)) == [layer]


def _multiplies(evidence: Evidence, one: Inner) -> bool:
    layer = one.layer
    if not any(id(v) in evidence.updated and len(v.shape) > 1 for v in layer.weights):
        return False
    # A layer of the user's own may look integers up.
    return isinstance(layer, _OF_KERAS) or (
        not isinstance(layer, kl.Embedding) and not _are_whole(one.inputs)
    )


def _learns(evidence: Evidence, layer: Any) -> bool:
    """Return whether a layer keeps numbers of its own, perhaps the mean of what it is given."""
    return any(
        evidence.training.changed(variable)
        and "float" in keras.backend.standardize_dtype(variable.dtype)
        for variable in layer.non_trainable_variables
    )


def _are_whole(arrays: Sequence[np.ndarray]) -> bool:
    return all(
        array.dtype.kind in "iub" or (array.dtype.kind == "f" and bool(np.all(array % 1 == 0)))
        for array in arrays
    )
