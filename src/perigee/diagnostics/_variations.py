"""What trials change: the scale of inputs, weights of an unusual size, which labels belong."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as kl

from perigee._step.state import nested_layers
from perigee._typing import Batch
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._layers import activation_of

_FAR = 4.0
"""By which factor a kernel is unusually large or small, beside those of Glorot and He."""
_SHIFTED = 1.5
"""How far the mean of a kernel is from 0 at least, in units of He's or Glorot's deviation."""
_LARGE_BIAS = 1.5
"""Forget gates of an LSTM begin at 1."""

_WIDEST, _NARROWEST, _OFFSET = 8.0, 0.02, 4.0
"""Deviations of inputs that are far from 1, and how many deviations a mean is far from 0."""

_RECTIFIERS = ("relu", "elu", "selu", "gelu", "silu", "swish", "leaky_relu", "mish")


@dataclass(frozen=True, slots=True)
class Odd:
    """A weight of an unusual size.

    Attributes:
        variable: The weight.
        said: Its path, and what is unusual.
        deviation: The standard deviation that Glorot or He would draw it with; 0 for a bias.
    """

    variable: Any
    said: str
    deviation: float

    def fresh(self, seed: int) -> np.ndarray:
        """Return other values for it, of a usual size."""
        shape = tuple(self.variable.shape)
        seed += sum(map(ord, self.variable.path))
        drawn = np.random.default_rng(seed).normal(0.0, 1.0, shape) * self.deviation
        return drawn.astype(keras.backend.standardize_dtype(self.variable.dtype))


def odd_weights(evidence: Evidence) -> list[Odd]:
    """Return the trained kernels and biases whose values are of an unusual size."""
    found: dict[int, Odd] = {}
    for layer in evidence.trained_layers:
        if isinstance(layer, kl.Embedding) or list(nested_layers(layer)) != [layer]:
            continue
        for variable in layer.trainable_variables:
            if id(variable) in evidence.updated and id(variable) not in found:
                odd = _odd(variable, layer, evidence.tracked.name_of(variable))
                if odd is not None:
                    found[id(variable)] = odd
    return list(found.values())


def _odd(variable: Any, layer: Any, name: str) -> Odd | None:
    values = np.asarray(keras.ops.convert_to_numpy(variable)).astype("float64")
    if not values.size or not np.isfinite(values).all():
        return None
    if values.ndim == 1:
        largest = float(np.abs(values).max())
        is_bias = name.rpartition("/")[2] == "bias"
        if not is_bias or largest <= _LARGE_BIAS:
            return None
        return Odd(variable, f"{name}: up to {values[np.abs(values).argmax()]:.3g}", 0.0)
    if values.ndim < 2:
        return None
    receptive = math.prod(values.shape[:-2])
    fan_in, fan_out = values.shape[-2] * receptive, values.shape[-1] * receptive
    glorot, he = math.sqrt(2 / (fan_in + fan_out)), math.sqrt(2 / fan_in)
    usual = he if activation_of(layer) in _RECTIFIERS else glorot
    size, mean = math.sqrt(float(np.mean(values**2))), float(values.mean())
    small, large = min(glorot, he) / _FAR, max(glorot, he) * _FAR
    if (values.size > 1 and float(values.std()) < 1e-6 * size) or not size:
        return Odd(variable, f"{name}: {mean:.3g} everywhere", usual)
    if not small <= size <= large:
        return Odd(variable, f"{name}: a standard deviation of {values.std():.2g}", usual)
    if abs(mean) > _SHIFTED * max(glorot, he):
        return Odd(variable, f"{name}: a mean of {mean:.2g}", usual)
    return None


def labels_of(evidence: Evidence) -> frozenset[int]:
    """Return which leaves of a batch are labels: in a dict, those that a loss was given as such."""
    batch = evidence.batches[0]
    leaves = keras.tree.flatten(batch)
    if isinstance(batch, tuple):
        return frozenset(range(len(keras.tree.flatten(batch[0])), len(leaves)))
    given = [np.ravel(seen.y_true) for seen in evidence.training.losses]
    return frozenset(
        index
        for index, leaf in enumerate(leaves)
        if isinstance(leaf, np.ndarray) and any(np.array_equal(np.ravel(leaf), g) for g in given)
    )


def _measured(evidence: Evidence, columns: Sequence[np.ndarray]) -> dict[int, tuple[Any, Any]]:
    """Return, for inputs that are numbers far from unit scale, their means and deviations."""
    looked_up = evidence.training.lookups
    found: dict[int, tuple[Any, Any]] = {}
    labels = labels_of(evidence)
    for index, column in enumerate(columns):
        if index in labels:
            continue
        is_number = column.dtype.kind == "f" or (column.dtype.kind in "iu" and not looked_up)
        if not is_number or column.ndim < 2 or len(column) < 2:
            continue
        values = column[:8192].astype("float64")
        if not np.isfinite(values).all():
            continue
        axes = 0 if column.ndim == 2 else None
        mean, deviation = values.mean(axis=axes), values.std(axis=axes)
        if not np.any(deviation):
            continue
        deviation = np.where(deviation > 0, deviation, 1.0)
        is_wide = (deviation > _WIDEST) | (deviation < _NARROWEST)
        is_off = (np.abs(mean) > _OFFSET * deviation) & (np.abs(mean) > _OFFSET / 2)
        if np.any(is_wide | is_off):
            found[index] = mean, deviation
    return found


def unscaled(evidence: Evidence, columns: Sequence[np.ndarray]) -> str | None:
    """Return what is said about inputs far from unit scale; `None` if there are none."""
    found = _measured(evidence, columns)
    if not found:
        return None
    means = np.concatenate([np.ravel(mean) for mean, _ in found.values()])
    deviations = np.concatenate([np.ravel(deviation) for _, deviation in found.values()])
    if len(means) == 1:
        return f"a mean of {means[0]:.4g} and a standard deviation of {deviations[0]:.3g}"
    return (
        f"columns with means from {means.min():.4g} to {means.max():.4g} and standard deviations "
        f"from {deviations.min():.3g} to {deviations.max():.3g}"
    )


def is_out_of_scale(evidence: Evidence) -> bool:
    """Return whether inputs are far from unit scale, or weights are of an unusual size."""
    return bool(_measured(evidence, evidence.columns)) or bool(odd_weights(evidence))


def standardized(evidence: Evidence, columns: Sequence[np.ndarray], batch: Batch) -> Batch:
    """Return a batch whose inputs have mean 0 and standard deviation 1."""
    found = _measured(evidence, columns)

    def scaled(index: int, leaf: Any) -> Any:
        if index not in found:
            return leaf
        mean, deviation = found[index]
        kind = leaf.dtype if leaf.dtype.kind == "f" else keras.config.floatx()
        return ((leaf - mean) / deviation).astype(kind)

    leaves = [scaled(index, leaf) for index, leaf in enumerate(keras.tree.flatten(batch))]
    return keras.tree.pack_sequence_as(batch, leaves)


def of_other_rows(evidence: Evidence, batch: Batch, seed: int) -> Batch:
    """Return a batch whose inputs are those of other rows."""
    labels, leaves = labels_of(evidence), keras.tree.flatten(batch)
    rows = next(len(leaf) for leaf in leaves if np.ndim(leaf))
    order = np.random.default_rng(seed).permutation(rows)
    moved = [
        leaf if index in labels or not np.ndim(leaf) else leaf[order]
        for index, leaf in enumerate(leaves)
    ]
    return keras.tree.pack_sequence_as(batch, moved)
