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
    arrays = [leaf for leaf in leaves_of(batch) if len(getattr(leaf, "shape", ())) > 0]
    return [array for array in arrays if not _is_text(array)] or arrays


def leaves_of(tree: Any) -> Iterator[Any]:
    """Yield the leaves of a tree, also of dataclasses and mappings that Keras leaves whole."""
    for leaf in keras.tree.flatten(tree):
        if isinstance(leaf, Mapping) and not hasattr(leaf, "shape"):
            yield from leaves_of(list(leaf.values()))
        elif dataclasses.is_dataclass(leaf) and not hasattr(leaf, "shape"):
            yield from leaves_of([getattr(leaf, field.name) for field in dataclasses.fields(leaf)])
        else:
            yield leaf


def _is_text(array: Any) -> bool:
    dtype = array.dtype
    return str(getattr(dtype, "name", dtype)).startswith(_TEXT)
