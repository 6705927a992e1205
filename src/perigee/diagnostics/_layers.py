"""Facts about layers for rules: their modes and their last activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers as kl

from perigee._step.state import nested_layers, snapshot
from perigee.diagnostics._evidence import Evidence, Inner
from perigee.diagnostics._recording import DRAWING


def of_two_modes(model: Any) -> list[keras.Layer]:
    """Return the layers in a model that act differently in training: Dropout, BatchNorm."""
    return [
        layer
        for layer in nested_layers(model)
        if (isinstance(layer, DRAWING) and _strength(layer) > 0)
        or (isinstance(layer, kl.BatchNormalization) and layer.trainable)
    ]


def statistics_of(evidence: Evidence) -> list[Any]:
    """Return what layers that are trained remember of the batches, and a training step changes.

    Not that of BatchNorm, which it does not use in training.
    """
    found = {
        id(v): v
        for layer in evidence.trained_layers
        if not isinstance(layer, kl.BatchNormalization) and list(nested_layers(layer)) == [layer]
        for v in layer.non_trainable_weights
        if keras.backend.is_float_dtype(v.dtype) and evidence.training.changed(v)
    }
    return list(found.values())


def _strength(layer: Any) -> float:
    return float(getattr(layer, "rate", None) or getattr(layer, "stddev", None) or 0.0)


def activation_of(layer: Any) -> str | None:
    """Return the name of a layer's last activation, such as `"relu"`."""
    if isinstance(layer, kl.ReLU | kl.Softmax):
        return type(layer).__name__.lower()
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", None)


def last_of(inner: Sequence[Inner], output: np.ndarray) -> keras.Layer | None:
    """Return the innermost layer that made an output of its model."""
    for one in reversed(inner):
        if list(nested_layers(one.layer)) != [one.layer] or len(one.outputs) != 1:
            continue
        if np.array_equal(one.outputs[0], output, equal_nan=True):
            return one.layer
    return None


def was_trained(layer: keras.Layer) -> bool:
    """Return whether most biases and scales in a layer are not as initializers make them, 0 or 1.

    False without any.
    """
    vectors = snapshot([v for v in layer.weights if len(v.shape) == 1])
    return sum(bool(np.any((v != 0) & (v != 1))) for v in vectors) > len(vectors) / 2
