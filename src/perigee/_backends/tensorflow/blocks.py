# pyright: basic
"""Many steps in one call: an in-graph loop over batches."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from perigee._backends._protocol import Mode
from perigee._typing import Tensor, Tree


def sliced(
    function: Callable[[Tree], Tree],
    batch_size: int,
    mode: Mode,
    most: int,
    dtypes: Tree,
    goes_on: Callable[[Tree], Tensor] | None,
    end: Callable[[], Tree],
) -> Callable[..., tuple[Tree, Tree]]:
    """See `Backend.sliced`.

    A graph leaves the size of a batch undefined, so that the last one of the arrays may have fewer
    rows without a second trace. XLA needs to know it.
    """
    more = [] if goes_on is None else [goes_on]

    def run(arrays: Tree, first: Tensor, count: Tensor) -> tuple[Tree, Tree]:
        results = [tf.TensorArray(dtype, size=most) for dtype in keras.tree.flatten(dtypes)]

        def cut(array: Tensor | None, start: Tensor) -> Tensor | None:
            if array is None:
                return None
            size = batch_size if mode == "xla" else tf.minimum(batch_size, _len(array) - start)
            rest = [-1 if axis is None else axis for axis in array.shape[1:]]
            return tf.slice(array, [start, *[0] * len(rest)], [size, *rest])

        def is_more(index: Tensor, _: list[tf.TensorArray], *goes: Tensor) -> Tensor:
            return _all(index < first + count, *goes)

        def body(index: Tensor, results: list[Any], *_: Tensor) -> tuple[Any, ...]:
            start = index * batch_size
            batch = keras.tree.map_structure(lambda array: cut(array, start), arrays)
            result = _as_outside_a_loop(function, batch)
            leaves = zip(results, keras.tree.flatten(result), strict=True)
            results = [array.write(index - first, leaf) for array, leaf in leaves]
            return index + 1, results, *(g(result) for g in more)

        # Counting begins at `first`: XLA treats the start of a slice as a constant, and recompiles
        # for each, unless it changes in the loop.
        begin = [first, results, *(tf.constant(True) for _ in more)]
        _, results, *_ = tf.while_loop(is_more, body, begin, parallel_iterations=1)
        return keras.tree.pack_sequence_as(dtypes, [array.stack() for array in results]), end()

    return run


def _as_outside_a_loop(function: Callable[[Tree], Tree], batch: Tree) -> Tree:
    """Run a step with the names of summaries as outside a loop, not `while/...`."""
    with tf.name_scope(""):
        return function(batch)


def _all(*conditions: Tensor) -> Tensor:
    return functools.reduce(tf.logical_and, conditions)


def _len(array: Tensor) -> Tensor:
    return tf.shape(array)[0]


def streamed(
    function: Callable[[Tree], Tensor],
    goes_on: Callable[[Tensor], Tensor] | None,
    end: Callable[[], Tree],
) -> Callable[..., tuple[Tensor, Tensor, Tree]]:
    """See `Backend.streamed`: the graph draws from the iterator.

    It never draws beyond the last batch that is run, so that the iterator's own checkpoint is that
    of the training.
    """
    more = [] if goes_on is None else [goes_on]

    def run(
        iterator: tf.data.Iterator, ahead: Tensor, count: Tensor
    ) -> tuple[Tensor, Tensor, Tree]:
        rows = tf.TensorArray(tf.float32, size=0, dynamic_size=True)
        following = tf.cond(ahead.has_value(), lambda: ahead, iterator.get_next_as_optional)

        def body(index: Tensor, following: Tensor, rows: tf.TensorArray) -> tuple[Tensor, ...]:
            row = _as_outside_a_loop(function, following.get_value())
            following = tf.cond(
                _all(index + 1 < count, *(g(row) for g in more)),
                iterator.get_next_as_optional,
                lambda: tf.experimental.Optional.empty(iterator.element_spec),
            )
            return index + 1, following, rows.write(index, row)

        done, _, rows = tf.while_loop(
            lambda index, following, _: (index < count) & following.has_value(),
            body,
            [tf.constant(0), following, rows],
            parallel_iterations=1,
        )
        return rows.stack(), done, end()

    return run
