"""PG120, ZeroGradients: all gradients given to an optimizer are exactly 0.

Nothing will ever be learned. In float16, gradients below 6e-8 become 0; otherwise the loss does not
depend on the weights, as after a rounding, or all units after them are dead. It is a hint where a
step counts or remembers something, as in a warm-up from 0: later gradients may be others.

On JAX, `jax.value_and_grad` gives zeros for weights that the call of the model does not use: then
`fit` reports it, too, unless a step counts or remembers something, and may update later.

How sure: an error, shown by the gradients, which are all exactly 0 for the initial weights and for
others. It is a hint where other weights give gradients or a later step may; a warning in `fit`, and
for steps that apply optimizers themselves.
"""

from __future__ import annotations

from collections.abc import Sequence

from perigee._rehearsal.discovery import Rehearsal
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import Update

_DRAWS = 6
"""Other draws of the weights: a few units may all be dead by chance."""


def check(evidence: Evidence) -> list[Finding]:
    """Find updates whose gradients are all 0, and not only for these weights."""
    found: list[Finding] = []
    for place, update in enumerate(evidence.training.updates):
        if not _are_zero(update):
            continue
        others = (evidence.training_redrawn(turn).updates for turn in range(_DRAWS))
        is_by_chance = not all(len(o) > place and _are_zero(o[place]) for o in others)
        rehearsal = evidence.training.rehearsal
        is_of_a_step = rehearsal is not None and _remembers(rehearsal)
        is_half = any(
            getattr(layer, "compute_dtype", "") == "float16"
            for model in evidence.tracked.models.values()
            for layer in getattr(model, "layers", ())
        )
        found.append(
            Finding(
                code="PG120",
                name="ZeroGradients",
                severity="hint" if is_by_chance or is_of_a_step else "error",
                happened=f"All gradients of {len(update.gradients)} variables are exactly 0"
                + (" for these weights" if is_by_chance else "")
                + (" at the first step" if is_of_a_step else "")
                + (" in float16:" if is_half else ":"),
                items=tuple(evidence.tracked.names_of(update.variables)),
                expected="gradients that are not all 0.",
                fix="scale the loss up: float16 rounds gradients below 6e-8 to 0."
                if is_half
                else "check for rounding, argmax or `stop_gradient` between weights and loss.",
            )
        )
    return found


def _are_zero(update: Update) -> bool:
    return bool(update.gradients) and not any(value.any() for value in update.gradients)


def check_rehearsals(rehearsals: Sequence[Rehearsal]) -> list[Finding]:
    """Find updates whose gradients are all 0, by a step that takes and applies them itself.

    Args:
        rehearsals: Rehearsals of `train_step`, one for each batch structure.
    """
    if not rehearsals or not all(map(_is_zeroed, rehearsals)):
        return []
    last = rehearsals[-1]
    return [
        Finding(
            code="PG120",
            name="ZeroGradients",
            severity="warning",
            happened=f"All gradients of {len(last.raw.zeroed)} variables are exactly 0:",
            items=tuple(last.tracked.names_of(last.raw.zeroed)),
            expected="gradients that are not all 0.",
            fix="differentiate what the model computes from the weights that are passed, "
            "`model.stateless_call(weights, state, x)`, or write `loss = self.minimize(objective, "
            "self.optimizer, self.model)`.",
        )
    ]


def _is_zeroed(rehearsal: Rehearsal) -> bool:
    return bool(rehearsal.raw.zeroed) and not _remembers(rehearsal) and not rehearsal.volatile


def _remembers(rehearsal: Rehearsal) -> bool:
    """Return whether the step counts or remembers something, and may update later."""
    kinds = {id(entry.variable): entry.kind for entry in rehearsal.tracked.entries}
    found = [(kinds.get(id(v)), v) for v in rehearsal.written]
    return any(k == "variable" or (k == "non_trainable" and "int" in v.dtype) for k, v in found)
