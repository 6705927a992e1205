"""Perigee: `fit` with its defaults, its display off."""

from __future__ import annotations

from typing import Any

import perigee as pg
from benchmarks.contestants._contestant import Contestant, steps_an_epoch
from benchmarks.workloads import Workload


def on_arrays(workload: Workload, batch_size: int) -> Contestant:
    """Train from NumPy arrays, shuffled each epoch."""
    return _fit("perigee_arrays", "Perigee, arrays", workload, workload.data(), batch_size)


def on_tf_data(workload: Workload, batch_size: int) -> Contestant:
    """Train from the `tf.data.Dataset` that Orbit has: one that goes on from epoch to epoch."""
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(workload.data()).shuffle(workload.rows)
    data = data.batch(batch_size).repeat().prefetch(tf.data.AUTOTUNE)
    steps = steps_an_epoch(workload.rows, batch_size)
    return _fit("perigee_tf_data", "Perigee, tf.data", workload, data, None, steps)


def _fit(
    key: str,
    name: str,
    workload: Workload,
    data: Any,
    batch_size: int | None,
    steps_per_epoch: int | None = None,
) -> Contestant:
    step = workload.step()
    plan = ""

    def train(epochs: int) -> dict[str, float]:
        nonlocal plan
        history = pg.fit(
            step,
            data,
            epochs=epochs,
            batch_size=batch_size,
            steps_per_epoch=steps_per_epoch,
            accumulate=workload.micro_batches,
            progress="off",
        )
        plan = str(getattr(history, "plan", None) or "")
        return {name: values[-1] for name, values in history.history.items()}

    return Contestant(key, name, train, plan=lambda: plan)
