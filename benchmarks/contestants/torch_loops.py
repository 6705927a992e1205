"""Loops written by hand on torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import torch

from benchmarks.contestants._contestant import Contestant
from benchmarks.workloads import Workload


def by_hand(
    workload: Workload, batch_size: int, after_first: Callable[[], None] | None = None
) -> Contestant:
    """Train as the guides do, from tensors that lie on the device.

    Args:
        workload: What is trained.
        batch_size: Rows a batch.
        after_first: Called after a first step.
    """
    step = workload.torch_step()
    data = keras.tree.map_structure(keras.ops.convert_to_tensor, workload.data())
    size = batch_size * workload.micro_batches

    def batch_of(rows: Any) -> Any:
        return keras.tree.map_structure(lambda tensor: tensor[rows], data)

    def train(epochs: int) -> dict[str, float]:
        logs = {}
        if after_first is not None:
            step.record(step.update(batch_of(slice(size))))
            after_first()
        for _ in range(epochs):
            for metric in step.metrics:
                metric.reset_state()
            order = torch.randperm(workload.rows, device=keras.tree.flatten(data)[0].device)
            for rows in order.split(size):
                step.record(step.update(batch_of(rows)))
            # Reading waits for the device.
            logs = {metric.name: float(metric.result()) for metric in step.metrics}
        return logs

    return Contestant("by_hand", "hand-written loop, tensors on the device", train)
