"""PG449, EagerFunction: a hand-written function that runs op by op, since it reads values.

A function without `@tf.function` that calls `.numpy()` on a tensor cannot be compiled. `fit` runs
it as its own loop does, one operation after another, which takes several times as long as compiled
steps. Return tensors, which are logged, or update metrics, and leave `.numpy()` out.

How sure: a hint, shown by the rehearsal, in which `.numpy()` was called.
"""

from __future__ import annotations

from perigee.diagnostics._finding import Finding


def check(function: str | None) -> list[Finding]:
    """Report a function that runs eagerly though nothing was requested.

    Args:
        function: Its name; `None` if there is no such function.
    """
    if function is None:
        return []
    return [
        Finding(
            code="PG449",
            name="EagerFunction",
            severity="hint",
            happened=f"`{function}` calls `.numpy()`, which compiled code cannot do, so its "
            "operations run one by one.",
            expected="functions that return tensors, which can be compiled.",
            fix="return the tensors instead of their values; or keep it, and pass "
            '`execution="eager"`.',
        )
    ]
