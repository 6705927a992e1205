"""PG142, FrozenUntrained: layers that are frozen and have never been trained.

`trainable = False` keeps what a layer has learned. These layers hold exactly what their
initializers drew: nothing was loaded, and what comes after them learns from random features. Load
or train the weights before they are frozen, or remove `trainable = False`. A single layer is left
alone, except an `Embedding`, since random features are a method; so are recurrent layers, the
reservoir of an echo state network, layers with an initializer of your own, and models that are
compiled by themselves, as the discriminator of a GAN.

How sure: a warning, shown by the weights, which are what the initializers draw. Random features may
be meant.
"""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np
from keras import layers as kl

from perigee._step.state import nested_layers, snapshot
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_INITIALIZED = {"kernel": "kernel_initializer", "embeddings": "embeddings_initializer"}


def check(evidence: Evidence) -> list[Finding]:
    """Compare the weights of frozen layers with what their initializers draw."""
    apart = {
        id(inner)
        for layer in evidence.trained_layers
        if isinstance(layer, keras.Model) and layer.compiled and not evidence.is_updated(layer)
        for inner in nested_layers(layer)
    }
    apart |= {
        id(inner)
        for layer in evidence.trained_layers
        if isinstance(layer, kl.RNN)
        for inner in nested_layers(layer)
    }
    frozen = [
        layer
        for layer in evidence.trained_layers
        if id(layer) not in apart
        and id(layer) in evidence.training.called
        and list(nested_layers(layer)) == [layer]
        and layer.weights
        and not layer.trainable_weights
        and not any(evidence.training.changed(v) for v in layer.weights)
        and _is_as_drawn(layer)
    ]
    if len(frozen) < 2 and not any(isinstance(layer, kl.Embedding) for layer in frozen):
        return []
    return [
        Finding(
            code="PG142",
            name="FrozenUntrained",
            severity="warning",
            happened=f"{len(frozen)} layers are frozen, and their weights are still those that "
            "their initializers drew:",
            items=tuple(f"{layer.path or layer.name} ({type(layer).__name__})" for layer in frozen),
            expected="frozen layers keep what they have learned.",
            fix="train them or load their weights first, or remove `trainable = False`.",
        )
    ]


def _is_as_drawn(layer: Any) -> bool:
    """Return whether a layer holds what the initializer that it has by default draws again.

    Keras's initializers draw the same each time that one of them is called.
    """
    for name, of in _INITIALIZED.items():
        variable, initializer = getattr(layer, name, None), getattr(layer, of, None)
        usual = inspect.signature(type(layer).__init__).parameters.get(of)
        if (
            variable is None
            or initializer is None
            or usual is None
            or not hasattr(initializer, "seed")
        ):
            continue
        if type(initializer) is not type(keras.initializers.get(usual.default)):
            continue
        drawn = keras.ops.convert_to_numpy(initializer(variable.shape, dtype=variable.dtype))
        if np.array_equal(drawn, snapshot([variable])[0]):
            return True
    return False
