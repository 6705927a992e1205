"""PG135, DecayTwice: weights decayed by both the optimizer and a penalty.

AdamW and `weight_decay=` make all weights smaller at each update; a `kernel_regularizer` does the
same through the loss. Usually one of them is enough, so this is a hint.

How sure: a hint, read from the optimizer and the regularizers. Both may be meant.
"""

from __future__ import annotations

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Find variables with a penalty under an optimizer with decay."""
    found: dict[str, Finding] = {}
    for update in evidence.training.updates:
        optimizer = update.inner
        if not optimizer.weight_decay or not evidence.training.adds_losses:
            continue
        both = [v for v in update.variables if getattr(v, "regularizer", None) is not None]
        if not both:
            continue
        path = evidence.tracked.path_of(update.optimizer)
        found[path] = Finding(
            code="PG135",
            name="DecayTwice",
            severity="hint",
            happened=f"{path!r} has a `weight_decay` of {optimizer.weight_decay:g} and updates "
            f"{len(both)} variables that have a penalty as well:",
            items=tuple(evidence.tracked.names_of(both)),
            expected="only one of the two.",
            fix="remove the regularizers, or use an optimizer without decay.",
        )
    return list(found.values())
