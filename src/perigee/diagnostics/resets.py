"""PG234, MetricNotReset: a metric that goes on after `reset_state`.

Each epoch and each evaluation begins with `reset_state`. A metric that overrides it without
setting all its variables back counts earlier epochs in, and says less and less of the last one.
"""

from __future__ import annotations

import numpy as np

from perigee._step.state import put_back, snapshot
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Let each metric go on from two states, reset it, and compare."""
    kept: list[str] = []
    with put_back(evidence.tracked.variables):
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
            happened="`reset_state` leaves values of these metrics as they are:",
            items=tuple(kept),
            expected="a metric that begins anew with each epoch and each evaluation.",
            fix="set all variables back in `reset_state`, or do not override it.",
        )
    ]
