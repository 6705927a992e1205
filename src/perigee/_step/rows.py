"""The arrays of a batch whose first axis counts its examples."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from perigee._typing import Batch, Tensor

_TEXT = ("str", "bytes", "object")
"""How the names of dtypes begin whose arrays hold texts or objects."""


def arrays_of_rows(batch: Batch) -> list[Tensor]:
    """Return the arrays of a batch that have a first axis.

    Numbers, texts, `None` and other objects have none, whether or not they became tensors. Arrays
    of text count only where there are no others: the names of the classes are no examples.
    """
    arrays = [leaf for leaf in _shaped(batch) if len(leaf.shape) > 0]
    return [array for array in arrays if not _is_text(array)] or arrays


def _shaped(tree: Any) -> Iterator[Any]:
    """Yield the arrays of a tree, also of dataclasses and mappings that Keras leaves whole."""
    for leaf in keras.tree.flatten(tree):
        if hasattr(leaf, "shape"):
            yield leaf
        elif isinstance(leaf, Mapping):
            yield from _shaped(list(leaf.values()))
        elif dataclasses.is_dataclass(leaf):
            yield from _shaped([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])


def _is_text(array: Any) -> bool:
    dtype = array.dtype
    return str(getattr(dtype, "name", dtype)).startswith(_TEXT)
