"""Which layers with weights follow each other with nothing but linear layers between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from keras import layers as kl

from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence, Inner
from perigee.diagnostics._layers import activation_of
from perigee.diagnostics._recording import DRAWING, ModelCall

CONVOLUTIONS = (kl.Conv1D, kl.Conv2D, kl.Conv3D)

_BETWEEN = (
    *DRAWING,
    kl.Reshape,
    kl.Flatten,
    kl.Permute,
    kl.Identity,
    kl.ActivityRegularization,
    kl.BatchNormalization,
    kl.Rescaling,
    kl.ZeroPadding1D,
    kl.ZeroPadding2D,
    kl.ZeroPadding3D,
    kl.AveragePooling1D,
    kl.AveragePooling2D,
    kl.AveragePooling3D,
    kl.GlobalAveragePooling1D,
    kl.GlobalAveragePooling2D,
    kl.GlobalAveragePooling3D,
    # The maximum of values without an activation bends hardly anything.
    kl.MaxPooling1D,
    kl.MaxPooling2D,
    kl.MaxPooling3D,
)


def chained(evidence: Evidence, call: ModelCall) -> Iterator[tuple[Inner, Inner]]:
    """Yield each dense or convolutional layer with the next one that alone uses what it returns.

    What stands between them is linear. Tensors are followed by their values, so it does not matter
    how a model is written.

    Args:
        evidence: Holds what the layers return.
        call: A call of a model.
    """
    if call.inputs is None:
        return
    units = [
        one
        for one in evidence.inside(call)
        if len(one.inputs) == 1 and len(one.outputs) == 1 and _is_leaf(one.layer)
    ]
    used = Counter(key_of(leaf) for one in evidence.inside(call) for leaf in _used(one))
    used.update(key_of(leaf) for leaf in call.outputs)
    made: dict[tuple[int, bytes], Inner] = {}
    for one in units:
        key = key_of(one.inputs[0])
        first = made.get(key) if used[key] == 1 else None
        if _is_weighted(one.layer):
            if first is not None:
                yield first, one
            made[key_of(one.outputs[0])] = one
        elif first is not None and _passes(one.layer):
            made[key_of(one.outputs[0])] = first


def _used(one: Inner) -> list[np.ndarray]:
    """Return the inputs that a layer uses; a model's are its layers', and Dropout hands them on."""
    made = {key_of(leaf) for leaf in one.outputs}
    return [leaf for leaf in one.inputs if _is_leaf(one.layer) and key_of(leaf) not in made]


def _is_leaf(layer: Any) -> bool:
    return list(nested_layers(layer)) == [layer]


def _is_weighted(layer: Any) -> bool:
    return type(layer) is kl.Dense or type(layer) in CONVOLUTIONS


def _passes(layer: Any) -> bool:
    if isinstance(layer, kl.Activation):
        return activation_of(layer) == "linear"
    if isinstance(layer, kl.LeakyReLU | kl.ReLU):
        return layer.negative_slope == 1 and getattr(layer, "max_value", None) is None
    return isinstance(layer, _BETWEEN)


def key_of(array: np.ndarray) -> tuple[int, bytes]:
    """Return what arrays of equal values share, whatever their shapes and dtypes."""
    if array.dtype.kind in "OSU":
        return array.size, repr(array.tolist()).encode()
    return array.size, array.astype("float32").tobytes()
