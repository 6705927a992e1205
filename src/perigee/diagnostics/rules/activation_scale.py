"""PG132, ActivationScale: layers that keep nothing of their inputs, or one number only.

Initializers keep the scale of values from layer to layer. Where initial weights are far below that
scale, values vanish, in a chain of layers a little at each; far above it, sigmoid and tanh are
saturated, and pass no gradient. A softmax between hidden layers leaves each of many units a small
share of 1.

Layers of your own that gather statistics in training begin far from the data, and are left alone.

How sure: a warning, shown by what the layers are given and return, on one batch, with most of some
other draws of the weights, too.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from keras import layers as kl

from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence, Inner
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import activation_of, statistics_of
from perigee.diagnostics._recording import DRAWING, ModelCall

_SMALLEST, _VANISHED = 1e-4, 1e-6
"""What one layer leaves of its inputs at least, and a chain of layers of the largest ones."""
_LAYERS = (kl.Dense, kl.Conv1D, kl.Conv2D, kl.Conv3D)
_FLAT, _SATURATED, _FEWEST_ROWS = 1e-4, 0.95, 8
"""A slope at which an activation passes next to nothing, and the share of values that have it."""
_MOST_SHARES = 8


def check(evidence: Evidence) -> list[Finding]:
    """Examine what layers return."""
    if statistics_of(evidence):
        return []
    for items, happened, expected in (
        (
            _of_each(evidence, _shrinking),
            "Layers make the standard deviation of their values far smaller:",
            f"values of the same scale, within a factor of {1 / _SMALLEST:g}.",
        ),
        (
            _of_each(evidence, _saturated),
            "Nearly all values of these layers are at the flat ends of their activation:",
            "values at which the activation has a slope.",
        ),
        (
            _of_each(evidence, _vanished),
            "What differs between examples has vanished before these layers:",
            f"values of the same scale, within a factor of {1 / _SMALLEST:g}.",
        ),
        (
            _of_each(evidence, partial(_shares, evidence)),
            "A softmax between hidden layers leaves their units small shares of 1:",
            "an activation that keeps the scale of the values.",
        ),
    ):
        if items:
            return [_finding(happened, tuple(items.values()), expected)]
    return []


def _finding(happened: str, items: tuple[str, ...], expected: str) -> Finding:
    return Finding(
        code="PG132",
        name="ActivationScale",
        severity="warning",
        happened=happened,
        items=items,
        expected=expected,
        fix='use "relu" between the layers.'
        if "softmax" in happened
        else "use Keras's default initializers.",
    )


_Examine = Callable[[ModelCall, Sequence[Inner]], dict[str, str]]
"""Takes a call of a model and those of the layers inside; returns what is said, by layer."""


def _of_each(evidence: Evidence, examine: _Examine) -> dict[str, str]:
    """Return what models show, if it is shown with most other draws of their weights, too."""
    first = {id(call.layer): call for call in reversed(evidence.trained)}
    found: dict[str, str] = {}
    for call in first.values():
        items = {} if call.inputs is None else examine(call, evidence.inside(call))
        if items and evidence.is_of_most_draws(
            lambda turn, call=call: examine(call, evidence.inside_redrawn(call, turn))
        ):
            found |= items
    return found


def _shrinking(call: ModelCall, inside: Sequence[Inner]) -> dict[str, str]:
    """Compare the standard deviations of inputs and outputs of dense and convolutional layers."""
    found: dict[str, str] = {}
    largest = 0.0
    for inner in inside:
        if not isinstance(inner.layer, _LAYERS) or not inner.inputs or not inner.outputs:
            continue
        given, made = (_deviation(arrays[0]) for arrays in (inner.inputs, inner.outputs))
        largest = max(largest, given)
        if given > 0 and 0 < made < max(_SMALLEST * given, _VANISHED * largest):
            found[inner.layer.path] = f"{inner.layer.path}: {given:.2g} to {made:.2g}"
    return found


def _saturated(call: ModelCall, inside: Sequence[Inner]) -> dict[str, str]:
    """Return hidden layers of sigmoid or tanh whose values have next to no slope."""
    found: dict[str, str] = {}
    for inner in inside:
        name = activation_of(inner.layer)
        if name not in ("tanh", "sigmoid") or len(inner.outputs) != 1:
            continue
        if not isinstance(inner.layer, (*_LAYERS, kl.Activation)):
            continue
        values = inner.outputs[0].astype("float64")
        if len(values) < _FEWEST_ROWS or not np.isfinite(values).all():
            continue
        if any(_are_equal(values, output) for output in call.outputs):
            continue
        slopes = 1 - values**2 if name == "tanh" else values * (1 - values)
        share = float(np.mean(slopes < _FLAT))
        if share > _SATURATED:
            found[inner.layer.path] = f"{inner.layer.path}: {share:.0%} of its values"
    return found


def _vanished(call: ModelCall, inside: Sequence[Inner]) -> dict[str, str]:
    """Return the first layer with weights that is given next to the same for all examples."""
    first: float | None = None
    for inner in inside:
        if not isinstance(inner.layer, _LAYERS) or not inner.inputs:
            continue
        differs = _between_rows(inner.inputs[0])
        if first is None:
            first = min(differs, 1.0)
        elif 0 < differs < _SMALLEST * first:
            path = inner.layer.path
            return {path: f"{path}: {differs:.1e}, and {first:.1e} before the first layer"}
    return {}


def _shares(evidence: Evidence, call: ModelCall, inside: Sequence[Inner]) -> dict[str, str]:
    """Return layers whose softmax is all that another dense layer is given.

    A code that is narrower than what it stands for, as in a model of topics, is meant so.
    """
    found: dict[str, str] = {}
    inside = [one for one in inside if len(one.inputs) == len(one.outputs) == 1]
    for place, inner in enumerate(inside):
        if activation_of(inner.layer) != "softmax" or list(nested_layers(inner.layer)) != [
            inner.layer
        ]:
            continue
        units, taken = inner.outputs[0].shape[-1], inner.inputs[0].shape[-1]
        after = _next(inside[place + 1 :], inner.outputs[0])
        if after is None or type(after) is not kl.Dense or not after.use_bias:
            continue
        are_trained = id(after.kernel) in evidence.updated
        if are_trained and units >= max(_MOST_SHARES, min(taken, after.units)):
            found[inner.layer.path] = f"{inner.layer.path}: {units} units, about {1 / units:.2g}"
    return found


def _next(after: Sequence[Inner], output: np.ndarray) -> kl.Layer | None:
    """Return the layer that is given an output, also behind Dropout or Flatten."""
    for one in after:
        if _are_equal(one.inputs[0], output):
            if not isinstance(one.layer, (*DRAWING, kl.Flatten, kl.BatchNormalization)):
                return one.layer
            output = one.outputs[0]
    return None


def _are_equal(a: np.ndarray, b: np.ndarray) -> bool:
    return a.size == b.size and np.array_equal(a.reshape(-1), b.reshape(-1))


def _between_rows(values: np.ndarray) -> float:
    """Return how much rows differ from each other."""
    if len(values) < _FEWEST_ROWS:
        return 0.0
    values = values.astype("float64")
    return float(np.sqrt(values.var(axis=0).mean())) if np.isfinite(values).all() else 0.0


def _deviation(values: np.ndarray) -> float:
    values = values.astype("float64")
    return float(values.std()) if values.size and np.isfinite(values).all() else 0.0
