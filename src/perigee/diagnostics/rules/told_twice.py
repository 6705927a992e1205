"""PG245, ToldTwice: a metric that counts, and is told the same batch twice.

A mean of equal values stays the same, a sum or a count doubles. Call `update_state` once for each
batch: in Keras's own steps `compute_metrics` updates what `compile` was given.

How sure: a warning, shown by the values of the metric after one batch. It may be meant.
"""

from __future__ import annotations

import numpy as np

from perigee._step.state import preserved
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Find metrics that a step updates several times with equal values of the whole batch."""
    found: list[str] = []
    with preserved(evidence.tracked.state):
        for path, metric in evidence.tracked.metrics.items():
            told = evidence.training.told.get(id(metric), [])
            if len(told) < 2 or not evidence.size:
                continue
            first = told[0]
            if not first or any(value.shape[:1] != (evidence.size,) for value in first):
                continue
            if not all(_are_equal(first, other) for other in told[1:]):
                continue
            metric.reset_state()
            metric.update_state(*first)
            once = np.asarray(metric.result(), "float64")
            metric.update_state(*first)
            if not np.allclose(once, np.asarray(metric.result(), "float64"), equal_nan=True):
                found.append(f"{path} ({type(metric).__name__}), {len(told)} times")
    if not found:
        return []
    return [
        Finding(
            code="PG245",
            name="ToldTwice",
            severity="warning",
            happened="`train_step` updates these metrics several times with the same values:",
            items=tuple(found),
            expected="a metric that is told each batch once.",
            fix="call `update_state` once for each batch.",
        )
    ]


def _are_equal(some: list[np.ndarray], others: list[np.ndarray]) -> bool:
    return len(some) == len(others) and all(
        np.array_equal(one, other) for one, other in zip(some, others, strict=True)
    )
