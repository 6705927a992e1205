"""Weights that begin where nothing, or only one thing, can be learned, shown by their gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from perigee._step.state import preserved, restore
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._recording import Recording, Update

_MOVES = 3
"""Steps after which weights that are held back only at first have a gradient."""
_MOVE, _OTHER = 0.01, 0.1
_ALIKE = 1e-4


def stuck_at_zero(evidence: Evidence) -> list[Any]:
    """Return weights of zeros that get no gradient because of each other.

    One factor of zeros is fine, and so is a last layer: the first update moves it, and the next one
    all others. So weights are moved along their gradients first. Those that are left without one
    are given other values: only if they have a gradient then, their start is the reason.
    """
    waiting = _of_zeros(evidence.training, evidence)
    if not waiting:
        return []
    with preserved(evidence.tracked.state):
        latest = evidence.training
        for _ in range(_MOVES):
            if not _moved(latest):
                break
            latest = evidence.training_now()
            waiting = [v for v in waiting if not _has_gradient(latest, v)]
            if not waiting:
                return []
        draw = np.random.default_rng(0)
        values = [evidence.training.before[id(v)] for v in waiting]
        restore(waiting, [draw.normal(0, _OTHER, v.shape).astype(v.dtype) for v in values])
        latest = evidence.training_now()
        return [v for v in waiting if _has_gradient(latest, v)]


def alike(evidence: Evidence) -> list[Any]:
    """Return weights of layers whose units are all the same, and get the same gradient."""
    found: list[Any] = []
    for variable, gradient in _pairs(evidence.training.updates):
        value = evidence.training.before.get(id(variable))
        if value is None or value.ndim < 2 or value.shape[-1] < 2 or not value.any():
            continue
        if not np.isfinite(gradient).all():
            continue  # of which other rules tell
        largest = float(np.abs(gradient).max(initial=0))
        apart = np.abs(gradient - gradient[..., :1]).max(initial=0)
        if bool((value == value[..., :1]).all()) and largest > 0 and apart <= _ALIKE * largest:
            found.append(variable)
    return found


def _of_zeros(recording: Recording, evidence: Evidence) -> list[Any]:
    return [
        variable
        for variable, gradient in _pairs(recording.updates)
        if gradient.ndim > 1 and not gradient.any() and _is_zero(recording.before, variable)
    ]


def _is_zero(before: Any, variable: Any) -> bool:
    value = before.get(id(variable))
    return value is not None and not np.any(value)


def _pairs(updates: Sequence[Update]) -> list[tuple[Any, np.ndarray]]:
    return [pair for update in updates for pair in update.pairs]


def _moved(recording: Recording) -> bool:
    """Move all weights that have a gradient against it; false if there are none."""
    moved = [(v, g.astype("float64")) for v, g in _pairs(recording.updates) if np.any(g)]
    moved = [(v, g) for v, g in moved if np.isfinite(g).all()]
    values = [recording.before[id(v)] for v, _ in moved]
    new = [
        (value - _MOVE * g / np.abs(g).max()).astype(value.dtype)
        for value, (_, g) in zip(values, moved, strict=True)
    ]
    restore([v for v, _ in moved], new)
    return bool(moved)


def _has_gradient(recording: Recording, variable: Any) -> bool:
    return any(v is variable and bool(np.any(g)) for v, g in _pairs(recording.updates))
