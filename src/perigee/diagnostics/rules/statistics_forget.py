"""PG462, StatisticsForget: running statistics that each batch replaces.

A layer of your own assigns in training what it uses in evaluation, as a running mean, but the new
value does not depend on the old one: it is that of the last batch alone. Assign a mixture of both,
`momentum * old + (1 - momentum) * new`.

How sure: a warning, shown by a step from other old values, which leads to the same new ones.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from perigee._step.state import nested_layers, preserved, restore, snapshot
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import statistics_of


def check(evidence: Evidence) -> list[Finding]:
    """Change the statistics before a step, and see whether they are the same after it.

    Those that are the same for another batch, too, or that no prediction depends on, are left
    alone; so is what only the first step sets.
    """
    running = statistics_of(evidence)
    if not running or len(evidence.batches) < 2 or not evidence.training.after:
        return []
    held = [v for v in evidence.tracked.variables if id(v) in evidence.training.after]
    with preserved(evidence.tracked.state):
        restore(held, [evidence.training.after[id(v)] for v in held])
        plain = evidence.training_on(evidence.batches[0])
        other = evidence.training_on(evidence.batches[1])
        restore(running, [_moved(value) for value in snapshot(running)])
        moved = evidence.training_on(evidence.batches[0])
        if plain is None or other is None or moved is None:
            return []
        forgetful = [
            v
            for v in running
            if _is_near(plain.after.get(id(v)), moved.after.get(id(v)))
            and not _is_near(plain.after.get(id(v)), other.after.get(id(v)))
        ]
    forgetful = [v for v in forgetful if _matters(evidence, v)]
    if not forgetful:
        return []
    return [
        Finding(
            code="PG462",
            name="StatisticsForget",
            severity="warning",
            happened="Each training step replaces these values by others that do not depend on "
            "them, and predictions use them:",
            items=tuple(evidence.tracked.names_of(forgetful)),
            expected="running statistics of many batches.",
            fix="assign `momentum * old + (1 - momentum) * new`, with a momentum such as 0.99.",
        )
    ]


def _matters(evidence: Evidence, variable: Any) -> bool:
    """Return whether what a model predicts depends on a variable."""
    for call in evidence.trained:
        if call.inputs is None or id(variable) not in _variables(call.layer):
            continue
        with preserved([variable]):
            before = evidence.outputs_now(call)
            restore([variable], [_moved(snapshot([variable])[0])])
            after = evidence.outputs_now(call)
        if any(not _is_near(a, b) for a, b in zip(before, after, strict=True)):
            return True
    return False


def _variables(layer: keras.Layer) -> set[int]:
    return {id(v) for inner in nested_layers(layer) for v in inner.variables}


def _moved(value: np.ndarray) -> np.ndarray:
    return (value * 1.5 + 0.5).astype(value.dtype)


def _is_near(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None or b is None:
        return False
    return bool(np.allclose(a, b, rtol=1e-5, atol=1e-7, equal_nan=True))
