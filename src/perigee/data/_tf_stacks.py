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
        leaves: Tensors of a leaf each, with one more axis in front: the batches.
        first: The first of the batches in them.
        end: The end of the batches in them.
        rows: Rows per batch of each leaf; the tensors may have room for more.
        number: The number of other row counts that came before; `None` if the leaves have no common
            first axis.

    Attributes:
        rows: Rows per batch, of the first leaf.
        number: As given.
        steps: The number of batches that are left.
        first: The first of these in what `arrays` returns.
        room: For how many batches of as many rows stacks have room: it depends on nothing else, so
            one compiled program runs all of them.
    """

    def __init__(
        self,
        spec: Any,
        leaves: Sequence[Any],
        first: int,
        end: int,
        rows: Sequence[int],
        number: int | None,
    ) -> None:
        self.rows, self.number, self.steps, self.first = rows[0], number, end - first, 0
        self._spec, self._leaves, self._rows = spec, leaves, rows
        self._begin, self._end = first, end
        self.room = room_for(leaves, rows)
        self._arrays: tuple[int, Any] = 0, None

    def arrays(self, fills_room: bool) -> Any:
        """Return all batches in one tree of tensors, one after another on the first axis.

        Args:
            fills_room: Whether zeros fill the rest of the room.
        """
        room = self.room if fills_room else self._end - self._begin
        if self._arrays[0] != room:
            if self._is_whole(room):
                joined = [tf.reshape(leaf, [-1, *leaf.shape[2:]]) for leaf in self._leaves]
            else:
                numbers = self._begin, self._end, self.rows, room
                joined = _joined(self._leaves, *map(tf.constant, numbers))
            self._arrays = room, tf.nest.pack_sequence_as(self._spec, joined)
        return self._arrays[1]

    def _is_whole(self, room: int) -> bool:
        size = self._leaves[0].shape[:2]
        return self._begin == 0 and [self._end, self.rows] == size.as_list() == [room, self.rows]

    def batch(self, index: int = 0) -> Any:
        """Return one of the batches that are left."""
        at = self._begin + self.first + index
        pairs = zip(self._leaves, self._rows, strict=True)
        leaves = [leaf[at, :rows] for leaf, rows in pairs]
        return tf.nest.pack_sequence_as(self._spec, leaves)

    def skip(self, count: int) -> None:
        """Drop batches that were trained."""
        self.first, self.steps = self.first + count, self.steps - count


def room_for(leaves: Sequence[Any], rows: Sequence[int]) -> int:
    """Return for how many batches a stack has room, given stacked leaves and rows per batch."""
    pairs = zip(leaves, rows, strict=True)
    size = sum(leaf.dtype.size * count * math.prod(leaf.shape[2:]) for leaf, count in pairs)
    return max(1, min(MOST_STACKED, _MOST_BYTES // max(1, size)))


@tf.function(reduce_retracing=True)
def _joined(leaves: Any, first: Any, end: Any, rows: Any, room: Any) -> Any:
    joined: list[Any] = []
    for leaf in leaves:
        given = leaf[first:end, :rows]
        given = tf.reshape(given, [-1, *leaf.shape[2:]])
        missing = room * rows - tf.shape(given)[0]
        joined.append(tf.pad(given, [[0, missing], *[[0, 0]] * (len(given.shape) - 1)]))
    return joined


class Stacker:
    """Draws many batches from an iterator at once.

    A pipeline of its own reads the iterator of the data and puts the batches together, which costs
    little more than if the data did so. The iterator stands behind the batches that were returned,
    since nothing waits in between: so it can be saved, and batches be drawn from it in other ways.

    Args:
        iterator: The iterator of the data.
        spec: The spec of its batches.
        count: The number of batches to draw.
    """

    def __init__(self, iterator: Any, spec: Any, count: int) -> None:
        self._spec = spec
        [self._handle] = tf.nest.flatten(iterator, expand_composites=True)
        leaves = tf.nest.flatten(spec)
        self._types = [*(leaf.dtype for leaf in leaves), tf.int32]
        shapes = [*(leaf.shape for leaf in leaves), tf.TensorShape([len(leaves)])]
        self._shapes = [tf.TensorShape([None, None, *shape[1:]]) for shape in shapes[:-1]]
        self._shapes.append(tf.TensorShape([None, len(leaves)]))
        # Not `Dataset.map`, which would run each call on threads of a pool: that costs as much as
        # to make a batch of 32 rows.
        drawn = _raw.MapDataset(
            input_dataset=_numbers(),
            other_arguments=[self._handle],
            f=_getter(tuple(self._types[:-1]), tuple(tuple(leaf.shape) for leaf in leaves)),
            output_types=self._types,
            output_shapes=shapes,
            use_inter_op_parallelism=False,
            preserve_cardinality=False,
        )
        # It pads where the last batch of a pass has fewer rows.
        stacked = _raw.PaddedBatchDatasetV2(
            input_dataset=drawn,
            batch_size=tf.constant(count, tf.int64),
            padded_shapes=[
                tf.constant([-1 if axis is None else axis for axis in shape], tf.int64)
                for shape in shapes
            ],
            padding_values=[tf.zeros([], dtype) for dtype in self._types],
            drop_remainder=tf.constant(False),
            output_shapes=self._shapes,
        )
        self._iterator = _raw.AnonymousIteratorV3(
            output_types=self._types, output_shapes=self._shapes
        )
        _raw.MakeIterator(dataset=stacked, iterator=self._iterator)

    def draw(self) -> tuple[list[Any], np.ndarray] | None:
        """Draw batches: fewer at the end of the pass, `None` after it.

        Returns:
            A tensor for each leaf, with one more axis in front: the batches. And the rows of each
            leaf of each batch, shape `(batches, leaves)`.
        """
        try:
            *leaves, rows = _raw.IteratorGetNextSync(
                iterator=self._iterator, output_types=self._types, output_shapes=self._shapes
            )
        except tf.errors.OutOfRangeError:
            return None
        return leaves, rows.numpy()


@lru_cache(1)
def _numbers() -> Any:
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.apply_default_optimizations = False
    numbers = tf.data.Dataset.range(_ENDLESS).with_options(options)
    return tf.data.experimental.to_variant(numbers)


@lru_cache(32)
def _getter(types: tuple[Any, ...], shapes: tuple[Any, ...]) -> Any:
    """Return the function that draws one batch and looks how many rows each leaf has."""

    @tf.function(
        input_signature=[tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.resource)],
        autograph=False,
    )
    def get(number: Any, iterator: Any) -> Any:
        del number
        leaves = _raw.IteratorGetNextSync(
            iterator=iterator, output_types=list(types), output_shapes=list(shapes)
        )
        return (*leaves, tf.stack([tf.shape(leaf)[0] for leaf in leaves]))

    return get.get_concrete_function()
