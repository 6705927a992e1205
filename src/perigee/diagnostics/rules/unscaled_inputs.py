"""PG321, UnscaledInputs: inputs of a model that are far from unit scale.

Weights are initialized for inputs with a mean near 0 and a standard deviation near 1. Scale the
data, or begin the model with `Rescaling`, `Normalization` or `BatchNormalization`. A model that
scales them itself, before the first layer with weights, is left alone.
"""

from __future__ import annotations

import keras
import numpy as np
from keras import layers as kl

from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence, Inner
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import ModelCall

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
            if _is_far(leaf) and not _scales(evidence, call):
                spread = float(np.std(leaf, dtype="float64"))
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


def _is_far(values: np.ndarray) -> bool:
    if values.dtype.kind != "f" or not values.size or not np.isfinite(values).all():
        return False
    return bool(np.abs(values).max() > _LARGEST and np.std(values, dtype="float64") > _WIDEST)


def _scales(evidence: Evidence, call: ModelCall) -> bool:
    """Return whether no layer with weights gets values that are far from unit scale."""
    inside = [one for one in evidence.inside(call) if one.layer.variables]
    outer = {id(one.layer) for one in inside for other in inside if _contains(one, other)}
    innermost = [one for one in inside if id(one.layer) not in outer]
    known = {id(v) for one in innermost for v in one.layer.variables}
    if any(id(v) not in known for v in call.layer.trainable_variables):
        return False  # no layer shows what some of them get
    return not any(_is_far(values) for one in innermost for values in one.inputs)


def _contains(one: Inner, other: Inner) -> bool:
    return one.layer is not other.layer and any(
        layer is other.layer for layer in nested_layers(one.layer)
    )
