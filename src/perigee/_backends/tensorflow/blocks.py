# pyright: basic
"""Many steps in one call: an in-graph loop over batches gathered from arrays."""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from perigee._typing import Tensor, Tree


def gathered(function: Callable[[Tree], Tensor], batch_size: int) -> Callable[..., Tensor]:
    """See `Backend.gathered`; a ragged last batch is one like the others."""

    def run(arrays: Tree, order: Tensor, first: Tensor, count: Tensor) -> Tensor:
        rows = tf.TensorArray(tf.float32, size=count)

        def body(index: Tensor, rows: tf.TensorArray) -> tuple[Tensor, tf.TensorArray]:
            start = (first + index) * batch_size
            chosen = order[start : tf.minimum(start + batch_size, tf.size(order))]
            batch = keras.tree.map_structure(
                lambda array: None if array is None else tf.gather(array, chosen), arrays
            )
            return index + 1, rows.write(index, function(batch))

        _, rows = tf.while_loop(
            lambda index, _: index < count,
            body,
            [tf.constant(0), rows],
            parallel_iterations=1,
        )
        return rows.stack()

    return run
