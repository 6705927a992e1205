"""PG321, UnscaledInputs: inputs of a model that are far from unit scale.

Weights are initialized for inputs with a mean near 0 and a standard deviation near 1. Scale the
data, or begin the model with `Rescaling`, `Normalization` or `BatchNormalization`.

How sure: a warning, shown by the values of the inputs, where no layer scales them.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers as kl

from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_LARGEST, _WIDEST = 30.0, 10.0
_SCALING = (
    kl.Rescaling,
    kl.Normalization,
    kl.BatchNormalization,
    kl.LayerNormalization,
    kl.GroupNormalization,
    kl.UnitNormalization,
    kl.Embedding,
    kl.Hashing,
    kl.IntegerLookup,
    kl.Discretization,
)
"""Layers after which the scale of the inputs does not matter, usually at the front."""


def check(evidence: Evidence) -> list[Finding]:
    """Examine floating inputs of trained models that do not scale them."""
    found: dict[str, Finding] = {}
    for call in evidence.trained:
        if call.inputs is None:
            continue
        if any(isinstance(layer, _SCALING) for layer in nested_layers(call.layer)):
            continue
        for leaf in keras.tree.flatten(call.inputs):
            if leaf.dtype.kind != "f" or not leaf.size or not np.isfinite(leaf).all():
                continue
            largest, spread = float(np.abs(leaf).max()), float(np.std(leaf, dtype="float64"))
            if largest > _LARGEST and spread > _WIDEST:
                found[call.layer.name] = Finding(
                    code="PG321",
                    name="UnscaledInputs",
                    severity="warning",
                    happened=f"The inputs of {call.layer.name!r} range over {leaf.min():.4g}.."
                    f"{leaf.max():.4g}, with a standard deviation of {spread:.3g}.",
                    expected="values near unit scale.",
                    fix="scale them, or begin the model with `keras.layers.Normalization` or "
                    "`Rescaling`.",
                )
    return list(found.values())
