"""Keras's `fit`: as it comes, and with the best of its settings."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import Any

import keras

from benchmarks.contestants._contestant import Contestant, steps_an_epoch
from benchmarks.workloads import Workload

STEPS_PER_EXECUTION = (1, 8, 32, 128)
_UNCOMPILED_BUDGET_SECONDS = 5.0
"""For JAX without compiling, which is hundreds of times slower and only good for debugging."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One setting of `fit`, and what came of it.

    Attributes:
        steps_per_execution: As `compile` takes it.
        jit_compile: As `compile` takes it.
        microseconds: A step, in the better of two epochs after the first; `None` if abandoned.
        first_epoch_seconds: Compiling included.
        abandoned: Why it was given up; empty if it was not.
    """

    steps_per_execution: int
    jit_compile: bool
    microseconds: float | None
    first_epoch_seconds: float | None
    abandoned: str = ""

    @property
    def setting(self) -> dict[str, Any]:
        """What `compile` takes."""
        return {"steps_per_execution": self.steps_per_execution, "jit_compile": self.jit_compile}

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON."""
        return asdict(self)


class _Budget(keras.callbacks.Callback):
    """Stop the epoch in which the seconds run out."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds, self.is_spent = seconds, False
        self._began = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if time.perf_counter() - self._began > self.seconds:
            self.is_spent = True
            self.model.stop_training = True


def plain(workload: Workload, batch_size: int) -> Contestant:
    """Train by `fit` on arrays, with Keras's defaults."""
    return _fit("fit", "Keras fit", workload, batch_size, {})


def with_setting(workload: Workload, batch_size: int, best: Tried) -> Contestant:
    """Train by `fit` on arrays, with one of its settings."""
    steps, jit = best.steps_per_execution, best.jit_compile
    name = f"Keras fit, best setting: {steps} steps an execution, jit_compile={jit}"
    return _fit("fit_best", name, workload, batch_size, best.setting)


def search(
    workload: Workload,
    batch_size: int,
    budget_seconds: float,
    steps_per_execution: tuple[int, ...] = STEPS_PER_EXECUTION,
) -> list[Tried]:
    """Try every setting of `fit` for an epoch, and two more where that one was short enough.

    Args:
        workload: What is trained.
        batch_size: Rows a batch.
        budget_seconds: How long a first epoch may take, compiling included.
        steps_per_execution: Which to try.

    Returns:
        What was tried: nothing on torch, where one setting does not exist, and the other,
        `torch.compile`, takes minutes.
    """
    if keras.backend.backend() == "torch":
        return []
    tried: list[Tried] = []
    for jit in (False, True):
        budget = budget_seconds
        if keras.backend.backend() == "jax" and not jit:
            budget = min(budget, _UNCOMPILED_BUDGET_SECONDS)
        for steps in steps_per_execution:
            before = [t for t in tried if t.jit_compile == jit]
            if steps > steps_an_epoch(workload.rows, batch_size):
                tried.append(Tried(steps, jit, None, None, "more than the steps of an epoch"))
            elif before and before[0].abandoned:
                reason = "not tried: one step an execution was abandoned"
                tried.append(Tried(steps, jit, None, None, reason))
            else:
                tried.append(_try(workload, batch_size, steps, jit, budget))
    return tried


def _try(workload: Workload, batch_size: int, steps: int, jit: bool, budget: float) -> Tried:
    model = workload.fitted(steps_per_execution=steps, jit_compile=jit)
    arrays = _arguments(workload.data())
    watch = _Budget(budget)
    began = time.perf_counter()
    model.fit(*arrays, batch_size=batch_size, verbose=0, callbacks=[watch])
    first = time.perf_counter() - began
    if watch.is_spent:
        reason = f"its first epoch took more than {budget:g} s"
        return Tried(steps, jit, None, None, reason)
    epochs = []
    for _ in range(2):
        began = time.perf_counter()
        model.fit(*arrays, batch_size=batch_size, verbose=0)
        epochs.append(time.perf_counter() - began)
    micros = min(epochs) / steps_an_epoch(workload.rows, batch_size) * 1e6
    return Tried(steps, jit, micros, first)


def _fit(
    key: str, name: str, workload: Workload, batch_size: int, compiled: dict[str, Any]
) -> Contestant:
    model, arrays = workload.fitted(**compiled), _arguments(workload.data())

    def train(epochs: int) -> dict[str, float]:
        history = model.fit(*arrays, batch_size=batch_size, epochs=epochs, verbose=0)
        return {name: values[-1] for name, values in history.history.items()}

    return Contestant(key, name, train)


def _arguments(data: Any) -> tuple[Any, ...]:
    return data if isinstance(data, tuple) else (data,)
