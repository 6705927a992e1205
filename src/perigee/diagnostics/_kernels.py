"""Gradients of kernels, for rules about how they change from layer to layer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from perigee.diagnostics._evidence import Evidence


@dataclass(frozen=True, slots=True)
class Kernel:
    """A variable of two or more axes, and its gradient.

    Attributes:
        name: Its path.
        size: Root of the mean square of the gradient.
    """

    name: str
    size: float


def kernels(evidence: Evidence) -> list[list[Kernel]]:
    """Return, for each update, the kernels in the order of their layers."""
    found: list[list[Kernel]] = []
    for update in evidence.training.updates:
        if len(update.gradients) != len(update.variables):
            continue
        found.append(
            [
                Kernel(evidence.tracked.name_of(variable), _size(gradient))
                for variable, gradient in zip(update.variables, update.gradients, strict=True)
                if gradient.ndim > 1 and "embedding" not in variable.path
            ]
        )
    return found


def _size(gradient: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(gradient.astype("float64")))))
