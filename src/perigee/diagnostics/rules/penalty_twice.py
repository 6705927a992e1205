"""PG208 for a step that takes its gradients itself: penalties that are added twice.

`compute_loss` adds the losses of a model's layers, so that `sum(model.losses)` beside it adds them
again.
"""

from __future__ import annotations

from perigee._errors import RegularizationTwiceError
from perigee._step.losses import computation_of
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding, of_error

_SAME, _LEAST = 1e-3, 1e-3


def check(evidence: Evidence) -> list[Finding]:
    """Compare what is differentiated with the value of the Keras losses and the penalties."""
    values = [
        what.mean(seen.y_true, seen.y_pred)
        for seen in evidence.training.losses
        if not (what := computation_of(seen.by)).is_own
    ]
    if len(values) != len(evidence.training.losses) or len(set(values)) != 1:
        return []
    loss, penalty = values[0], evidence.penalty
    if not penalty > _LEAST * abs(loss):
        return []
    for derived in evidence.training.derived:
        if derived.loss is None or abs(derived.loss - loss - 2 * penalty) > _SAME * penalty:
            continue
        model = max((call.layer for call in evidence.trained), key=lambda each: len(each.losses))
        return [of_error(RegularizationTwiceError(model.name, len(model.losses)), "warning")]
    return []
