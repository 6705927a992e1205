"""Loops written by hand on JAX."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from benchmarks.contestants._contestant import Contestant, steps_an_epoch
from benchmarks.workloads import Workload


def by_hand(
    workload: Workload, batch_size: int, after_first: Callable[[], None] | None = None
) -> Contestant:
    """Train as the guides do: a jitted step, called once a batch of rows taken by NumPy.

    Args:
        workload: What is trained.
        batch_size: Rows a batch.
        after_first: Called after a first step.
    """
    step, data = workload.jax_step(), workload.data()
    size = batch_size * workload.micro_batches
    update = jax.jit(step.update, donate_argnums=0)
    state = step.state()

    def train(epochs: int) -> dict[str, float]:
        nonlocal state
        logs = {}
        if after_first is not None:
            state = update(state, jax.tree.map(lambda leaf: leaf[:size], data))
            jax.block_until_ready(state)
            after_first()
        for _ in range(epochs):
            state = reset(step, state)
            order = np.random.permutation(workload.rows)
            for start in range(0, workload.rows, size):
                chosen = order[start : start + size]
                state = update(state, jax.tree.map(lambda leaf, rows=chosen: leaf[rows], data))
            logs = read(step, state)
        return logs

    return Contestant("by_hand", "hand-written jitted step, arrays", train)


def scan(workload: Workload, batch_size: int) -> Contestant:
    """Train an epoch in one call: `lax.scan` over rows gathered on the device.

    A ragged last batch is a call of its own.
    """
    step, data = workload.jax_step(), jax.tree.map(jax.numpy.asarray, workload.data())
    size = batch_size * workload.micro_batches
    whole = workload.rows // size * size

    def update(state: Any, rows: Any, data: Any) -> Any:
        return step.update(state, jax.tree.map(lambda leaf: leaf[rows], data))

    def epoch(state: Any, order: Any, data: Any) -> Any:
        return jax.lax.scan(lambda s, rows: (update(s, rows, data), None), state, order)[0]

    update_one = jax.jit(update, donate_argnums=0)
    update_all = jax.jit(epoch, donate_argnums=0)
    state = step.state()

    def train(epochs: int) -> dict[str, float]:
        nonlocal state
        logs = {}
        for _ in range(epochs):
            state = reset(step, state)
            order = np.random.permutation(workload.rows)
            state = update_all(state, order[:whole].reshape(-1, size), data)
            if whole < workload.rows:
                state = update_one(state, order[whole:], data)
            logs = read(step, state)
        return logs

    return Contestant("scan", "hand-written lax.scan over an epoch, arrays", train)


def floor(workload: Workload, batch_size: int) -> Contestant:
    """Train on one fixed batch, in a compiled loop or one call a step, whichever is faster.

    XLA's loops make convolutions on CPUs many times slower, and then a loop is no floor.
    """
    step = workload.jax_step()
    count = steps_an_epoch(workload.rows, batch_size) // workload.micro_batches
    batch = workload.data(batch_size * workload.micro_batches)

    def update(state: Any, batch: Any) -> Any:
        return step.update(state, batch, records=False)

    def loop(state: Any, batch: Any, count: Any) -> Any:
        return jax.lax.fori_loop(0, count, lambda _, state: update(state, batch), state)

    one, many = jax.jit(update, donate_argnums=0), jax.jit(loop, donate_argnums=0)
    state = step.state()
    is_loop_faster: bool | None = None

    def one_by_one(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state = one(state, batch)
        jax.block_until_ready(state)

    def at_once(count: int) -> None:
        nonlocal state
        state = many(state, batch, count)
        jax.block_until_ready(state)

    def train(epochs: int) -> dict[str, float]:
        nonlocal is_loop_faster
        if is_loop_faster is None:
            is_loop_faster = _seconds(at_once, 8) < _seconds(one_by_one, 8)
        for _ in range(epochs):
            (at_once if is_loop_faster else one_by_one)(count)
        return {}

    note = "the least that this step can cost: one fixed batch, no metrics"
    how = {True: "in a compiled loop", False: "one call a step, faster than a compiled loop"}
    return Contestant("floor", "floor", train, note, plan=lambda: how.get(is_loop_faster, ""))


def _seconds(run: Callable[[int], None], count: int) -> float:
    run(count)  # compiles
    began = time.perf_counter()
    run(count)
    return time.perf_counter() - began


def reset(step: Any, state: Any) -> Any:
    """Return the state with metrics as at the start of an epoch."""
    zeros = [[np.zeros(v.shape, v.dtype) for v in metric.variables] for metric in step.metrics]
    return {**state, "metrics": zeros}


def read(step: Any, state: Any) -> dict[str, float]:
    """Read the metrics at the end of an epoch. It waits for the device."""
    return {
        metric.name: float(metric.stateless_result(variables))
        for metric, variables in zip(step.metrics, state["metrics"], strict=True)
    }
