"""PG104 and PG105 for raw updates: variables or optimizers that a step updates twice.

For a Step that calls `minimize` these are errors. A step that applies its optimizers itself may
mean it, and trains as it is written.
"""

from __future__ import annotations

from collections.abc import Sequence

from perigee._errors import OptimizerSetError, SharedVariableError
from perigee._rehearsal.discovery import Rehearsal
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check_shared(evidence: Evidence) -> list[Finding]:
    """Find variables that two optimizers update."""
    return check_shared_in(evidence.rehearsals)


def check_apart(evidence: Evidence) -> list[Finding]:
    """Find optimizers that are applied to different sets of variables."""
    return check_apart_in(evidence.rehearsals)


def check_shared_in(rehearsals: Sequence[Rehearsal]) -> list[Finding]:
    """Find variables that two optimizers update.

    Args:
        rehearsals: Rehearsals of `train_step`, one for each batch structure.
    """
    found: dict[tuple[str, ...], Finding] = {}
    for one in rehearsals:
        for twice in one.raw.shared:
            names = one.tracked.names_of(twice.variables[0])
            found[twice.paths] = _warning(SharedVariableError(names, *twice.paths))
    return list(found.values())


def check_apart_in(rehearsals: Sequence[Rehearsal]) -> list[Finding]:
    """Find optimizers that are applied to different sets of variables.

    Only those whose updates depend on how often they were applied.

    Args:
        rehearsals: Rehearsals of `train_step`, one for each batch structure.
    """
    found: dict[tuple[str, ...], Finding] = {}
    for one in rehearsals:
        for twice in one.raw.apart:
            sets = [one.tracked.names_of(variables) for variables in twice.variables]
            found[twice.paths] = _warning(OptimizerSetError(*twice.paths, *sets))
    return list(found.values())


def _warning(error: SharedVariableError | OptimizerSetError) -> Finding:
    return Finding(
        code=error.code,
        name=type(error).__name__,
        severity="warning",
        happened=error.happened,
        items=error.items,
        expected=error.expected,
        fix=error.fix,
    )
