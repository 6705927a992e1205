"""The last activation of a model's output, told by its layers; values only follow the tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import layers as kl

from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence, Inner
from perigee.diagnostics._layers import activation_of
from perigee.diagnostics._recording import DRAWING, ModelCall

_PASSING = (
    *DRAWING,
    kl.Reshape,
    kl.Flatten,
    kl.Identity,
    kl.ActivityRegularization,
    kl.Permute,
)
"""Layers that leave each value as it is in inference mode."""

_UNBOUNDED = (
    kl.LeakyReLU,
    kl.PReLU,
    kl.BatchNormalization,
    kl.LayerNormalization,
    kl.Dot,
    kl.Embedding,
)
_WEIGHTED = (
    kl.Dense,
    kl.EinsumDense,
    kl.Conv1D,
    kl.Conv2D,
    kl.Conv3D,
    kl.Conv1DTranspose,
    kl.Conv2DTranspose,
    kl.Conv3DTranspose,
    kl.SeparableConv1D,
    kl.SeparableConv2D,
    kl.DepthwiseConv2D,
)
"""Layers whose values are unbounded where they have no activation."""

_CLOSE = 1e-5


def _softmax(z: np.ndarray) -> np.ndarray:
    powers = np.exp(z - z.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


FUNCTIONS: Mapping[str, Callable[[np.ndarray], np.ndarray]] = {
    "softmax": _softmax,
    "sigmoid": lambda z: 1.0 / (1.0 + np.exp(-np.clip(z, -500, 500))),
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0.0),
    "softplus": lambda z: np.logaddexp(z, 0.0),
    "exponential": lambda z: np.exp(np.clip(z, -500, 500)),
}
"""Activations that are recognized by what they make of a tensor, where no layer has them."""

RANGES: Mapping[str, tuple[float, float]] = {
    "sigmoid": (0.0, 1.0),
    "hard_sigmoid": (0.0, 1.0),
    "softmax": (0.0, 1.0),
    "relu": (0.0, np.inf),
    "tanh": (-1.0, 1.0),
    "softplus": (0.0, np.inf),
    "exponential": (0.0, np.inf),
}
"""What each activation can return."""


@dataclass(frozen=True, slots=True)
class Head:
    """What makes an output of a model.

    Attributes:
        activation: The name of its last activation, `"linear"` for none, `"unknown"` if it cannot
            be told.
        layer: The name of the layer that has it.
        units: Values along the last axis, over which a softmax is taken; 0 for a scalar.
    """

    activation: str
    layer: str
    units: int

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest value that it can return."""
        return RANGES.get(self.activation, (-np.inf, np.inf))

    def __str__(self) -> str:
        kind = {"linear": "units without activation", "unknown": "units"}.get(
            self.activation, f"{self.activation} units"
        )
        if self.units == 1:
            return f"one {kind.replace('units', 'unit', 1)}"
        return f"{self.units} {kind}"


def head_of(evidence: Evidence, call: ModelCall, index: int) -> Head:
    """Return what makes an output of a model.

    Args:
        evidence: Holds what the layers return.
        call: A call of the model.
        index: The place of the output among the outputs of the call.
    """
    shape = call.outputs[index].shape
    units = shape[-1] if len(shape) > 1 else 1
    unknown = Head("unknown", call.layer.name, units)
    if call.inputs is None:
        return unknown
    outputs = evidence.outputs(call, call.inputs)
    if index >= len(outputs) or outputs[index].dtype.kind not in "fV":
        return unknown
    leaves = [one for one in evidence.inside(call) if _is_leaf(one)]
    return replace(_followed(leaves, outputs[index], call.layer), units=units)


def applied(head: Head, output: np.ndarray, given: np.ndarray) -> Head | None:
    """Return the head of what a loss was given, if it follows from an output by an activation.

    Args:
        head: That of the output.
        output: The output.
        given: What the loss was given.
    """
    if output.size != given.size or not np.isfinite(given).all():
        return None
    if _is_like(output, given):
        return head
    if head.activation not in ("linear", "unknown"):
        return None
    name = _named(output, given)
    return None if name is None else replace(head, activation=name)


def _is_leaf(one: Inner) -> bool:
    if len(one.outputs) != 1 or not one.inputs:
        return False
    return isinstance(one.layer, kl.TimeDistributed) or not any(
        layer is not one.layer and not isinstance(layer, kl.ReLU | kl.Softmax)
        for layer in nested_layers(one.layer)
    )


def _followed(leaves: Sequence[Inner], output: np.ndarray, model: Any) -> Head:
    """Follow an output back to the layer that has an activation, or that has none."""
    for place in reversed(range(len(leaves))):
        one = leaves[place]
        if not _is_like(one.outputs[0], output):
            continue
        layer = one.layer.layer if isinstance(one.layer, kl.TimeDistributed) else one.layer
        if _passes(layer):
            output = one.inputs[0]
            continue
        activation = _activation_of(layer)
        if activation == "unknown":
            activation = _named(one.inputs[0], one.outputs[0]) or activation
        return Head(activation, layer.name, 0)
    # No layer: perhaps a function in the `call` of the model.
    for one in reversed(leaves):
        name = _named(one.outputs[0], output)
        if name is not None:
            return Head(name, model.name, 0)
    return Head("unknown", model.name, 0)


def _passes(layer: Any) -> bool:
    return isinstance(layer, _PASSING) or (
        isinstance(layer, kl.Activation) and activation_of(layer) == "linear"
    )


def _activation_of(layer: Any) -> str:
    if isinstance(layer, kl.Softmax):
        return "softmax" if layer.axis in (-1,) else "unknown"
    if isinstance(layer, kl.ReLU):
        return "unknown" if layer.max_value is not None or layer.negative_slope else "relu"
    if isinstance(layer, _UNBOUNDED):
        return "linear"
    name = activation_of(layer)
    if name is not None and name in RANGES:
        return name
    if isinstance(layer, _WEIGHTED) and name == "linear":
        return "linear"
    return "unknown"


def _is_like(a: np.ndarray, b: np.ndarray) -> bool:
    return a.size == b.size and np.array_equal(a.reshape(-1), b.reshape(-1), equal_nan=True)


def _named(before: np.ndarray, after: np.ndarray) -> str | None:
    """Return the activation that makes one array of the other, of which both show something."""
    if before.size != after.size or before.ndim == 0 or before.dtype.kind != "f":
        return None
    z, made = before.astype("float64"), after.astype("float64").reshape(before.shape)
    if not np.isfinite(z).all() or (np.ptp(z) == 0 and z.shape[-1] > 1):
        return None
    tolerance = _CLOSE if after.dtype.itemsize >= 4 else 1e-2
    for name, function in FUNCTIONS.items():
        if np.allclose(function(z), made, tolerance, tolerance):
            return name
    return None
