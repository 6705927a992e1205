"""PG101 and PG102 for raw updates: layers that are never called, or that nothing holds.

For a Step that calls `minimize` these are errors. Keras warns at most, and a step that filters out
gradients that are `None` says nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from perigee._errors import UntrackedVariablesError
from perigee._rehearsal.discovery import Rehearsal
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding


def check(evidence: Evidence) -> list[Finding]:
    """Find layers that are called but not held, and variables that no gradient reaches.

    Raises:
        UntrackedVariablesError: If a layer inside a model is called but not held.
    """
    updated = evidence.updated
    strange = [v for key, v in evidence.training.strange.items() if key not in updated]
    if strange:
        raise UntrackedVariablesError([f"{v.path} {tuple(v.shape)}" for v in strange])
    unreached = _unreached(evidence.rehearsals)
    for update in evidence.training.updates:
        zero = {id(v): v for v, gradient in update.pairs if not np.any(gradient)}
        unreached |= {key: v for key, v in zero.items() if key in _of_silent_layers(evidence)}
    return [*_idle(evidence.rehearsals), *_finding(_names(unreached, evidence.rehearsals))]


def check_rehearsals(rehearsals: Sequence[Rehearsal]) -> list[Finding]:
    """Find variables that no gradient reaches, if a step applies its optimizers itself.

    Args:
        rehearsals: Rehearsals of `train_step`, one for each batch structure.
    """
    unreached = _unreached(rehearsals)
    return [*_idle(rehearsals), *(_finding(_names(unreached, rehearsals)) if unreached else [])]


def _names(found: Mapping[int, Any], rehearsals: Sequence[Rehearsal]) -> list[str]:
    known = {key: name for one in rehearsals for key, name in one.raw.names.items()}
    name_of = rehearsals[-1].tracked.name_of
    return [known.get(key) or name_of(variable) for key, variable in found.items()]


def _idle(rehearsals: Sequence[Rehearsal]) -> list[Finding]:
    """Find optimizers of the framework itself that make an update without any gradient."""
    idle = {path for one in rehearsals for path in one.raw.idle}
    return [
        Finding(
            code="PG101",
            name="UnusedVariablesError",
            severity="warning",
            happened=f"`{path}.step()` changes nothing: none of its parameters has a gradient.",
            expected="gradients in the parameters that an optimizer updates.",
            fix=f"call `{path}.zero_grad()` and then `loss.backward()` before it.",
        )
        for path in sorted(idle)
    ]


def _unreached(rehearsals: Sequence[Rehearsal]) -> dict[int, Any]:
    """Return the variables that no gradient reaches on batches of any structure, by id."""
    found: dict[int, Any] = {}
    for one in rehearsals:
        found |= {id(v): v for v in one.raw.unreached}
    for one in rehearsals:
        without = {id(v) for v in one.raw.unreached}
        updated = {id(v) for variables in one.updated.values() for v in variables}
        found = {key: v for key, v in found.items() if key in without or key not in updated}
    return found


def _finding(unreached: Sequence[str]) -> list[Finding]:
    if not unreached:
        return []
    return [
        Finding(
            code="PG101",
            name="UnusedVariablesError",
            severity="warning",
            happened=f"No gradient reaches {len(unreached)} trainable variables:",
            items=tuple(unreached),
            expected="the loss depends on each variable that is trained.",
            fix="call the layers that they belong to, or set `trainable = False` on them.",
        )
    ]


def _of_silent_layers(evidence: Evidence) -> set[int]:
    """Return the variables, by id, of innermost layers that were not called."""
    called = evidence.training.called
    in_called = {
        id(v) for layer in evidence.trained_layers if id(layer) in called for v in _own(layer)
    }
    return {
        id(v) for layer in evidence.trained_layers if id(layer) not in called for v in _own(layer)
    } - in_called


def _own(layer: Any) -> list[Any]:
    inside = {id(v) for inner in getattr(layer, "layers", ()) for v in inner.variables}
    held = [value for value in vars(layer).values() if isinstance(value, keras.Layer)]
    inside |= {id(v) for inner in held for v in inner.variables}
    return [v for v in layer.variables if id(v) not in inside]
