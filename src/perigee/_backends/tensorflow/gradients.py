# pyright: basic
"""Gradients and conditional updates in TensorFlow."""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import tensorflow as tf

from perigee._backends._protocol import Differentiated
from perigee._backends.tensorflow.replicas import copies, is_replicated
from perigee._listening import Hear, Talk
from perigee._typing import Tensor, Tree

_is_own: ContextVar[bool] = ContextVar("perigee_is_own_tape", default=False)
"""Whether Perigee itself asks a tape for gradients."""


def differentiate(
    function: Callable[[], tuple[Tensor, Tree]], variables: Sequence[Any]
) -> tuple[Tree, list[Tensor | None], list[Any]]:
    """See `Backend.differentiate`.

    The outer tape only observes which trainable variables the function reads, so that a
    `tf.Variable` that Keras does not track is found. The inner one watches only the requested
    variables, so that no other part of the function is recorded.
    """
    raw = [_watched(variable) for variable in variables]
    with tf.GradientTape() as reads:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            for variable in raw:
                tape.watch(variable)
            scalar, rest = function()
        read = reads.watched_variables()
        reads.reset()
    gradients = [_merged(gradient) for gradient in _own_gradients(tape, scalar, raw)]
    return rest, gradients, list(read)


def _own_gradients(tape: tf.GradientTape, target: Tensor, sources: Sequence[Any]) -> list[Any]:
    token = _is_own.set(True)
    try:
        return tape.gradient(target, sources)
    finally:
        _is_own.reset(token)


@contextmanager
def tapes(hear: Hear, look: Callable[[Differentiated], None]) -> Generator[None]:
    """See `Backend.tapes`."""

    def gradient(
        original: Any, tape: Any, target: Any, sources: Any, *args: Any, **kw: Any
    ) -> Talk:
        found = yield
        if not _is_own.get():
            flat = tf.nest.flatten(sources), tf.nest.flatten(found)
            look(Differentiated(target, *flat, tape.watched_variables()))

    with hear(tf.GradientTape, "gradient", gradient):
        yield


def _watched(variable: Any) -> Any:
    """Return what a tape can watch: in cross-replica context, the copy that is read."""
    return variable.value if is_replicated() else copies(variable)[0]


def _merged(gradient: Any) -> Any:
    """Sum the duplicate rows of a sparse gradient, as for a token that occurs twice.

    Keras's optimizers and its clipping by norm square each part separately: Adam's second moment
    would differ from that on the other frameworks.
    """
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    rows, places = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, places, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)


def differentiate_inputs(
    function: Callable[..., Tensor], tensors: Sequence[Tensor]
) -> list[Tensor | None]:
    """See `Backend.differentiate_inputs`."""
    # A tensor passed twice would get the sum of both gradients twice.
    tensors = [tf.identity(tensor) for tensor in tensors]
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        for tensor in tensors:
            tape.watch(tensor)
        scalar = function(*tensors)
    return _own_gradients(tape, scalar, tensors)


def update_if(condition: Tensor, update: Callable[[], None], variables: Sequence[Any]) -> None:
    """See `Backend.update_if`; TensorFlow finds the written variables itself."""

    def run() -> Tensor:
        update()
        return tf.constant(True)

    condition = tf.convert_to_tensor(condition)
    if not is_replicated():
        tf.cond(condition, run, lambda: tf.constant(False))
        return

    def once_for_all(strategy: tf.distribute.Strategy, conditions: Any, runs: Any) -> None:
        # The condition is outside the replicas: inside one it could not contain code that waits for
        # the others, as an optimizer does.
        here = strategy.experimental_local_results(conditions)[0]

        def run_on_each() -> Tensor:
            strategy.run(lambda run: run(), args=(runs,))
            return tf.constant(True)

        tf.cond(here, run_on_each, lambda: tf.constant(False))

    tf.distribute.get_replica_context().merge_call(once_for_all, args=(condition, run))


def switch(index: Tensor, branches: Sequence[Callable[[], Sequence[Tensor]]]) -> list[Tensor]:
    """See `Backend.switch`; TensorFlow finds the written variables itself."""
    runs = [lambda branch=branch: list(branch()) for branch in branches]
    return list(tf.switch_case(tf.convert_to_tensor(index), runs))
