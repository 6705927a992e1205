"""PG125, OptimizerState: an optimizer whose state changes other than by its updates.

Its counter, `iterations`, drives bias corrections and schedules: it grows by one per update. A
counter that stays or falls means that the optimizer is reset in each step, so no momentum builds
up; one that grows faster runs ahead of its schedule.

How sure: a warning, shown by the counter before and after the step, and by how often the optimizer
was applied.
"""

from __future__ import annotations

import numpy as np

from perigee._step.updates import counter_of
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Compare the counter with how often the optimizer was applied."""
    recording = evidence.training
    found: list[Finding] = []
    for path, optimizer in evidence.tracked.optimizers.items():
        counter = counter_of(optimizer)
        applied = [u for u in recording.updates if u.optimizer is optimizer]
        old, new = recording.before.get(id(counter)), recording.after.get(id(counter))
        if not applied or old is None or new is None:
            continue
        delta = int(np.asarray(new)) - int(np.asarray(old))
        if optimizer.gradient_accumulation_steps:
            continue
        is_behind = delta < len(applied) and not any(u.is_conditional for u in applied)
        if hasattr(optimizer, "inner_optimizer"):
            is_behind = False  # it skips steps that overflow
        if not is_behind and delta <= len(applied):
            continue
        found.append(
            Finding(
                code="PG125",
                name="OptimizerState",
                severity="warning",
                happened=f"The counter of {path!r} changes by {delta} in a step that applies it "
                f"{len(applied)} times.",
                expected="`iterations` grows by one each time that the optimizer is applied.",
                fix="create the optimizer once, outside the step, and do not assign its variables.",
            )
        )
    return found
