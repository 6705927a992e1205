"""Chooses the feed for a kind of data."""

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np

from perigee._errors import ArgumentError, DataTypeError
from perigee._events.protocols import Feed
from perigee._typing import Shuffle
from perigee.data._sparse import rows_of
from perigee.data._spec import is_array_like, refusal
from perigee.data.arrays import ArrayFeed
from perigee.data.iterables import IterableFeed
from perigee.data.pydataset import PyDatasetFeed
from perigee.data.tf_data import TFDatasetFeed, is_tf_dataset


def open_feed(
    data: Any,
    *,
    batch_size: int | None = None,
    shuffle: Shuffle | None = None,
    seed: int = 0,
    shuffles_by_default: bool = False,
    usual_batch_size: int = 32,
) -> Feed:
    """Return the feed that draws batches from `data`.

    >>> feed = open_feed((np.arange(5), np.zeros((5, 2))), batch_size=2)
    >>> feed.length
    3
    >>> feed.draw()[0].tolist()
    [0, 1]

    Args:
        data: An array, or a tuple or dict of arrays, nested as needed: one data set. A
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a list or any other iterable of batches,
            or a function without required arguments that returns an iterable.
        batch_size: Rows per batch, for arrays only.
        shuffle: Whether each pass draws in another order, for arrays (rows) and `PyDataset`
            (batches) only; `"batch"` keeps batches and shuffles the rows within each of them.
        seed: The seed of the order, at least 0 and below 2**64.
        shuffles_by_default: The default of `shuffle` for arrays and a finite `PyDataset`.
        usual_batch_size: The default of `batch_size` for arrays.

    Raises:
        DataTypeError: If it is none of these.
        ArgumentError: If `batch_size` or `shuffle` is given for data that has its own.
        ArrayLengthError: If arrays differ in length.
        EmptyDataError: If arrays have no rows.
    """
    _check_numbers(batch_size, seed)
    if isinstance(shuffle, str) and shuffle != "batch":
        expected = 'True, False or "batch", which shuffles the rows within each batch.'
        raise ArgumentError("shuffle", repr(shuffle), expected, "pass `shuffle=True`.")
    if is_tf_dataset(data):
        _refuse_argument("batch_size", batch_size, "a tf.data.Dataset", "`.batch(...)`")
        _refuse_argument("shuffle", shuffle, "a tf.data.Dataset", "`.shuffle(...)`")
        return TFDatasetFeed(data)
    if isinstance(data, keras.utils.PyDataset):
        _refuse_argument("batch_size", batch_size, "a PyDataset", "its `__getitem__`")
        if shuffle is None:
            shuffle = shuffles_by_default and data.num_batches is not None
        return PyDatasetFeed(data, shuffle=bool(shuffle), seed=seed)
    if _is_one_data_set(data):
        return ArrayFeed(
            data,
            batch_size=usual_batch_size if batch_size is None else batch_size,
            shuffle=shuffles_by_default if shuffle is None else shuffle,
            seed=seed,
        )
    fix = _why_not(data)
    if fix is not None:
        raise DataTypeError(type(data).__name__, fix)
    _refuse_argument("batch_size", batch_size, "an iterable", "what it yields")
    _refuse_argument("shuffle", shuffle, "an iterable", "what it yields")
    return IterableFeed(data)


def _check_numbers(batch_size: Any, seed: Any) -> None:
    if batch_size is not None and (not _is_integer(batch_size) or batch_size < 1):
        raise ArgumentError(
            "batch_size", repr(batch_size), "an integer, at least 1.", "pass `batch_size=32`."
        )
    if not _is_integer(seed) or not 0 <= seed < 2**64:
        raise ArgumentError(
            "seed", repr(seed), "an integer, at least 0 and below 2**64.", "pass `seed=0`."
        )


def _is_integer(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def _refuse_argument(name: str, given: Any, kind: str, place: str) -> None:
    if given is None:
        return
    takers = "arrays" if name == "batch_size" else "arrays and PyDataset"
    raise ArgumentError(
        name,
        repr(given),
        f"`{name}` is for {takers} only; this data is {kind}, which makes its own batches.",
        f"omit it, and set it in {place}.",
    )


def _is_one_data_set(data: Any) -> bool:
    if isinstance(data, (str, bytes, np.generic, keras.KerasTensor)):
        return False
    if isinstance(data, (tuple, Mapping)) or is_array_like(data):
        return True
    return rows_of(data) is not None or refusal(data) is not None


def _why_not(data: Any) -> str | None:
    """Return how to fix data that no feed takes; `None` if it can be iterated over."""
    if data is None:
        return "pass the data; a function without `return` returns None."
    if isinstance(data, (str, bytes)):
        return "load the file first, or write a generator function that reads it."
    if isinstance(data, (bool, int, float, np.generic)):
        return "pass arrays with the examples on the first axis."
    if isinstance(data, keras.KerasTensor):
        return "pass arrays with values; this tensor is symbolic, as in a functional model."
    if isinstance(data, keras.Layer):
        return "pass the step first and the data second."
    if isinstance(data, type):
        return "pass an instance: call the class."
    if isinstance(data, (set, frozenset)):
        return "pass a list; a set has no order."
    if isinstance(data, Iterable):
        return None
    if callable(data):
        return _why_not_called(data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return (
            "pass a dataset of single examples to a torch `DataLoader` with a `batch_size`, or "
            "derive a dataset of batches from `keras.utils.PyDataset`."
        )
    return "write a generator function that yields batches, and pass it without calling it."


def _why_not_called(function: Any) -> str | None:
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # a built-in without a signature
        return None
    required = [
        p.name
        for p in parameters
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    if required:
        return f"bind its arguments ({', '.join(required)}): `lambda: make_batches(...)`."
    if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
        return "write it without `async`."
    return None
