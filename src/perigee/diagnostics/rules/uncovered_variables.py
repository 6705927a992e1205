"""PG110, UncoveredVariables: a trainable variable that no optimizer of the step updates.

It keeps its initial value, as if it were frozen, while `model.summary()` lists it as trainable.
Pass it to an optimizer, or set `trainable = False` on its layer if it should stay constant. What
the step assigns itself is updated, as the moving average of a teacher. A step that applies
optimizers itself is checked if it applies all that it holds; a model that it leaves alone as a
whole is taken as meant if no gradient tape recorded it, if it is like one that is trained (a target
network), or if it was trained before, which its biases tell: a teacher. On torch it also names
parameters that belong to no variable of Keras, if the loss depends on them and neither an optimizer
has them nor the step changes them. With batches of several structures, an update on any of them
counts.

How sure: a warning, shown by the updates of the step on a batch: the variable is in none of them.
It may be constant on purpose.
"""

from __future__ import annotations

from collections.abc import Sequence

import keras

from perigee._rehearsal.discovery import Rehearsal
from perigee._step.state import nested_layers
from perigee._step.updates import counter_of
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._layers import was_trained


def check_rehearsals(rehearsals: Sequence[Rehearsal]) -> list[Finding]:
    """Find trainable variables that nothing updates.

    Args:
        rehearsals: Rehearsals of `train_step`, one for each batch structure.
    """
    untrained = [name for one in rehearsals for name in one.raw.untrained]
    is_updated = any(one.updated or one.raw.moved for one in rehearsals)
    if not (is_updated or untrained) or any(map(_may_update_more, rehearsals)):
        return []
    covered = {id(v) for one in rehearsals for variables in one.updated.values() for v in variables}
    covered |= {id(v) for one in rehearsals for v in (*one.carried, *one.raw.unreached)}
    covered |= {key for one in rehearsals for key in one.raw.moved}
    covered |= {id(v) for one in rehearsals for v in one.written}  # by itself, as an average
    if any(one.raw.paths for one in rehearsals):
        covered |= _left_alone(rehearsals, covered)
    entries = rehearsals[-1].tracked.entries
    kinds = [e for e in entries if e.kind == "trainable" or not e.is_listed]
    found = [e for e in kinds if e.variable.trainable and id(e.variable) not in covered]
    found = found if is_updated else []
    uncovered = (*(e.name for e in found), *dict.fromkeys(untrained))
    others = [e.variable for e in found if not isinstance(e.variable, keras.Variable)]
    is_of_torch = untrained or any(hasattr(v.value, "requires_grad_") for v in others)
    if not uncovered:
        return []
    return [
        Finding(
            code="PG110",
            name="UncoveredVariables",
            severity="warning",
            happened=f"No optimizer of the step updates {len(uncovered)} trainable variables:",
            items=uncovered,
            expected="trainable variables are trained; others are frozen.",
            fix="set `trainable = False` on what should stay constant, or pass the variables to "
            "an optimizer."
            + (" For a parameter of torch it is `requires_grad_(False)`." if is_of_torch else ""),
        )
    ]


def _left_alone(rehearsals: Sequence[Rehearsal], covered: set[int]) -> set[int]:
    """Return the variables of models that are not updated at all, and are meant not to be.

    No tape recorded them, or they are like a model that is updated, as a target network is, or they
    have been trained, as a teacher has.
    """
    if any(one.raw.read is None and one.raw.is_of_keras for one in rehearsals):
        return set()  # the framework has no tapes, and the model is trained as a whole
    read = {key for one in rehearsals for key in one.raw.read or ()}
    held = rehearsals[-1].tracked.models.values()
    nested = [m for layer in held for m in nested_layers(layer) if isinstance(m, keras.Model)]
    updated, alone = [], []
    for layer in (*held, *nested):
        is_updated = any(id(v) in covered for v in layer.trainable_variables)
        (updated if is_updated else alone).append(layer)
    trained = [_shapes(layer) for layer in updated]
    return {
        id(v)
        for layer in alone
        for v in layer.variables
        if id(v) not in read or _shapes(layer) in trained or (updated and was_trained(layer))
    }


def _shapes(layer: keras.Layer) -> list[tuple[int, ...]]:
    return [tuple(v.shape) for v in layer.trainable_variables]


def _may_update_more(rehearsal: Rehearsal) -> bool:
    """Return whether a step has updates that were not seen, or leaves some to other steps."""
    written = {id(variable) for variable in rehearsal.written}
    optimizers = rehearsal.tracked.optimizers.items()
    others = [optimizer for path, optimizer in optimizers if path not in rehearsal.updated]
    is_raw = bool(rehearsal.raw.paths)
    return any(is_raw or id(counter_of(optimizer)) in written for optimizer in others)
