"""PG321, UnscaledInputs: inputs of a model that are far from unit scale, or some of them.

Weights are initialized for inputs with a mean near 0 and a standard deviation near 1. What counts
is what the first layers with weights are given: scale the data, or begin the model with
`Rescaling`, `Normalization` (call its `adapt` before training) or `BatchNormalization`. A few
values a hundred times larger than all others, such as -9999 for a missing one or a row in other
units, make updates that undo what all other rows teach.

How sure: a warning, shown by the values that the first layers with weights are given.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers as kl

from perigee._step.state import nested_layers
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._first_layers import first_layers
from perigee.diagnostics._recording import ModelCall, Recording

_LARGEST, _WIDEST = 30.0, 10.0
_LARGEST_OF_A_COLUMN, _WIDEST_OF_A_COLUMN = 100.0, 30.0
_OFFSET = 20.0
"""How many deviations a mean is far from 0, where it is large."""
_TINY = 0.01

_FEWEST_ROWS, _FEWEST_VALUES = 32, 10
_MOST_APART, _ROWS_APART = 0.3, 15.0
"""The share of rows that may be apart from the others, and by which factor."""
_SEVERAL_APART, _ONE_APART = 10.0, 100.0
"""How far values are apart from others, in units of the range of these."""
_STILL_APART, _FAR = 5.0, 3.0
_MOST_LOOKED_AT, _MOST_FEATURES = 4_000_000, 4096


def check(evidence: Evidence) -> list[Finding]:
    """Examine what trained layers are given of the inputs."""
    found: dict[str, Finding] = {}
    for call in evidence.trained:
        for one in first_layers(evidence, call):
            for leaf in one.inputs[:1]:
                said = _unusual(leaf)
                if said is not None and call.layer.name not in found:
                    found[call.layer.name] = _finding(call, one.layer, said)
    return list(found.values()) or _apart(evidence)


def _finding(call: ModelCall, layer: Any, said: str) -> Finding:
    unadapted = next((one for one in nested_layers(call.layer) if _is_unadapted(one)), None)
    where = f"The inputs of {call.layer.name!r}"
    if layer is not call.layer:
        where += f" that reach {layer.name!r}"
    return Finding(
        code="PG321",
        name="UnscaledInputs",
        severity="warning",
        happened=f"{where} {said}."
        + (f" {unadapted.name!r} has a mean of 0 and a variance of 1." if unadapted else ""),
        expected="values near unit scale.",
        fix=f"call `adapt` of {unadapted.name!r} with the inputs before training."
        if unadapted
        else "scale them, or begin the model with `keras.layers.Normalization` or `Rescaling`.",
    )


def _is_unadapted(layer: Any) -> bool:
    """Return whether a layer for standardizing leaves its inputs as they are."""
    if not isinstance(layer, kl.Normalization) or getattr(layer, "mean", None) is None:
        return False
    mean, variance = (keras.ops.convert_to_numpy(v) for v in (layer.mean, layer.variance))
    return bool(np.all(mean == 0) and np.all(variance == 1))


def _unusual(values: np.ndarray) -> str | None:
    """Return what is unusual about the scale of values, the rows first."""
    if values.dtype.kind not in "fiu" or values.ndim < 2 or not values.size:
        return None
    values = values.astype("float64")
    if not np.isfinite(values).all():
        return None
    low, high = float(values.min()), float(values.max())
    largest, spread = max(-low, high), float(values.std())
    if largest > _LARGEST and spread > _WIDEST:
        return f"range over {low:.4g}..{high:.4g}, with a standard deviation of {spread:.3g}"
    if 0 < largest < _TINY:
        return f"range over {low:.2g}..{high:.2g} only"
    columns = values.reshape(-1, values.shape[-1])
    if len(columns) < 2:
        return None
    means, spreads = columns.mean(axis=0), columns.std(axis=0)
    ends = np.abs(columns).max(axis=0)
    wide = (ends > _LARGEST_OF_A_COLUMN) & (spreads > _WIDEST_OF_A_COLUMN)
    off = (np.abs(means) > _LARGEST) & (np.abs(means) > _OFFSET * spreads) & (spreads > 0)
    if not np.any(wide | off):
        return None
    index = int(np.flatnonzero(wide | off)[0])
    return (
        f"have a column, [..., {index}], with a mean of {means[index]:.4g} and a standard "
        f"deviation of {spreads[index]:.3g}"
    )


@dataclass(frozen=True, slots=True)
class _Rows:
    """Rows that lie apart from all others.

    Attributes:
        places: Which ones.
        said: What is unusual about them.
    """

    places: np.ndarray
    said: str


def _apart(evidence: Evidence) -> list[Finding]:
    """Look for values and rows far from all others, and whether they reach weights."""
    batch = evidence.batches[0]
    inputs = batch[0] if isinstance(batch, tuple) else batch
    for index, column in enumerate(evidence.columns[: len(keras.tree.flatten(inputs))]):
        rows = _rows_apart(column)
        if rows is None:
            continue
        recording = _with_rows(evidence, rows)
        for call in [] if recording is None else recording.calls:
            if call.inputs is None or not evidence.is_updated(call.layer):
                continue
            if any(isinstance(one, kl.Masking) for one in nested_layers(call.layer)):
                continue
            for one in first_layers(evidence, call):
                if one.inputs and _stay_apart(one.inputs[0], evidence.size):
                    return [_of_rows(index, column, rows)]
    return []


def _of_rows(index: int, column: np.ndarray, rows: _Rows) -> Finding:
    return Finding(
        code="PG321",
        name="UnscaledInputs",
        severity="warning",
        happened=f"{len(rows.places)} of {len(column)} rows of batch[{index}], the first one "
        f"[{int(rows.places[0])}], {rows.said}, and reach the weights so.",
        expected="values of one scale in all rows.",
        fix="convert these rows to the units of the others; fill or drop what stands for a missing "
        "value.",
    )


def _rows_apart(column: np.ndarray) -> _Rows | None:
    """Return rows of one leaf that hold values far from all others."""
    if column.dtype.kind not in "fiu" or column.ndim < 2 or len(column) < _FEWEST_ROWS:
        return None
    if not column.size or column.size > _MOST_LOOKED_AT:
        return None
    values = column.astype("float64")
    if not np.isfinite(values).all():
        return None
    return _values_apart(values) or _whole_apart(values)


def _values_apart(values: np.ndarray) -> _Rows | None:
    """Return rows with values of one feature far beyond the range of all its others.

    Such as -999, or the units of another table. A single one may be of a long tail, and must be
    farther away than several.
    """
    features = values.reshape(-1, values.shape[-1])
    for j in range(features.shape[1] if features.shape[1] <= _MOST_FEATURES else 0):
        for sign in (1.0, -1.0):
            cut = _gap(np.sort(sign * features[:, j]))
            if cut is None:
                continue
            feature = features[:, j]
            others = feature[sign * feature < cut]
            is_apart = (sign * values[..., j] >= cut).reshape(len(values), -1).any(axis=1)
            return _Rows(
                np.flatnonzero(is_apart),
                f"hold {sign * cut:.5g} and the like at [..., {j}], where all others are "
                f"{others.min():.4g}..{others.max():.4g}",
            )
    return None


def _gap(ranked: np.ndarray) -> float | None:
    """Return the first of some high values that lie far apart from all others."""
    first = max(1, int(np.ceil((1 - _MOST_APART) * len(ranked))))
    gaps = np.diff(ranked)[first - 1 :]
    ranges = ranked[first - 1 : -1] - ranked[0]
    several = np.arange(len(gaps)) < len(gaps) - 1
    is_wide = (gaps > np.where(several, _SEVERAL_APART, _ONE_APART) * ranges) & (ranges > 0)
    for place in np.flatnonzero(is_wide):
        if len(np.unique(ranked[: first + place])) >= _FEWEST_VALUES:
            return float(ranked[first + place])
    return None


def _whole_apart(values: np.ndarray) -> _Rows | None:
    """Return rows that are far larger than all others as a whole."""
    flat = values.reshape(len(values), -1)
    distances = np.abs(flat - np.median(flat, axis=0))
    # The median: most features of such a row are large, not a single one of a long tail.
    sizes = np.median(distances, axis=1) if values.ndim == 2 else distances.mean(axis=1)
    order = np.argsort(sizes)
    first = int(np.ceil((1 - _MOST_APART) * len(order)))
    ranked = np.maximum(sizes[order], 1e-12)
    if flat.shape[1] < 3 or ranked[first - 1] <= 1e-12:
        return None
    ratios = ranked[first:] / ranked[first - 1 : -1]
    if ratios.max() < _ROWS_APART or len(np.unique(ranked[:first])) < _FEWEST_VALUES:
        return None
    cut = first + int(ratios.argmax())
    return _Rows(
        np.sort(order[cut:]),
        f"are {ratios.max():.0f} times and more as far from the median as all others",
    )


def _with_rows(evidence: Evidence, rows: _Rows) -> Recording | None:
    """Return what the step does with a batch that begins with some of these rows."""
    size, count = evidence.size, len(evidence.columns[0])
    if size < 4 or any(len(column) != count for column in evidence.columns):
        return None
    few = np.resize(rows.places, _few(size))
    others = np.setdiff1d(np.arange(count), rows.places)[: size - len(few)]
    chosen = np.concatenate([few, others])
    if len(chosen) != size:
        return None
    leaves = [column[chosen] for column in evidence.columns]
    if len(leaves) != len(keras.tree.flatten(evidence.batches[0])):
        return None
    return evidence.training_on(keras.tree.pack_sequence_as(evidence.batches[0], leaves))


def _few(size: int) -> int:
    return max(1, size // 8)


def _stay_apart(given: np.ndarray, size: int) -> bool:
    """Return whether the first rows of what a layer is given are still far from the others."""
    if len(given) != size or given.dtype.kind not in "fiu" or not np.isfinite(given).all():
        return False
    few = _few(size)
    flat = given.reshape(size, -1).astype("float64")
    distances = np.abs(flat - np.median(flat[few:], axis=0))
    nearest, farthest = distances[:few].min(axis=0), distances[few:].max(axis=0)
    return bool(np.any((nearest > _FAR) & (nearest > _STILL_APART * farthest)))
