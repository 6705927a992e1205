"""PG232, MetricNotUpdated: a metric of the Step that neither `train_step` nor `test_step` updates.

It is not logged, or logs 0.0 for no data. Call its `update_state`, or remove it.

How sure: a warning, shown by the calls of `update_state` in both steps: there is none.
"""

from __future__ import annotations

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Find metrics that no step updates; Keras handles those of compiled models."""
    if evidence.is_of_keras:
        return []
    testing = evidence.testing
    measured = evidence.training.measured | (testing.measured if testing else set())
    for model in evidence.tracked.models.values():
        if getattr(model, "compiled", False):
            measured |= {id(metric) for metric in model.metrics}
    unmeasured = tuple(
        f"{path} ({type(metric).__name__})"
        for path, metric in evidence.tracked.metrics.items()
        if id(metric) not in measured
    )
    if not unmeasured:
        return []
    return [
        Finding(
            code="PG232",
            name="MetricNotUpdated",
            severity="warning",
            happened="The Step holds metrics that it does not update:",
            items=unmeasured,
            expected="a metric is updated in `train_step` or in `test_step`.",
            fix="call `update_state(y, y_pred)` on it, or remove it.",
        )
    ]
