"""PG138, UnitsAlike: units of a layer that begin alike and get one gradient, so stay alike.

All units of a kernel begin with the same values, such as zeros, and the gradient of the first batch
is the same for all of them: the layer has one unit, however many it is given. Where all kernels of
zeros get a gradient of exactly 0, as both factors of a product do, they never move at all. A single
layer of zeros, as before a loss or at the end of a residual branch, is right: its units get
gradients of their own. Random initial values tell units apart.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_ROUNDED = 1e-5
"""Differences of gradients beside the largest one that are due to rounding."""


def check(evidence: Evidence) -> list[Finding]:
    """Compare the first values and the gradients of the units of each kernel."""
    alike: list[str] = []
    unmoved: list[str] = []
    are_some_moved = False
    for update in evidence.training.updates:
        if len(update.gradients) != len(update.variables) or update.is_conditional:
            continue
        for variable, gradient in zip(update.variables, update.gradients, strict=True):
            value = evidence.training.before.get(id(variable))
            if value is None or value.ndim < 2 or value.shape[-1] < 2 or _differ(value):
                continue
            is_zero = not value.any()
            said = f"{evidence.tracked.name_of(variable)}: {value.flat[0]:.3g} in all units"
            if gradient.any():
                are_some_moved |= is_zero
                if gradient.shape == value.shape and not _differ(gradient):
                    alike.append(said)
            elif is_zero:
                unmoved.append(said)
    if len(unmoved) > 1 and not are_some_moved:
        alike += unmoved
    if not alike:
        return []
    return [
        Finding(
            code="PG138",
            name="UnitsAlike",
            severity="warning",
            happened="Units begin alike, and the first gradient does not tell them apart:",
            items=tuple(alike),
            expected="units that differ from each other.",
            fix="use Keras's default initializers; zeros suit biases and single kernels.",
        )
    ]


def _differ(values: np.ndarray) -> bool:
    """Return whether the units, the last axis, have other values."""
    values = values.astype("float64")
    largest = float(np.abs(values).max()) if values.size else 0.0
    return not float(np.ptp(values, axis=-1).max()) <= _ROUNDED * largest
