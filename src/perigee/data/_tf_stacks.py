"""Batches of a `tf.data` iterator, many of them in one piece."""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import tensorflow as tf

_raw: Any = tf.raw_ops

MOST_STACKED = 64
_MOST_BYTES = 4 * 2**20
"""The most batches in a stack, and their bytes."""

_SIZES = (64, 32, 16, 8)
"""How many batches are drawn in one call; fewer are drawn one by one."""

_ENDLESS = 2**62


def can_be_stacked(spec: Any) -> bool:
    """Return whether batches of this spec are numbers whose sizes are known but for the rows."""
    leaves = tf.nest.flatten(spec)
    return bool(leaves) and all(
        isinstance(leaf, tf.TensorSpec)
        and (leaf.dtype.is_floating or leaf.dtype.is_integer or leaf.dtype.is_bool)
        and not leaf.dtype.is_quantized
        and leaf.shape.rank is not None
        and leaf.shape.rank > 0
        and leaf.shape[1:].is_fully_defined()
        for leaf in leaves
    )


class Stack:
    """Consecutive batches with the same number of rows.

    Args:
        spec: The spec of a batch.
        leaves: Tensors of a leaf each: batches, one after another on the first axis.
        starts: The row of each leaf where the first of these batches begins.
        rows: Rows per batch of each leaf.
        steps: The number of these batches.
        room: For how many batches of as many rows stacks have room.
        number: The number of other row counts that came before; `None` if the leaves have no common
            first axis.

    Attributes:
        rows: Rows per batch, of the first leaf.
        number: As given.
        steps: The number of batches that are left.
        first: The first of these in what `arrays` returns.
        room: As given; one compiled program runs all stacks with as many rows.
    """

    def __init__(
        self,
        spec: Any,
        leaves: Sequence[Any],
        starts: Sequence[int],
        rows: Sequence[int],
        steps: int,
        room: int,
        number: int | None,
    ) -> None:
        self.rows, self.number, self.steps, self.first = rows[0], number, steps, 0
        self.room = room
        self._spec, self._leaves, self._starts, self._rows = spec, leaves, starts, rows
        self._whole = steps
        self._arrays: tuple[int, Any] = 0, None

    def arrays(self, fills_room: bool) -> Any:
        """Return all batches in one tree of tensors, one after another on the first axis.

        Args:
            fills_room: Whether zeros fill the rest of the room.
        """
        room = self.room if fills_room else self._whole
        if self._arrays[0] != room:
            count, size = self._whole * self.rows, room * self.rows
            parts = zip(self._leaves, self._starts, strict=True)
            leaves = [_part(leaf, start, count, size) for leaf, start in parts]
            self._arrays = room, tf.nest.pack_sequence_as(self._spec, leaves)
        return self._arrays[1]

    def batch(self, index: int = 0) -> Any:
        """Return one of the batches that are left."""
        parts = zip(self._leaves, self._starts, self._rows, strict=True)
        at = self.first + index
        leaves = [_part(leaf, start + at * rows, rows, rows) for leaf, start, rows in parts]
        return tf.nest.pack_sequence_as(self._spec, leaves)

    def skip(self, count: int) -> None:
        """Drop batches that were trained."""
        self.first, self.steps = self.first + count, self.steps - count


def _part(leaf: Any, start: int, count: int, size: int) -> Any:
    """Return some rows of a tensor, and zeros up to a size."""
    if leaf.shape[0] != count:
        leaf = leaf[start : start + count]
    if count == size:
        return leaf
    return tf.pad(leaf, [[0, size - count], *[[0, 0]] * (len(leaf.shape) - 1)])


