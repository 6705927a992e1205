# pyright: basic
"""Many steps in one call: an in-graph loop over batches."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from perigee._backends._protocol import MOST_STEPS_A_BLOCK, Mode
from perigee._typing import Tensor, Tree


def sliced(
    function: Callable[[Tree], Tensor], batch_size: int, mode: Mode
) -> Callable[..., Tensor]:
    """See `Backend.sliced`.

    A graph leaves the size of a batch open, so that the last one of the arrays may have fewer rows
    and needs no second trace. XLA needs to know it.
    """

    def run(arrays: Tree, first: Tensor, count: Tensor) -> Tensor:
        rows = tf.TensorArray(tf.float32, size=MOST_STEPS_A_BLOCK)

        def cut(array: Tensor | None, start: Tensor) -> Tensor | None:
            if array is None:
                return None
            size = batch_size if mode == "xla" else tf.minimum(batch_size, _len(array) - start)
            rest = [-1 if axis is None else axis for axis in array.shape[1:]]
            return tf.slice(array, [start, *[0] * len(rest)], [size, *rest])

        def body(index: Tensor, rows: tf.TensorArray) -> tuple[Tensor, tf.TensorArray]:
            start = index * batch_size
            batch = keras.tree.map_structure(lambda array: cut(array, start), arrays)
            return index + 1, rows.write(index - first, _as_outside_a_loop(function, batch))

        # Counting begins at `first`: XLA takes where a slice begins for a constant, and compiles
        # it anew for each, unless it changes in the loop.
        _, rows = tf.while_loop(
            lambda index, _: index < first + count, body, [first, rows], parallel_iterations=1
        )
        return rows.stack()

    return run


def _as_outside_a_loop(function: Callable[[Tree], Tensor], batch: Tree) -> Tensor:
    """Run a step whose summaries are named as they are outside a loop, not `while/...`."""
    with tf.name_scope(""):
        return function(batch)


def _len(array: Tensor) -> Tensor:
    return tf.shape(array)[0]


def streamed(function: Callable[[Tree], Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """See `Backend.streamed`: the iterator is drawn from inside the graph.

    It is never drawn from further than the last batch that is run, so that its own checkpoint is
    that of the training.
    """

    def run(iterator: tf.data.Iterator, ahead: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        rows = tf.TensorArray(tf.float32, size=0, dynamic_size=True)
        following = tf.cond(ahead.has_value(), lambda: ahead, iterator.get_next_as_optional)

        def body(index: Tensor, following: Tensor, rows: tf.TensorArray) -> tuple[Tensor, ...]:
            rows = rows.write(index, _as_outside_a_loop(function, following.get_value()))
            following = tf.cond(
                index + 1 < count,
                iterator.get_next_as_optional,
                lambda: tf.experimental.Optional.empty(iterator.element_spec),
            )
            return index + 1, following, rows

        done, _, rows = tf.while_loop(
            lambda index, following, _: (index < count) & following.has_value(),
            body,
            [tf.constant(0), following, rows],
            parallel_iterations=1,
        )
        return rows.stack(), done

    return run
