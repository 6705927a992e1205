"""Orbit's `StandardTrainer` with its while loop, or the same loop where Orbit is not at hand."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import tensorflow as tf

from benchmarks.contestants._contestant import Contestant, steps_an_epoch
from benchmarks.contestants.tensorflow_loops import read, reset
from benchmarks.workloads import Workload


def orbit(workload: Workload, batch_size: int, folder: Path | None = None) -> Contestant:
    """Train by Orbit, one loop an epoch, from an iterator that goes on from epoch to epoch.

    Args:
        workload: What is trained.
        batch_size: Rows a batch.
        folder: Where to find Orbit if it is not installed.
    """
    step = workload.tensorflow_step()
    data = tf.data.Dataset.from_tensor_slices(workload.data()).shuffle(workload.rows)
    data = data.batch(batch_size * workload.micro_batches).repeat().prefetch(tf.data.AUTOTUNE)
    count = steps_an_epoch(workload.rows, batch_size) // workload.micro_batches
    library = _orbit(folder)
    if library is None:
        loop = _graph_loop(step, data)
        name = "in-graph while loop over the tf.data iterator, as Orbit's StandardTrainer does"
    else:
        loop = _trainer(library, step, data).train
        name = "Orbit StandardTrainer, while loop, tf.data"

    def train(epochs: int) -> dict[str, float]:
        logs = {}
        for _ in range(epochs):
            logs = loop(tf.constant(count))
        return logs

    return Contestant("orbit", name, train)


def _orbit(folder: Path | None) -> Any:
    if folder is not None:
        sys.path.insert(0, str(folder))
    try:
        library = importlib.import_module("orbit")
    except ImportError:
        return None
    return library if hasattr(library, "StandardTrainer") else None  # others have that name too


def _trainer(library: Any, step: Any, data: tf.data.Dataset) -> Any:
    class Trainer(library.StandardTrainer):
        def train_loop_begin(self) -> None:
            reset(step.metrics)

        def train_step(self, iterator: Any) -> None:
            step.record(step.update(next(iterator)))

        def train_loop_end(self) -> dict[str, float]:
            return read(step.metrics)

    return Trainer(data)


def _graph_loop(step: Any, data: tf.data.Dataset) -> Any:
    iterator = iter(data)

    @tf.function
    def steps(iterator: Any, count: Any) -> None:
        for _ in tf.range(count):
            step.record(step.update(next(iterator)))

    def loop(count: Any) -> dict[str, float]:
        reset(step.metrics)
        steps(iterator, count)
        return read(step.metrics)

    return loop
