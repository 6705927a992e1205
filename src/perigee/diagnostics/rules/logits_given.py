"""PG206 by the layers: a head of scores before a loss of probabilities, whatever the values."""

from __future__ import annotations

from perigee._errors import LogitsError
from perigee._step.losses import BINARY, CATEGORICAL, SPARSE
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding, of_error
from perigee.diagnostics._tasks import tasks_of

_SCORES = ("linear", "tanh", "relu")


def check(evidence: Evidence) -> list[Finding]:
    """Find heads without a sigmoid or a softmax before a loss that expects probabilities.

    Values outside 0..1 are certain, and are refused where the loss is called.
    """
    for task in tasks_of(evidence):
        what = task.loss
        if task.is_inferred or what.from_logits is not False or not task.pred.size:
            continue
        is_found = what.kind in BINARY | CATEGORICAL | SPARSE and task.head.activation in _SCORES
        if is_found and task.pred.dtype.kind in "fV":
            low, high = float(task.pred.min()), float(task.pred.max())
            return [of_error(LogitsError(what.name, False, low, high), "warning")]
    return []
