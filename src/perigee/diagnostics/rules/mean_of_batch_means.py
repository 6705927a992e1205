"""PG231, MeanOfBatchMeans: a `Mean` updated with batch means, without their sizes.

The last batch of an epoch is often smaller, and its examples then count more. Pass the size as
`sample_weight`, or return the value from the step: Perigee averages it exactly. If all batches have
the same size nothing is lost, so `check` gives a hint. A training warns if the value of an epoch
differs from the exact one, and if the best checkpoint is chosen by such a mean.

How sure: a hint in `check`, shown by what the metric was given: one number for a batch. It is a
warning in a training that shows another value than the exact one, or chooses the best checkpoint by
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from perigee._step.batch_means import BatchMean
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
    return [_found("hint", "Means are given one number per batch, without its size:", paths)]


def check_pass(different: Sequence[BatchMean]) -> list[Finding]:
    """Report means of a pass in which examples of a smaller batch counted more."""
    if not different:
        return []
    happened = (
        "Batches of different sizes count the same in these means, which were given one number per "
        "batch:"
    )
    items = tuple(
        f"{mean.path} is {mean.value:.6g}; the mean over the examples is {mean.exact:.6g}"
        for mean in different
    )
    return [_found("warning", happened, items)]


def check_best(best: str, names: Sequence[str]) -> list[Finding]:
    """Report that the best checkpoint is chosen by a mean of batch means."""
    if best not in names:
        return []
    happened = (
        f"The best checkpoint is chosen by {best!r}, which is given one number per batch, without "
        "its size."
    )
    return [_found("warning", happened)]


def _found(
    severity: Literal["hint", "warning"], happened: str, items: tuple[str, ...] = ()
) -> Finding:
    return Finding(
        code="PG231",
        name="MeanOfBatchMeans",
        severity=severity,
        happened=happened,
        items=items,
        expected="a mean in which each example counts the same.",
        fix="return the value from the step, or pass `sample_weight=` the size of the batch.",
    )
