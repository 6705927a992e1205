"""PG447, HookLate: a hook that changes the Step, and is called only after whole blocks of steps.

`Hook.every = None` calls `on_steps` whenever some steps are done. That may be hundreds at once, as
many as this machine runs in one call, so a learning rate that is set there holds for all of the
next block. With a cadence, blocks end where the hook is due.

How sure: a warning, shown by the variables before and after the call of the hook.
"""

from __future__ import annotations

from collections.abc import Sequence

from perigee.diagnostics._finding import Finding


def check(hook: str, steps: int, variables: Sequence[str]) -> list[Finding]:
    """Report a hook that has set variables when called for several steps at once."""
    return [
        Finding(
            code="PG447",
            name="HookLate",
            severity="warning",
            happened=f"`{hook}.on_steps` was called for {steps} steps at once, and set "
            f"{len(variables)} variables of the Step:",
            items=tuple(variables),
            expected="what a hook sets is set at steps that do not depend on the machine.",
            fix=f"write `every = pg.Every(steps=1)` in `{hook}`, or another cadence.",
        )
    ]
