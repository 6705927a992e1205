"""PG332, DataEnded: data that is drawn once ended before the training did.

A generator object (`batches()`) and other iterators yield their batches once and cannot be
restarted. When they have no more, the training ends: callbacks are called, the history holds what
was trained, and `stop_reason` is `"data"`, or `"validation data"` where a validation has no batch
left. Pass the generator function (`batches`, without calling it), which is called again for each
pass, or request no more epochs and steps than there are batches.

How sure: a warning, shown by the data, which has no batch left.
"""

from __future__ import annotations

from perigee._events.clock import Clock
from perigee.diagnostics._finding import Finding


def check(what: str, kind: str, clock: Clock) -> list[Finding]:
    """Report that data ended and with it the training."""
    return [
        Finding(
            code="PG332",
            name="DataEnded",
            severity="warning",
            happened=f"The {what} ({kind}) ran out of batches, so the training ended after "
            f"{clock.step} steps, in epoch {max(1, clock.epoch + (clock.batch > 0))}.",
            expected="data that can be iterated over as often as needed.",
            fix="pass the generator function instead of a generator object, or request no more "
            "epochs and steps than the data holds.",
        )
    ]
