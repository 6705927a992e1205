"""PG449, EagerFunction: a hand-written function that runs op by op, since it reads values.

A function without `@tf.function` that takes values of tensors (`.numpy()`, `get_weights()`,
`convert_to_numpy`) cannot be compiled. `fit` runs it as its own loop does, one operation after
another, which takes several times as long as compiled steps. Return tensors, which are logged, or
update metrics, and leave these calls out.

How sure: a hint, shown by the code of the functions, in which such a method is named.
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
            happened=f"`{function}` takes values of tensors (`.numpy()`, `get_weights()`), which "
            "compiled code cannot do, so its operations run one by one.",
            expected="functions that return tensors, which can be compiled.",
            fix="return the tensors instead of their values; or keep it, and pass "
            '`execution="eager"`.',
        )
    ]
