"""PG226, UnreachableTargets: targets outside the range of the last activation.

A sigmoid returns 0..1, tanh -1..1, a ReLU nothing below 0, and the values of a softmax sum to 1.
For regression use a last layer without activation, or scale the targets.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import activation_of, last_of

_RANGES = {
    "sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "relu": (0.0, np.inf),
    "tanh": (-1.0, 1.0),
    "softplus": (0.0, np.inf),
    "exponential": (0.0, np.inf),
}
_MARGIN, _SHARE = 0.05, 0.02


def check(evidence: Evidence) -> list[Finding]:
    """Compare floating targets of an output's shape with the range of the last activation."""
    leaves = evidence.leaves
    for call in evidence.trained:
        if call.inputs is None or len(call.outputs) != 1:
            continue
        output = call.outputs[0]
        targets = [
            leaf for leaf in leaves[1:] if leaf.shape == output.shape and leaf.dtype.kind == "f"
        ]
        if len(targets) != 1 or not np.isfinite(targets[0]).all() or not targets[0].size:
            continue
        layer = last_of(evidence.inside(call), evidence.outputs(call, call.inputs)[0])
        activation = activation_of(layer)
        if layer is None or activation not in _RANGES:
            continue
        low, high = _RANGES[activation]
        outside = (targets[0] < low - _MARGIN) | (targets[0] > high + _MARGIN)
        if outside.mean() < _SHARE:
            continue
        return [
            Finding(
                code="PG226",
                name="UnreachableTargets",
                severity="warning",
                happened=f"{outside.mean():.0%} of the targets ({targets[0].min():.3g}.."
                f"{targets[0].max():.3g}) are outside what {layer.name!r} can return after "
                f"{activation} ({low:g}..{high:g}).",
                expected="targets within the range of the last activation.",
                fix="remove the last activation, or scale the targets into its range.",
            )
        ]
    return []
