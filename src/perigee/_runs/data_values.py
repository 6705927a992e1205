"""Which values of data a run compares between two starts, and which cannot be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import keras
import numpy as np
import xxhash

from perigee import _backends
from perigee._events.protocols import Feed
from perigee._step.state import PLAIN
from perigee.checkpoints import random_state, set_random_state
from perigee.data import (
    ArrayFeed,
    IterableFeed,
    PyDatasetFeed,
    TFDatasetFeed,
    open_feed,
)
from perigee.data._spec import leaves_with_paths

_ROWS = 32
_MOST_NUMBERS = 512
_MOST_TEXT = 100
_READ = 4096
"""How many numbers of a row are read for their mean."""

_CHEAP = frozenset(
    (
        *("BatchDataset", "BatchDatasetV2", "ConcatenateDataset", "MapDataset", "OptionsDataset"),
        *("PaddedBatchDataset", "PaddedBatchDatasetV2", "PrefetchDataset", "RangeDataset"),
        *("RepeatDataset", "SkipDataset", "TakeDataset", "TensorDataset", "TensorSliceDataset"),
        "ZipDataset",
    )
)
"""Stages of `tf.data` whose first batch takes no more than that batch, and changes nothing."""

Sample = list[float | int | str]
"""Numbers of data, in a fixed order, or the checksum of text or integers."""


@dataclass(frozen=True, slots=True)
class DataValues:
    """Values of data, by which it is compared.

    Attributes:
        way: How it is compared, as the end of a sentence.
        samples: For each array by its path in the data, values of it.
    """

    way: str
    samples: Mapping[str, Sample]


def data_values(feed: Feed, data: Any) -> DataValues:
    """Return values of data that are the same at each start, if there are any.

    Args:
        feed: The feed of the data.
        data: What the user passed.
    """
    try:
        if isinstance(feed, ArrayFeed):
            return DataValues("by values of some of its rows", _of_arrays(feed.arrays))
        if isinstance(feed, IterableFeed) and isinstance(data, list):
            some = [data[index] for index in _positions(len(data), 3)]
            return DataValues("by values of some of its batches", _of_arrays(some))
        reason = _why_not_drawn(feed, data)
        first = None if reason else _first_batch(data)
    except Exception as error:  # of the user's code; or of ours, which must end nothing
        reason, first = f"its first batch raised {type(error).__name__}", None
    if first is not None:
        return DataValues("by values of its first batch", first)
    reason = reason or "its first batch is another one each time"
    return DataValues(f"by kind, structure and length, not by values: {reason}", {})


def sample_of(value: Any) -> Sample:
    """Return values of one array: all of them where there are few."""
    return _sampled(np.asarray(value), _MOST_NUMBERS)


def are_alike(was: Any, now: Any) -> bool:
    """Tell whether two samples are of the same values.

    What computes data on another machine may round differently, so floats need not be equal.
    """
    if not isinstance(was, list) or not isinstance(now, list) or len(was) != len(now):
        return False
    scale = max((abs(v) for v in (*was, *now) if _is_float(v)), default=0.0)
    for one, other in zip(was, now, strict=True):
        if one == other:
            continue
        if not (_is_float(one) and _is_float(other)):
            return False
        if abs(one - other) > 1e-3 * max(abs(one), abs(other)) + 1e-5 * scale:
            return False
    return True


def _is_float(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value)


def _of_arrays(arrays: Any) -> dict[str, Sample]:
    leaves = list(leaves_with_paths(arrays))
    most = max(16, _MOST_NUMBERS // max(1, len(leaves)))
    return {path: _sampled(_rows_of(leaf), most) for path, leaf in leaves}


def _rows_of(leaf: Any) -> np.ndarray:
    """Return some rows of an array, at positions that follow from their number."""
    if hasattr(leaf, "part"):  # sparse or ragged: how much each of a few rows holds
        values = [_values_of(leaf[index : index + 1]) for index in _positions(len(leaf), _ROWS)]
        return np.array([[row.sum(), row.size] for row in values], "float64")
    array = leaf if isinstance(leaf, np.ndarray) else np.asarray(_backends.current().to_host(leaf))
    return array[_positions(len(array), _ROWS)] if array.ndim else array


def _values_of(row: Any) -> np.ndarray:
    for name in ("flat_values", "values", "data"):
        held = getattr(row, name, None)
        if held is not None and not callable(held):
            return np.asarray(_backends.current().to_host(held))
    return np.asarray(_backends.current().to_host(row))


def _positions(count: int, most: int) -> list[int]:
    if count <= most:
        return list(range(count))
    return [index * (count - 1) // (most - 1) for index in range(most)]


def _sampled(rows: np.ndarray, most: int) -> Sample:
    """Return numbers of some rows: of each its mean, and numbers at fixed places."""
    if rows.dtype.kind in "SUO":
        text = "\0".join(str(value)[:_MOST_TEXT] for value in rows.reshape(-1)[:_READ])
        return [xxhash.xxh3_64_hexdigest(text.encode("utf-8", "replace"))]
    if rows.dtype.kind == "c":
        rows = np.stack([np.real(rows), np.imag(rows)], axis=-1)
    flat = rows.reshape(len(rows), -1) if rows.ndim > 1 else rows.reshape(-1, 1)
    each = max(1, most // max(1, len(flat)))
    if flat.shape[1] > _READ:
        flat = flat[:, _positions(flat.shape[1], _READ)]
    if rows.dtype.kind in "biu":
        if flat.size <= most:
            return [int(number) for number in flat.reshape(-1)]
        read = np.ascontiguousarray(flat)
        content = read.astype("int64", copy=False) if read.dtype.kind != "u" else read
        return [xxhash.xxh3_64_hexdigest(content.astype("<i8").tobytes())]
    flat = flat.astype("float64")
    means = flat.mean(axis=1, keepdims=True)
    picked = flat[:, _positions(flat.shape[1], each)]
    return [_number(v) for v in np.concatenate([means, picked], axis=1).reshape(-1)]


def _number(value: Any) -> float | str:
    """Return a number in a few digits; one that is not finite as text, as JSON needs it."""
    return float(f"{value:.7g}") if np.isfinite(value) else str(float(value))


def _why_not_drawn(feed: Feed, data: Any) -> str | None:
    """Return why the first batch is not drawn for a comparison; `None` if it is."""
    if isinstance(feed, TFDatasetFeed):
        stages = [str(stage).partition("(")[0] for stage in feed.facts()["pipeline"]]
        unlike = sorted({stage for stage in stages if stage not in _CHEAP})
        if feed.resumes != "exactly":
            return feed.resumes_because
        return f"its first batch may cost more than one ({unlike[0]})" if unlike else None
    if isinstance(feed, PyDatasetFeed):
        for name, value in vars(data).items():
            if not _is_lasting(value):
                return f"drawing from it may change its `{name.lstrip('_')}`"
        return None
    return "drawing from it again would run its code again"


def _is_lasting(value: Any) -> bool:
    """Tell whether reading a batch cannot change a value, or the change can be undone."""
    if isinstance(value, PLAIN | PurePath | np.ndarray | range):
        return True
    if isinstance(value, list | tuple | set | frozenset):
        return all(isinstance(v, PLAIN | PurePath | np.ndarray) for v in value)
    return isinstance(value, Mapping) and _is_lasting(list(value.values()))


def _first_batch(data: Any) -> dict[str, Sample] | None:
    """Draw the first batch twice, leaving no trace; `None` if the two differ."""
    before, held = random_state(), {}
    if isinstance(data, keras.utils.PyDataset):
        held = {name: v for name, v in vars(data).items() if isinstance(v, PLAIN)}
    try:
        first, second = _drawn(data), _drawn(data)
    finally:
        set_random_state(before)
        for name, value in held.items():
            if vars(data).get(name) is not value:
                setattr(data, name, value)
    return first if first == second else None


def _drawn(data: Any) -> dict[str, Sample]:
    if isinstance(data, keras.utils.PyDataset):
        return _of_arrays(data[0])
    feed = open_feed(data)
    try:
        return _of_arrays(feed.peek())
    finally:
        feed.close()
