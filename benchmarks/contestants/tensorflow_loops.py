"""Loops written by hand on TensorFlow."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from benchmarks.contestants._contestant import Contestant, steps_an_epoch
from benchmarks.workloads import Workload

STACKED = 64
"""Batches in a call of the loop over stacks."""


def dataset(workload: Workload, batch_size: int) -> tf.data.Dataset:
    """Return the tutorials' pipeline over one epoch."""
    data = tf.data.Dataset.from_tensor_slices(workload.data())
    return data.shuffle(workload.rows).batch(batch_size).prefetch(tf.data.AUTOTUNE)


def by_hand(
    workload: Workload, batch_size: int, after_first: Callable[[], None] | None = None
) -> Contestant:
    """Train as the tutorials do: a `tf.function` called once a batch.

    Args:
        workload: What is trained.
        batch_size: Rows a batch.
        after_first: Called after a first step.
    """
    step = workload.tensorflow_step()
    data = dataset(workload, batch_size * workload.micro_batches)

    @tf.function
    def train_step(batch: Any) -> None:
        step.record(step.update(batch))

    def train(epochs: int) -> dict[str, float]:
        logs = {}
        if after_first is not None:
            train_step(next(iter(data)))
            after_first()
        for _ in range(epochs):
            reset(step.metrics)
            for batch in data:
                train_step(batch)
            logs = read(step.metrics)
        return logs

    return Contestant("by_hand", "hand-written tf.function loop, tf.data", train)


def stacked(workload: Workload, batch_size: int) -> Contestant:
    """Train as the fastest loops do: the pipeline stacks batches, and XLA loops over each stack.

    The pipeline drops what fills no batch and goes on from epoch to epoch; an epoch has as many
    batches as with the others.
    """
    step = workload.tensorflow_step()
    rows = batch_size * workload.micro_batches
    steps = steps_an_epoch(workload.rows, batch_size) // workload.micro_batches
    whole, left = divmod(steps, STACKED)
    data = tf.data.Dataset.from_tensor_slices(workload.data()).shuffle(workload.rows).repeat()
    data = data.batch(rows, drop_remainder=True).batch(STACKED, drop_remainder=True)
    stacks = iter(data.prefetch(tf.data.AUTOTUNE))

    @tf.function(jit_compile=True)
    def loop(stack: Any, count: Any) -> None:
        def body(i: Any) -> tuple[Any]:
            step.record(step.update(tf.nest.map_structure(lambda array: array[i], stack)))
            return (i + 1,)

        tf.while_loop(lambda i: i < count, body, [0], parallel_iterations=1)

    def train(epochs: int) -> dict[str, float]:
        logs = {}
        for _ in range(epochs):
            reset(step.metrics)
            for count in [STACKED] * whole + [left] * bool(left):
                loop(next(stacks), tf.constant(count))
            logs = read(step.metrics)
        return logs

    return Contestant("stacked", f"hand-written XLA loop over {STACKED} stacked batches", train)


def floor(workload: Workload, batch_size: int) -> Contestant:
    """Train on one fixed batch in a graph loop: no data, no metrics, nothing from Python."""
    step = workload.tensorflow_step()
    count = steps_an_epoch(workload.rows, batch_size) // workload.micro_batches
    batch = tf.nest.map_structure(tf.constant, workload.data(batch_size * workload.micro_batches))

    @tf.function
    def loop(count: Any) -> None:
        def body(i: Any) -> tuple[Any]:
            step.update(batch)
            return (i + 1,)

        tf.while_loop(lambda i: i < count, body, [0], parallel_iterations=1)

    def train(epochs: int) -> dict[str, float]:
        for _ in range(epochs):
            loop(tf.constant(count))
        return {}

    note = "the least that this step can cost: one fixed batch in a graph loop, no metrics"
    return Contestant("floor", "floor", train, note)


def reset(metrics: list[keras.Metric]) -> None:
    """Reset at the start of an epoch."""
    for metric in metrics:
        metric.reset_state()


def read(metrics: list[keras.Metric]) -> dict[str, float]:
    """Read at the end of an epoch. It waits for the device."""
    return {metric.name: float(metric.result()) for metric in metrics}
