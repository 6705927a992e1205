"""PG714, InputScale: in trials, the program learns once its inputs are standardized.

Checked at `level="full"`, where inputs are far from a mean of 0 and a standard deviation of 1: the
program is trained for some hundred steps as it is and on standardized inputs, from the same start;
see PG713. Columns are standardized each by itself, and all values of images together.

How sure: a warning, shown by losses on rows that were not trained on, from two starts; an error if
the program as it is becomes NaN or infinite there.
"""

from __future__ import annotations

from perigee.diagnostics._comparison import Comparison, told
from perigee.diagnostics._finding import Finding


def check(trials: Comparison) -> list[Finding]:
    """Report the scale of the inputs as the cause."""
    cause = trials.cause
    if cause is None or cause.kind != "scale":
        return []
    return [
        Finding(
            code="PG714",
            name="InputScale",
            severity=trials.severity,
            happened=told("With standardized inputs", cause),
            items=(f"inputs: {trials.unscaled}",),
            expected="inputs with a mean near 0 and a standard deviation near 1.",
            fix="begin the model with `keras.layers.Normalization`, or `Rescaling` for images.",
        )
    ]
