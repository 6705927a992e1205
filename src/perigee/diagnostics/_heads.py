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

_RECURRENT = (kl.LSTM, kl.GRU, kl.SimpleRNN)
"""Layers that return nothing beyond what their activation can."""

_DROPPING = (
    kl.Dropout,
    kl.AlphaDropout,
    kl.SpatialDropout1D,
    kl.SpatialDropout2D,
    kl.SpatialDropout3D,
)
_ACTIVATING = (kl.Activation, kl.Softmax, kl.ReLU)
"""Layers that are nothing but an activation."""

_CLOSE = 1e-5
_DRAWS, _LARGE, _HUGE = 6, 10.0, 1000.0
"""How often weights are drawn, and how large, to see whether an output grows with them."""


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
        before: The activation of what a last layer that is nothing but an activation is given.
        dropout: The name of a Dropout that follows, or comes directly before the activation.
    """

    activation: str
    layer: str
    units: int
    before: str = ""
    dropout: str = ""

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
    head = replace(_followed(leaves, outputs[index], call.layer), units=units)
    if head.dropout and not _has_dropped(outputs[index], call.outputs[index]):
        return replace(head, dropout="")  # it is of another branch
    return head


def reach(evidence: Evidence, call: ModelCall, index: int) -> tuple[float, float]:
    """Return what an output can be with weights of any size; infinite where it grows with them.

    Args:
        evidence: Runs the model with other weights.
        call: A call of the model.
        index: The place of the output among the outputs of the call.
    """
    ends: list[tuple[float, float]] = []
    for size in (_LARGE, _HUGE):
        made = [evidence.outputs_drawn(call, size, turn)[index] for turn in range(_DRAWS)]
        values = np.concatenate([one.astype("float64").reshape(-1) for one in made])
        if np.isnan(values).any():
            return -np.inf, np.inf
        ends.append((float(values.min()), float(values.max())))
    (low, high), (lowest, highest) = ends
    margin = 0.05 * (high - low) if np.isfinite(high - low) else 0.0
    return (
        min(low, lowest) if lowest >= low - margin else -np.inf,
        max(high, highest) if highest <= high + margin else np.inf,
    )


def crossed(evidence: Evidence, call: ModelCall, index: int) -> str | None:
    """Return the layer whose units are not the classes of the last axis, but lie across it.

    Each value of the last axis is followed back to the unit that made it. A layer that has a unit
    for each class has made one value of each row by each of them, unless rows and classes were
    confused on the way, as by a reshape in place of a transposition.

    Args:
        evidence: Holds what the layers return.
        call: A call of the model.
        index: The place of the output among the outputs of the call.
    """
    if call.inputs is None:
        return None
    scores = evidence.outputs(call, call.inputs)[index]
    leaves = [one for one in evidence.inside(call) if _is_leaf(one)]
    for one in reversed(leaves):
        is_softmax = isinstance(one.layer, _ACTIVATING) and activation_of(one.layer) == "softmax"
        if is_softmax and _is_like(one.outputs[0], scores):
            scores = one.inputs[0]
            break
    if scores.ndim < 3 or not len(scores):
        return None
    units = scores.shape[-1]
    for one in reversed(leaves):
        made = one.outputs[0]
        if not isinstance(one.layer, _WEIGHTED) or made.size != scores.size or not len(made):
            continue
        if made.shape[-1] != units or len(made) != len(scores):
            continue
        values, others = made[0].reshape(-1), scores[0].reshape(-1)
        order, places = np.argsort(values), np.argsort(others)
        if len(np.unique(values)) < values.size or not np.array_equal(
            values[order], others[places]
        ):
            continue
        unit = np.empty(values.size, int)
        unit[places] = order % units
        distinct = [len(set(row)) for row in unit.reshape(-1, units)]
        return one.layer.name if np.mean(np.array(distinct) < units) > 0.5 else None
    return None


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
    name = _named(output, given)
    if name is None:
        return None
    before = head.activation if head.activation in RANGES else ""
    return replace(head, activation=name, before=before)


def _is_leaf(one: Inner) -> bool:
    if len(one.outputs) != 1 or not one.inputs:
        return False
    return isinstance(one.layer, (kl.TimeDistributed, *_RECURRENT)) or not any(
        layer is not one.layer and not isinstance(layer, kl.ReLU | kl.Softmax)
        for layer in nested_layers(one.layer)
    )


def _followed(leaves: Sequence[Inner], output: np.ndarray, model: Any) -> Head:
    """Follow an output back to the layer that has an activation, or that has none."""
    dropout = ""
    for place in reversed(range(len(leaves))):
        one = leaves[place]
        if not _is_like(one.outputs[0], output):
            continue
        layer = one.layer.layer if isinstance(one.layer, kl.TimeDistributed) else one.layer
        if _passes(layer):
            if isinstance(layer, _DROPPING) and layer.rate > 0:
                dropout = layer.name
            output = one.inputs[0]
            continue
        activation = _activation_of(layer)
        if activation == "unknown":
            activation = _named(one.inputs[0], one.outputs[0]) or activation
        head = Head(activation, layer.name, 0, dropout=dropout)
        if isinstance(layer, _ACTIVATING):
            return _after(_followed(leaves[:place], one.inputs[0], model), head)
        return head
    # No layer: perhaps a function in the `call` of the model.
    for place in reversed(range(len(leaves))):
        made = leaves[place].outputs[0]
        name = _named(made, output)
        if name is not None:
            head = Head(name, model.name, 0, dropout=dropout)
            return _after(_followed(leaves[: place + 1], made, model), head)
    return Head("unknown", model.name, 0, dropout=dropout)


def _after(first: Head, last: Head) -> Head:
    before = first.activation if first.activation in RANGES else ""
    return replace(last, before=before, dropout=last.dropout or first.dropout)


def _has_dropped(usual: np.ndarray, trained: np.ndarray) -> bool:
    """Return whether values are equal in training that differ in inference: those dropped."""
    if usual.shape != trained.shape or usual.dtype.kind != "f":
        return False

    def equal(values: np.ndarray) -> int:
        rows = values.reshape(-1, values.shape[-1]) if values.ndim > 1 else values[:, None]
        return values.size - len(np.unique(values)) + sum(len(r) - len(np.unique(r)) for r in rows)

    has_zeros = bool(((trained == 0) & (usual != 0)).any())
    return has_zeros or equal(trained) > equal(usual)


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
