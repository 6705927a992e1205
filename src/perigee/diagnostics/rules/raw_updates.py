"""PG104 and PG105 for raw updates: variables or optimizers that a step updates twice.

For a Step that calls `minimize` these are errors. A step that applies its optimizers itself may
mean it, and trains as it is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from perigee._errors import OptimizerSetError, SharedVariableError
from perigee._rehearsal.discovery import Rehearsal
from perigee.diagnostics._finding import Finding, of_error


def check_shared(rehearsals: Sequence[Rehearsal]) -> list[Finding]:
    """Find variables that two optimizers update.

    Args:
        rehearsals: Rehearsals of `train_step`, one for each batch structure.
    """
    found: dict[tuple[str, ...], Finding] = {}
    for one in rehearsals:
        for twice in one.raw.shared:
            names = one.tracked.names_of(twice.variables[0])
            found[twice.paths] = of_error(SharedVariableError(names, *twice.paths), "warning")
    return list(found.values())


def check_apart(rehearsals: Sequence[Rehearsal]) -> list[Finding]:
    """Find optimizers that are applied to different sets of variables.

    Only those whose updates depend on how often they were applied.

    Args:
        rehearsals: Rehearsals of `train_step`, one for each batch structure.
    """
    found: dict[tuple[str, ...], Finding] = {}
    for one in rehearsals:
        for twice in one.raw.apart:
            sets = [one.tracked.names_of(variables) for variables in twice.variables]
            found[twice.paths] = of_error(OptimizerSetError(*twice.paths, *sets), "warning")
    return list(found.values())
