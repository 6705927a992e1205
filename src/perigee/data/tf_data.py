"""`tf.data.Dataset`: batches made by TensorFlow's own pipeline."""

import sys
from collections.abc import Iterator
from typing import Any

import keras

from perigee._errors import DataTypeError
from perigee._protocols import Position
from perigee._typing import Batch, Tree
from perigee.data._passes import END, PassFeed
from perigee.data._spec import map_leaves


def is_tf_dataset(data: Any) -> bool:
    """Tell whether it is a `tf.data.Dataset`, without importing TensorFlow."""
    tensorflow = sys.modules.get("tensorflow")
    return tensorflow is not None and isinstance(data, tensorflow.data.Dataset)


class TFDatasetFeed(PassFeed):
    """The elements of a `tf.data.Dataset`, which are taken to be batches.

    On TensorFlow they are tensors, on the other backends NumPy arrays, in the dataset's structure
    and its own dtypes. Each pass makes a new iterator, so `reshuffle_each_iteration` has its
    effect. A position is reached by drawing: exact for a pipeline that depends on seeds alone, as
    costly as the elements passed over.

    Args:
        dataset: Finite, infinite, or of unknown length.

    Attributes:
        dataset: What was given.
        spec: Its `element_spec`.

    Raises:
        DataTypeError: If elements are ragged or sparse on a backend that has no such tensors.
    """

    checks_batches = False

    def __init__(self, dataset: Any) -> None:
        import tensorflow as tf

        super().__init__("tf.data.Dataset")
        self.dataset = dataset
        self.spec: Tree = dataset.element_spec
        self._is_native = keras.config.backend() == "tensorflow"
        if not self._is_native:
            for spec in tf.nest.flatten(self.spec):
                if not isinstance(spec, (tf.TensorSpec, tf.NoneTensorSpec)):
                    raise DataTypeError(
                        f"tf.data.Dataset with elements of {type(spec).__name__}",
                        "make them dense in a `.map(...)`: `.to_tensor()` for ragged tensors, "
                        "`tf.sparse.to_dense(...)` for sparse ones.",
                    )
        cardinality = int(dataset.cardinality())
        self._length = cardinality if cardinality >= 0 else None
        self._is_infinite = cardinality == tf.data.INFINITE_CARDINALITY
        self._iterator: Iterator[Any] = iter(())

    @property
    def length(self) -> int | None:
        """Batches a pass; `None` where it never ends or the dataset does not tell."""
        return self._length

    @property
    def is_infinite(self) -> bool:
        """Whether a pass is known never to end."""
        return self._is_infinite

    @property
    def is_stream(self) -> bool:
        """Whether `stream` gives an iterator: on TensorFlow it does."""
        return self._is_native

    def stream(self) -> tuple[Any, Any] | None:
        """Return the iterator of the pass and, as an optional, the batch that was taken already.

        `None` at the end of a pass. What is drawn from it is told to `advance`.
        """
        import tensorflow as tf

        if not self._ahead and not self._is_open:
            self._open(self._cursor)
            self._is_open = True
        if not self._ahead:
            return self._iterator, tf.experimental.Optional.empty(self.spec)
        if self._ahead[0] is END:
            return None
        return self._iterator, tf.experimental.Optional.from_value(self._ahead[0])

    def _facts(self) -> dict[str, Any]:
        return {"spec": str(self.spec)}

    def _open(self, position: Position) -> None:
        self._iterator = iter(self.dataset)
        for _ in range(position.batches):
            if self._take(position) is END:
                raise self._position_error(position, "its pass is shorter")

    def _take(self, position: Position) -> Batch:
        try:
            batch = next(self._iterator)
        except StopIteration:
            return END
        return batch if self._is_native else map_leaves(_to_numpy, batch)

    def _let_go(self) -> None:
        self._iterator = iter(())


def _to_numpy(tensor: Any) -> Any:
    return tensor.numpy()
