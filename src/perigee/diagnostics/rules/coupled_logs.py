"""PG237, CoupledLogs: a logged value of part of a batch that is not a mean over rows.

With `accumulate`, and on several replicas of TensorFlow, what a step returns is averaged over
micro-batches or shares. That is the value of the whole batch if it is a mean over rows; a root, a
ratio, a maximum, a deviation, a correlation and the norm of the gradients are not. The training
itself is not affected. Return values for each row or `pg.mean(values, weights)` and compute the
rest from the logs, or hold a metric that has the numerator and the denominator.

How sure: a warning, shown by the logged value with the contents of groups of rows exchanged, where
the loss is a sum over rows.
"""

from __future__ import annotations

from perigee.diagnostics._finding import Finding
from perigee.diagnostics._rows import Rows


def check(rows: Rows) -> list[Finding]:
    """Report such values, where the objectives themselves are sums over rows."""
    if any(key.kind == "objective" for key in rows.meeting):
        return []
    names = tuple(dict.fromkeys(key.name for key in rows.meeting))
    if not names:
        return []
    return [
        Finding(
            code="PG237",
            name="CoupledLogs",
            severity="warning",
            happened=f"These are values of a {rows.parts}, and their mean is not the value of "
            "the whole batch:",
            items=names,
            expected="means over rows.",
            fix="return `pg.mean(values, weights)` or one value for each row, or update a metric "
            "with a numerator and a denominator.",
        )
    ]
