"""PG205 over all known rows: labels for which the loss is not defined."""

from __future__ import annotations

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._tasks import tasks_of
from perigee.diagnostics.rules import labels


def check(evidence: Evidence) -> list[Finding]:
    """Check all rows of the labels that each loss was given.

    Raises:
        LabelRangeError: If one is out of range.
    """
    for task in tasks_of(evidence):
        if not task.is_inferred:
            labels.check_range(task.loss, task.true, task.pred.shape)
    return []
