# pyright: basic
"""Strategies of one device: they say where variables are created, and change nothing else."""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

import numpy as np
import tensorflow as tf

from perigee._listening import Call, Talk, listening
from perigee._typing import Batch, Tensor, Tree

_SEVERAL_OR_ONE = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)


def is_of_one_device(strategy: tf.distribute.Strategy) -> bool:
    """Return whether a strategy keeps one copy of each variable, and splits no batch."""
    if isinstance(strategy, tf.distribute.OneDeviceStrategy):
        return True
    return isinstance(strategy, _SEVERAL_OR_ONE) and strategy.num_replicas_in_sync == 1


class OneDevice:
    """See `perigee._backends.Replicas`: a single one."""

    count = processes = 1
    process = 0
    splits = False

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.name = type(strategy).__name__
        self._strategy = strategy

    def check(self) -> None:
        """See `Replicas.check`: it is one device."""

    def gathered(self, values: Sequence[int]) -> np.ndarray:
        """See `Peers.gathered`: there is one process."""
        return np.asarray([values], "int64")

    def is_loss_of_process(self, error: Exception) -> bool:
        """See `Peers.is_loss_of_process`: there is no other one."""
        del error
        return False

    def is_current(self) -> bool:
        """See `Replicas.is_current`."""
        return tf.distribute.get_strategy() is self._strategy

    def holds(self, variable: Any) -> bool:
        """See `Replicas.holds`: there is one copy, wherever it is."""
        del variable
        return True

    @contextmanager
    def scope(self) -> Generator[None]:
        """See `Replicas.scope`; in another scope, variables are created as that one says."""
        is_inside = tf.distribute.has_strategy() or _is_left.get()
        with (
            nullcontext() if is_inside else self._strategy.scope(),
            as_one_device(),
            tf.device(self._strategy.extended.worker_devices[0]),
        ):
            yield

    def run(
        self, function: Callable[[Batch, Tensor | None], Tree], batch: Batch, *, joins: bool = False
    ) -> Tree:
        """See `Replicas.run`."""
        del joins
        with self.scope():
            return function(batch, None)


def as_one_device(variables: Sequence[Any] = ()) -> AbstractContextManager[None]:
    """See `Backend.as_one_device`.

    In a scope, TensorFlow gives optimizers no replica to update, and an optimizer that was created
    in one scope rejects variables that were created in another, even if all are on one device. Code
    that `strategy.run` runs may not contain conditional updates. So the strategy is left, and only
    creates variables.
    """
    if _is_left.get() or not all(map(is_of_one_device, _strategies_around(variables))):
        return nullcontext()
    is_needed = tf.distribute.has_strategy() or are_of_a_strategy(variables)
    return _left(tf.distribute.get_strategy()) if is_needed else nullcontext()


def are_of_a_strategy(variables: Sequence[Any]) -> bool:
    """Return whether some variables were created in the scope of a strategy."""
    created_outside = _context_without_strategy().strategy.extended.variable_created_in_scope
    return not all(created_outside(variable.value) for variable in variables)


def _strategies_around(variables: Sequence[Any]) -> Iterator[tf.distribute.Strategy]:
    """Yield the current strategy, and those that keep copies of a variable."""
    if tf.distribute.has_strategy():
        yield tf.distribute.get_strategy()
    for variable in variables:
        if isinstance(variable.value, tf.distribute.DistributedValues):
            yield variable.value.distribute_strategy


@contextmanager
def _left(strategy: tf.distribute.Strategy) -> Generator[None]:
    def create(next_creator: Callable[..., Any], **arguments: Any) -> Any:
        with strategy.scope():
            return next_creator(**arguments)

    without = _context_without_strategy()
    token = _is_left.set(True)
    with ExitStack() as stack:
        stack.callback(_is_left.reset, token)
        stack.enter_context(without)
        stack.enter_context(tf.variable_creator_scope(create))
        for owner in (tf.distribute.StrategyExtended, type(without.strategy.extended)):
            stack.enter_context(listening(owner, "colocate_vars_with", _anywhere))
        stack.enter_context(listening(tf.distribute.StrategyExtended, "update", _update))
        stack.enter_context(listening(tf.distribute.Strategy, "run", _run))
        stack.enter_context(listening(tf.distribute.Strategy, "reduce", _reduce))
        yield


_is_left: ContextVar[bool] = ContextVar("perigee_strategy_is_left", default=False)


@functools.cache
def _context_without_strategy() -> Any:
    """Return the context of code outside any scope."""
    with tf.Graph().as_default():
        return tf.distribute.get_replica_context()


def _anywhere(original: Any, extended: Any, variable: Any) -> Talk:
    """Let an optimizer create slots for variables that were created in another scope."""
    yield Call(tf.device, (variable.device,), {})


def _update(
    original: Any,
    extended: Any,
    var: Any,
    fn: Callable[..., Any],
    args: Any = (),
    kwargs: Any = None,
    group: bool = True,
) -> Talk:
    """Let an optimizer update variables that were created in another scope."""
    yield Call(fn, (_copy(var), *args), kwargs or {})


def _copy(value: Any) -> Any:
    return value.values[0] if isinstance(value, tf.distribute.DistributedValues) else value


def _run(
    original: Any,
    strategy: Any,
    fn: Callable[..., Any],
    args: Any = (),
    kwargs: Any = None,
    *_: Any,
) -> Talk:
    """Let a step run its replica itself, as loops for strategies do."""
    yield Call(fn, args, kwargs or {}) if strategy.num_replicas_in_sync == 1 else None


def _reduce(original: Any, strategy: Any, reduce_op: Any, value: Any, axis: Any) -> Talk:
    """Let a step reduce the results of its replica."""
    if strategy.num_replicas_in_sync > 1:
        yield
    elif axis is None:
        yield Call(tf.identity, (_copy(value),), {})
    else:
        is_mean = tf.distribute.ReduceOp.MEAN.value in str(reduce_op).upper()
        yield Call(tf.reduce_mean if is_mean else tf.reduce_sum, (_copy(value), axis), {})
