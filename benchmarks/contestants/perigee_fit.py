"""Perigee: `fit` with its defaults, its display off."""

from __future__ import annotations

from typing import Any

import perigee as pg
from benchmarks.contestants._contestant import Contestant
from benchmarks.workloads import Workload


def on_arrays(workload: Workload, batch_size: int) -> Contestant:
    """Train from NumPy arrays, shuffled each epoch."""
    return _fit("perigee_arrays", "Perigee, arrays", workload, workload.data(), batch_size)


def on_tf_data(workload: Workload, batch_size: int) -> Contestant:
    """Train from a `tf.data.Dataset`, shuffled each epoch."""
    from benchmarks.contestants.tensorflow_loops import dataset

    data = dataset(workload, batch_size)
    return _fit("perigee_tf_data", "Perigee, tf.data", workload, data, None)


def _fit(key: str, name: str, workload: Workload, data: Any, batch_size: int | None) -> Contestant:
    step = workload.step()
    plan = ""

    def train(epochs: int) -> dict[str, float]:
        nonlocal plan
        history = pg.fit(
            step,
            data,
            epochs=epochs,
            batch_size=batch_size,
            accumulate=workload.micro_batches,
            progress="off",
        )
        plan = str(getattr(history, "plan", None) or "")
        return {name: values[-1] for name, values in history.history.items()}

    return Contestant(key, name, train, plan=lambda: plan)
