"""PG132, ActivationScale: a layer whose outputs are far smaller or larger than its inputs.

Initializers keep the scale of values from layer to layer. Initial weights far below or above that
scale make values vanish, or grow without bound.

How sure: a warning, shown by the deviations of the inputs and the outputs of the layer, on one
batch.
"""

from __future__ import annotations

import numpy as np
from keras import layers as kl

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_SMALLEST = 1e-4
_LAYERS = (kl.Dense, kl.Conv1D, kl.Conv2D, kl.Conv3D)


def check(evidence: Evidence) -> list[Finding]:
    """Compare the standard deviations of inputs and outputs of dense and convolutional layers."""
    shrinking: dict[str, str] = {}
    for inner in evidence.hidden:
        if not isinstance(inner.layer, _LAYERS) or not inner.inputs or not inner.outputs:
            continue
        given, made = (_deviation(arrays[0]) for arrays in (inner.inputs, inner.outputs))
        if given > 0 and 0 < made < _SMALLEST * given:
            shrinking[inner.layer.path] = f"{inner.layer.path}: {given:.2g} to {made:.2g}"
    if not shrinking:
        return []
    return [
        Finding(
            code="PG132",
            name="ActivationScale",
            severity="warning",
            happened="Layers make the standard deviation of their values far smaller:",
            items=tuple(shrinking.values()),
            expected=f"values of the same scale, within a factor of {1 / _SMALLEST:g}.",
            fix="use Keras's default initializers.",
        )
    ]


def _deviation(values: np.ndarray) -> float:
    values = values.astype("float64")
    return float(values.std()) if values.size and np.isfinite(values).all() else 0.0
