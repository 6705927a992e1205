"""PG231, MeanOfBatchMeans: a `Mean` updated with batch means, without their sizes.

The last batch of an epoch is often smaller, and its examples then count more. Pass the size as
`sample_weight`, or return the value from the step: Perigee averages it exactly. If all batches have
the same size nothing is lost, so this is a hint.
"""

from __future__ import annotations

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Find means that were given single numbers; Keras handles those of compiled models."""
    if evidence.is_of_keras:
        return []
    testing = evidence.testing
    averaged = evidence.training.averaged | (testing.averaged if testing else {})
    paths = tuple(
        path for path, metric in evidence.tracked.metrics.items() if id(metric) in averaged
    )
    if not paths:
        return []
    return [
        Finding(
            code="PG231",
            name="MeanOfBatchMeans",
            severity="hint",
            happened="Means are given one number per batch, without its size:",
            items=paths,
            expected="a mean in which each example counts the same.",
            fix="return the value from the step, or pass `sample_weight=` the size of the batch.",
        )
    ]
