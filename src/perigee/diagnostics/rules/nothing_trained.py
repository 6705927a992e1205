"""PG112, NothingTrained: a `train_step` that trains nothing.

The Step holds trainable variables and an optimizer, but on the first batch `train_step` neither
applied the optimizer nor changed a weight: usually `minimize` was forgotten. The loss is still
logged, and does not fall. Not reported if a step counts or remembers something, in a variable or an
attribute, since an update may follow later; nor if all weights are frozen or there is no optimizer,
since such a step may only measure. So it is on torch for a step that calls `backward` and no
optimizer's `step`. With batches of several structures, all of them are checked.

How sure: a warning, shown by what the step wrote on the first batch: no weight, and no state of an
optimizer. It may be there to measure.
"""

from __future__ import annotations

from collections.abc import Sequence

from perigee._rehearsal.discovery import Rehearsal
from perigee.diagnostics._finding import Finding

_OF_MEASURING = ("metric", "seed", "non_trainable")
"""What a step may write that measures a batch without training on it."""


def check_rehearsals(rehearsals: Sequence[Rehearsal]) -> list[Finding]:
    """Examine what a step wrote.

    Args:
        rehearsals: Rehearsals of `train_step`, one for each batch structure.
    """
    if not rehearsals or not all(map(_measures_only, rehearsals)):
        return []
    tracked = rehearsals[-1].tracked
    trainable = [entry.name for entry in tracked.entries if entry.kind == "trainable"]
    is_backward = any(one.raw.is_kept for one in rehearsals)
    if not trainable or not (tracked.optimizers or is_backward):
        return []
    held = f" ({', '.join(tracked.optimizers)})" if tracked.optimizers else ""
    return [
        Finding(
            code="PG112",
            name="NothingTrained",
            severity="warning",
            happened=f"`train_step` changes none of {len(trainable)} trainable variables, and "
            f"applies no optimizer{held}:",
            items=tuple(trainable),
            expected="a step that updates what it trains.",
            fix="call `optimizer.step()` after `loss.backward()`."
            if is_backward
            else "compute the loss in a function and pass it to `self.minimize(objective, "
            "optimizer, model)`.",
        )
    ]


def _measures_only(rehearsal: Rehearsal) -> bool:
    """Return whether a step wrote nothing that could lead to an update, now or later."""
    if rehearsal.updated or rehearsal.volatile:
        return False
    kinds = {id(entry.variable): entry.kind for entry in rehearsal.tracked.entries}
    return all(kinds.get(id(v), "seed") in _OF_MEASURING for v in rehearsal.written)
