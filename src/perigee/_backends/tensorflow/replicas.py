# pyright: basic
"""Several copies of every variable, by `tf.distribute`."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from perigee._backends._objects import StateObject
from perigee._backends.tensorflow.one_device import OneDevice, is_of_one_device
from perigee._errors import AS_MINIMIZE, ReplicasError, StrategyError
from perigee._listening import Call, Returned, Talk, listening
from perigee._typing import Batch, Tensor, Tree

_REFUSED = {
    "ParameterServerStrategyV2": "its workers update without waiting for each other: of 20 "
    "scheduled steps, 12 updates were counted, and the others were lost",
    "CentralStorageStrategy": "Keras 3 creates variables there that it cannot update: BatchNorm, "
    "averages of weights and loss scaling fail",
}
_TRIED = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
)
"""Errors of collective operations after one of the processes has ended."""
_SEED_STRIDE = 0x9E3779B1
"""Makes the seeds of replicas differ; the fraction of the golden ratio in 32 bits."""


def replicas() -> Replicas | OneDevice | None:
    """See `Backend.replicas`."""
    if not tf.distribute.has_strategy():
        return None
    strategy = tf.distribute.get_strategy()
    return OneDevice(strategy) if is_of_one_device(strategy) else Replicas(strategy)


class Replicas:
    """See `perigee._backends.Replicas`.

    A step is rehearsed with all copies as one (TensorFlow's cross-replica context), and runs in
    `strategy.run`.
    """

    splits = True

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.name = type(strategy).__name__
        self.count = strategy.num_replicas_in_sync
        self._strategy = strategy
        self.processes, self.process = _place_of(strategy)
        self._sum: Any = None

    def check(self) -> None:
        """See `Replicas.check`."""
        if not isinstance(self._strategy, _TRIED):
            reason = _REFUSED.get(self.name, "it was never tested whether it is exact")
            raise StrategyError(self.name, reason)

    def is_current(self) -> bool:
        """See `Replicas.is_current`."""
        return tf.distribute.get_strategy() is self._strategy

    def holds(self, variable: Any) -> bool:
        """See `Replicas.holds`."""
        return _strategy_of(variable) is self._strategy

    def gathered(self, values: Sequence[int]) -> np.ndarray:
        """See `Replicas.gathered`."""
        mine = np.zeros((self.processes, len(values)), "float64")
        mine[self.process] = values
        if self.processes > 1:
            local = self.count // self.processes  # each replica of a process adds the same
            add = self._sum or tf.function(self._summed, reduce_retracing=True, autograph=False)
            self._sum = add
            mine = add(tf.constant(mine)).numpy() / local
        return mine.round().astype("int64")

    def _summed(self, values: Tensor) -> Tensor:
        def add(values: Tensor) -> Tensor:
            context = tf.distribute.get_replica_context()
            values = tf.identity(values)  # on a device: an argument is not on one yet
            return context.all_reduce(tf.distribute.ReduceOp.SUM, values)

        return self._first(self._strategy.run(add, args=(values,)))

    def is_loss_of_process(self, error: Exception) -> bool:
        """See `Replicas.is_loss_of_process`."""
        if self.processes == 1 or not isinstance(error, tf.errors.OpError):
            return False
        return isinstance(error, _LOST) or "ollective" in str(error)

    @contextmanager
    def scope(self) -> Generator[None]:
        """See `Replicas.scope`."""
        with self._strategy.scope(), listening(tf.GradientTape, "gradient", _no_tapes):
            yield

    def run(
        self, function: Callable[[Batch, Tensor], Tree], batch: Batch, *, joins: bool = False
    ) -> Tree:
        """See `Replicas.run`."""
        rows = _rows(batch)
        is_whole = rows < self.count

        def share(context: Any) -> _Share:
            index = context.replica_id_in_sync_group
            return _Share(_cut(batch, rows, index, self.count))

        def of_share(part: _Share) -> Tree:
            token = _is_whole.set(is_whole)
            try:
                with _as_one(), _seeds_apart():  # in the thread of the replica
                    return function(part.batch, rows)
            finally:
                _is_whole.reset(token)

        shares = self._strategy.experimental_distribute_values_from_function(share)

        results = self._strategy.run(of_share, args=(shares,))
        if not joins:
            return tf.nest.map_structure(self._first, results)
        return tf.nest.map_structure(lambda result: self._joined(result, is_whole), results)

    def _first(self, result: Any) -> Any:
        return self._strategy.experimental_local_results(result)[0]

    def _joined(self, result: Any, is_whole: Tensor) -> Any:
        joined, first = self._strategy.gather(result, axis=0), self._first(result)
        return joined[: tf.where(is_whole, tf.shape(first)[0], tf.shape(joined)[0])]


def _no_tapes(original: Any, tape: Any, target: Any, sources: Any, *args: Any, **kw: Any) -> Talk:
    """Refuse gradients for variables that user code computes itself: they are those of a share."""
    for source in tf.nest.flatten(sources):
        if isinstance(getattr(source, "value", source), tf.distribute.DistributedValues):
            raise ReplicasError(
                "it opens its own gradient tape, which sees only a share of the batch",
                AS_MINIMIZE,
            )
    yield


@dataclass(frozen=True, slots=True)
class _Share:
    """Part of a batch. TensorFlow passes objects of unknown types to replicas unchanged."""

    batch: Batch


_is_whole: ContextVar[Any] = ContextVar("perigee_is_whole", default=False)
"""Whether each replica runs the whole batch, and only the first one counts.

This is so if there are fewer rows than replicas. No replica runs a step on an empty share: some
kernels return other shapes for it, and means and maxima over nothing are not numbers.
"""


def _rows(batch: Batch) -> Tensor:
    leaves = [leaf for leaf in keras.tree.flatten(batch) if leaf is not None]
    if not leaves:
        return tf.constant(0)
    leaf = leaves[0]
    return tf.cast(
        leaf.nrows() if isinstance(leaf, tf.RaggedTensor) else tf.shape(leaf)[0], "int32"
    )


def _cut(batch: Batch, rows: Tensor, index: int, count: int) -> Batch:
    """Return the rows of one replica: as many as for every other, or one more.

    If there are too few rows, each replica gets all of them.
    """
    size, more = rows // count, rows % count
    start = index * size + tf.minimum(index, more)
    size = size + tf.cast(index < more, "int32")
    is_whole = rows < count
    start, size = tf.where(is_whole, 0, start), tf.where(is_whole, rows, size)

    def cut(leaf: Any) -> Any:
        return None if leaf is None else leaf[start : start + size]

    return keras.tree.map_structure(cut, batch)


@contextmanager
def _as_one() -> Generator[None]:
    """Make Keras's loss objects see one replica, so that they do not divide by the number.

    Otherwise their values would differ from those of a function, and a sum of both could not be
    separated. Keras gets the strategy from TensorFlow, and there is no other way to change its
    answer.
    """
    alone = tf.distribute.OneDeviceStrategy("/cpu:0")

    def call_as_one(original: Any, loss: keras.losses.Loss, *args: Any, **kwargs: Any) -> Talk:
        with listening(tf.distribute, "get_strategy", answer):
            yield

    def answer(original: Any) -> Talk:
        yield Call(lambda: alone, (), {})

    with listening(keras.losses.Loss, "__call__", call_as_one):
        yield


def _seeds_apart() -> AbstractContextManager[None]:
    """Make each replica draw its own numbers, from generators whose state is the same everywhere.

    If each runs the whole batch, the numbers are those of one device.
    """
    return listening(keras.random.SeedGenerator, "next", _seed_of_replica)


def _seed_of_replica(original: Any, generator: Any, ordered: bool = True) -> Talk:
    if _strategy_of(generator.state) is None:
        raise ReplicasError(
            f"a seed generator ({generator.state.path}) was created outside the scope, and all "
            "replicas would draw from it in an undefined order",
            "create it, and its holder, inside `strategy.scope()`.",
        )
    seed = yield
    index = tf.cast(tf.where(_is_whole.get(), 0, _index()), seed.dtype)
    return Returned(seed + tf.stack([index * _SEED_STRIDE, tf.zeros_like(index)]))


def is_replicated() -> bool:
    """Return whether the running code is that of one replica among several."""
    return tf.distribute.has_strategy() and not tf.distribute.in_cross_replica_context()


def _index() -> Tensor:
    return tf.distribute.get_replica_context().replica_id_in_sync_group


def sum_over_replicas(tensors: Sequence[Tensor], rows: Tensor | None = None) -> list[Tensor]:
    """See `Backend.sum_over_replicas`."""
    tensors = [tf.convert_to_tensor(tensor) for tensor in tensors]
    if not is_replicated() or not tensors:
        return tensors
    is_whole = _is_whole.get()
    counts = tf.logical_or(tf.logical_not(is_whole), tf.equal(_index(), 0))
    if rows is not None:
        counts = tf.logical_and(counts, rows > 0)
    kept = tf.cond(counts, lambda: tensors, lambda: [tf.zeros_like(t) for t in tensors])
    # A copy is on the device of its replica, as TensorFlow requires; a condition's result is not
    # yet.
    kept = [tf.identity(tensor) for tensor in kept]
    totals = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, kept)
    return [_flowing(total, own, is_whole) for total, own in zip(totals, tensors, strict=True)]


@tf.custom_gradient
def _flowing(total: Tensor, own: Tensor, is_whole: Tensor) -> Any:
    """Return a total; its gradient stays on a replica if each runs the whole batch."""

    def gradients(upstream: Tensor) -> Any:
        zeros = tf.zeros_like(upstream)
        return tf.where(is_whole, zeros, upstream), tf.where(is_whole, upstream, zeros), None

    return tf.identity(total), gradients


def once(gradients: Sequence[Any]) -> list[Any]:
    """See `Backend.once`: Keras's optimizers sum over the replicas, after clipping."""
    if not is_replicated():
        return list(gradients)
    given = [tf.convert_to_tensor(gradient) for gradient in gradients]
    if tf.get_static_value(_index()) == 0:
        return given
    if tf.get_static_value(_index()) is not None:
        return [tf.zeros_like(gradient) for gradient in given]
    is_first = tf.equal(_index(), 0)
    return tf.cond(is_first, lambda: given, lambda: [tf.zeros_like(g) for g in given])


def settle(values: Tensor, sums: Sequence[Any], others: Sequence[Any], share: Tensor) -> Tensor:
    """See `Backend.settle`.

    Only differences from the first replica are averaged, so that equal values stay bitwise equal.
    """
    held = [_floating(v) for v in others]
    totals = sum_over_replicas([values, *(_floating(v) for v in sums), *once(held)])
    firsts = totals[1 + len(sums) :]
    for variable, total in zip(sums, once(totals[1 : 1 + len(sums)]), strict=True):
        variable.assign(tf.cast(total, variable.dtype))
    gaps = [(v - first) * tf.cast(share, v.dtype) for v, first in zip(held, firsts, strict=True)]
    gaps = sum_over_replicas(gaps, rows=share)
    for variable, first, gap in zip(others, firsts, gaps, strict=True):
        variable.assign(tf.cast(first + gap, variable.dtype))
    return totals[0]


def _floating(variable: Any) -> Tensor:
    """Return a value that can be reduced: TensorFlow keeps integers on the host."""
    value = tf.convert_to_tensor(variable)
    if not value.dtype.is_floating:
        return tf.cast(value, "float64")
    return tf.cast(value, "float32") if value.dtype.size < 4 else value


def copies(variable: Any) -> list[Any]:
    """See `Backend.copies`: the copies in this process."""
    value = variable.value
    return list(value.values) if isinstance(value, tf.distribute.DistributedValues) else [value]


def _strategy_of(variable: Any) -> Any:
    value = variable.value
    is_copied = isinstance(value, tf.distribute.DistributedValues)
    return value.distribute_strategy if is_copied else None


def is_sum(variable: Any) -> bool:
    """See `Backend.is_sum`."""
    value = variable.value
    is_copied = isinstance(value, tf.distribute.DistributedValues)
    return is_copied and value.aggregation == tf.VariableAggregation.SUM


def read(variable: Any) -> np.ndarray:
    """See `Backend.read`: without communication with other processes."""
    if isinstance(variable, StateObject):
        return variable.read()
    held = copies(variable)
    if len(held) > 1 and is_sum(variable):
        return np.asarray(sum(copy.numpy() for copy in held), held[0].dtype.as_numpy_dtype)
    value = held[0]
    if isinstance(value, tf.Variable) and np.dtype(value.dtype.as_numpy_dtype).isbuiltin == 1:
        value = tf.convert_to_tensor(value)  # of a variable, and of other dtypes, it is a copy
    return np.asarray(value)


def hold(variable: Any) -> Tensor | None:
    """See `Backend.hold`: a variable that is written takes other memory while this one is read."""
    is_copied = isinstance(variable.value, tf.distribute.DistributedValues)
    is_state = isinstance(variable, StateObject)
    return None if is_state or is_copied else tf.convert_to_tensor(variable.value)


def write(variable: Any, value: np.ndarray | Tensor) -> None:
    """See `Backend.write`: without communication with other processes."""
    if not isinstance(variable.value, tf.distribute.DistributedValues):
        variable.assign(value)
        return
    held = copies(variable)
    counts = is_sum(variable)
    holds_first = _place_of(variable.value.distribute_strategy)[1] == 0
    for index, copy in enumerate(held):
        is_here = not counts or (index == 0 and holds_first)
        copy.assign(tf.cast(value, copy.dtype) if is_here else tf.zeros_like(copy))


def _place_of(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Return the number of processes, and the index of this one."""
    resolver = strategy.cluster_resolver
    if resolver is None or not resolver.task_type:
        return 1, 0
    tasks = [
        (kind, index)
        for kind in ("chief", "worker")
        for index in range(len(resolver.cluster_spec().as_dict().get(kind, ())))
    ]
    place = resolver.task_type, resolver.task_id
    return (len(tasks), tasks.index(place)) if place in tasks else (1, 0)
