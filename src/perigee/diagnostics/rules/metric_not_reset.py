"""PG234, MetricNotReset: a metric that keeps values over `reset_state`.

Each epoch and each evaluation begins with `reset_state`. A metric that overrides it without
resetting all its variables includes earlier epochs, and reflects the last one less and less.

How sure: a warning, shown by the values of the metric after `reset_state`, from two different
states.
"""

from __future__ import annotations

import numpy as np

from perigee._step.state import preserved, snapshot
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Reset each metric from two different states, and compare."""
    kept: list[str] = []
    with preserved(evidence.tracked.state):
        for path, metric in evidence.tracked.metrics.items():
            variables = list(metric.variables)
            if not variables or not getattr(metric, "built", True):
                continue
            afterwards = []
            for shift in (1, 3):
                for variable in variables:
                    value = np.asarray(snapshot([variable])[0])
                    variable.assign((value + shift).astype(value.dtype))
                metric.reset_state()
                afterwards.append(snapshot(variables))
            pairs = zip(*afterwards, strict=True)
            if any(one.tobytes() != two.tobytes() for one, two in pairs):
                kept.append(f"{path} ({type(metric).__name__})")
    if not kept:
        return []
    return [
        Finding(
            code="PG234",
            name="MetricNotReset",
            severity="warning",
            happened="`reset_state` does not reset all values of these metrics:",
            items=tuple(kept),
            expected="a metric that is reset for each epoch and each evaluation.",
            fix="reset all variables in `reset_state`, or do not override it.",
        )
    ]