def room_for(spec: Any, rows: Sequence[int], most: int | None) -> int:
    """Return for how many batches a stack has room.

    Args:
        spec: The spec of a batch.
        rows: Rows per batch of each leaf.
        most: The most batches that there can be, or `None`.
    """
    pairs = zip(tf.nest.flatten(spec), rows, strict=True)
    size = sum(leaf.dtype.size * count * math.prod(leaf.shape[1:]) for leaf, count in pairs)
    return max(1, min(MOST_STACKED, most or MOST_STACKED, _MOST_BYTES // max(1, size)))


class Stacker:
    """Draws many batches from an iterator at once.

    A pipeline of its own reads the iterator of the data and puts the batches together, which costs
    little more than if the data did so. The iterator stands behind the batches that were returned,
    since nothing waits in between: so it can be saved, and batches be drawn from it in other ways.

    Making that pipeline takes milliseconds, so it is kept from pass to pass: `begin` begins another
    pass in the same iterator.

    Args:
        iterator: The iterator of the data.
        spec: The spec of its batches.
    """

    def __init__(self, iterator: Any, spec: Any) -> None:
        [self._handle] = tf.nest.flatten(iterator, expand_composites=True)
        leaves = tf.nest.flatten(spec)
        self._types = tuple(leaf.dtype for leaf in leaves)
        self._shapes = tuple(tuple(leaf.shape) for leaf in leaves)
        self._of_many = {
            "output_types": [*self._types, tf.int32],
            "output_shapes": [
                *(tf.TensorShape([None, *shape[1:]]) for shape in self._shapes),
                tf.TensorShape([None, len(leaves)]),
            ],
        }
        self._pipelines: dict[int, Any] = {}

    def begin(self, dataset: Any) -> None:
        """Let the iterator begin another pass."""
        variant = tf.data.experimental.to_variant(dataset)
        _raw.MakeIterator(dataset=variant, iterator=self._handle)

    def draw(self, count: int, is_sure: bool) -> tuple[list[Any], np.ndarray] | None:
        """Draw batches: fewer at the end of the pass, `None` after it.

        Args:
            count: The number of batches to draw.
            is_sure: Whether the pass is known to have as many.

        Returns:
            A tensor for each leaf: the batches, one after another on the first axis. And the rows
            of each leaf of each batch, shape `(batches, leaves)`.

        Raises:
            OutOfRangeError: If the pass ends although it is sure that it does not.
        """
        parts: list[list[Any]] = []
        for size in _SIZES if is_sure else ():
            while count >= size:
                parts.append(self._many(size))
                count -= size
        try:
            for _ in range(count):
                parts.append(self._one())
        except tf.errors.OutOfRangeError:
            if not parts:
                return None
        *leaves, rows = (list(part) for part in zip(*parts, strict=True))
        with tf.device("CPU:0"):
            joined = [leaf[0] if len(leaf) == 1 else tf.concat(leaf, 0) for leaf in leaves]
        return joined, np.concatenate([np.asarray(part) for part in rows])

    def _one(self) -> list[Any]:
        leaves = _raw.IteratorGetNextSync(
            iterator=self._handle, output_types=self._types, output_shapes=self._shapes
        )
        return [*leaves, [[leaf.shape[0] for leaf in leaves]]]

    def _many(self, size: int) -> list[Any]:
        if size not in self._pipelines:
            self._pipelines[size] = self._pipeline(size)
        return _raw.IteratorGetNextSync(iterator=self._pipelines[size], **self._of_many)

    def _pipeline(self, size: int) -> Any:
        # Not `Dataset.map`, which would run each call on threads of a pool: that costs as much as
        # to make a batch of 32 rows.
        stacked = _raw.MapDataset(
            input_dataset=_numbers(),
            other_arguments=[self._handle],
            f=_getter(size, self._types, self._shapes),
            use_inter_op_parallelism=False,
            preserve_cardinality=False,
            **self._of_many,
        )
        iterator = _raw.AnonymousIteratorV3(**self._of_many)
        _raw.MakeIterator(dataset=stacked, iterator=iterator)
        return iterator


@lru_cache(1)
def _numbers() -> Any:
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    numbers = tf.data.Dataset.range(_ENDLESS).with_options(options)
    return tf.data.experimental.to_variant(numbers)


@lru_cache(32)
def _getter(size: int, types: tuple[Any, ...], shapes: tuple[Any, ...]) -> Any:
    """Return the function that draws batches and looks how many rows each leaf of each has."""

    @tf.function(
        input_signature=[tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.resource)],
        autograph=False,
    )
    def get(number: Any, iterator: Any) -> Any:
        del number
        batches: list[Any] = []
        for _ in range(size):
            with tf.control_dependencies(batches[-1] if batches else ()):
                leaves = _raw.IteratorGetNextSync(
                    iterator=iterator, output_types=list(types), output_shapes=list(shapes)
                )
            batches.append(leaves)
        leaves = [list(leaf) for leaf in zip(*batches, strict=True)]
        rows = [tf.stack(tf.shape_n(leaf))[:, 0] for leaf in leaves]
        return (*(tf.concat(leaf, 0) for leaf in leaves), tf.stack(rows, 1))

    return get.get_concrete_function()
