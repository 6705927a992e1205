"""PG231, MeanOfBatchMeans: a `Mean` updated with batch means, without their sizes.

The last batch of an epoch is often smaller, and its examples then count more. Pass the size as
`sample_weight`, or return the value from the step: Perigee averages it exactly. If all batches have
the same size nothing is lost, so `check` gives a hint. A training warns if the value of an epoch
differs from the exact one, and if the best checkpoint is chosen by such a mean.
"""

from __future__ import annotations

from collections.abc import Sequence

from perigee._step.batch_means import BatchMean
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_EXPECTED = "a mean in which each example counts the same."
_FIX = "return the value from the step, or pass `sample_weight=` the size of the batch."


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
            expected=_EXPECTED,
            fix=_FIX,
        )
    ]


def check_pass(different: Sequence[BatchMean]) -> list[Finding]:
    """Report means of a pass in which examples of a smaller batch counted more."""
    if not different:
        return []
    return [
        Finding(
            code="PG231",
            name="MeanOfBatchMeans",
            severity="warning",
            happened="Batches of different sizes count the same in these means, which were given "
            "one number per batch:",
            items=tuple(
                f"{mean.path} is {mean.value:.6g}; the mean over the examples is {mean.exact:.6g}"
                for mean in different
            ),
            expected=_EXPECTED,
            fix=_FIX,
        )
    ]


def check_best(best: str, names: Sequence[str]) -> list[Finding]:
    """Report that the best checkpoint is chosen by a mean of batch means."""
    if best not in names:
        return []
    return [
        Finding(
            code="PG231",
            name="MeanOfBatchMeans",
            severity="warning",
            happened=f"The best checkpoint is chosen by {best!r}, which is given one number per "
            "batch, without its size.",
            expected=_EXPECTED,
            fix=_FIX,
        )
    ]
