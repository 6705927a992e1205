"""PG212, BroadcastTargets: one label per example is compared with several predictions.

Labels `(batch, 1)` and predictions `(batch, 3)` broadcast in hand-written arithmetic: every output
learns the same number. The reverse compares one prediction with several labels.

How sure: a warning, shown by the values: the loss is the squared error of what the shapes broadcast
to. It may be meant.
"""

from __future__ import annotations

import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_SAME = 2e-3


def check(evidence: Evidence) -> list[Finding]:
    """Compare how the loss changes with the labels to how a squared error would."""
    batch = evidence.batches[0]
    flat = evidence.leaves
    if not isinstance(batch, tuple) or len(flat) != 2 or flat[1].dtype.kind != "f":
        return []
    y = flat[1]
    outputs = [o for call in evidence.trained for o in call.outputs if o.dtype.kind == "f"]
    wanted = [o for o in outputs if _broadcast(y.shape, o.shape)]
    if not wanted or not np.isfinite(y).all() or not evidence.is_repeatable:
        return []
    base, low, high = y, (y + 1.0).astype(y.dtype), (2.0 * y - 3.0).astype(y.dtype)
    losses = [evidence.loss((batch[0], labels)) for labels in (base, low, high)]
    for output in wanted:
        errors = [np.mean(np.square(t.astype("float64") - output)) for t in (base, low, high)]
        if _goes_along(losses, errors):
            return [_finding(y.shape, output.shape)]
    return []


def _broadcast(true: tuple[int, ...], pred: tuple[int, ...]) -> bool:
    if len(true) != 2 or len(pred) != 2 or true[0] != pred[0]:
        return False
    return true[1] != pred[1] and 1 in (true[1], pred[1])


def _goes_along(losses: list[float | None], errors: list[np.floating]) -> bool:
    """Return whether the losses equal the errors, up to a factor and a constant."""
    first, *others = [np.float64("nan") if loss is None else np.float64(loss) for loss in losses]
    ratios = [
        (loss - first) / (error - errors[0]) for loss, error in zip(others, errors[1:], strict=True)
    ]
    return bool(ratios[0] > 0 and abs(ratios[1] - ratios[0]) < _SAME * ratios[0])


def _finding(true: tuple[int, ...], pred: tuple[int, ...]) -> Finding:
    return Finding(
        code="PG212",
        name="BroadcastTargets",
        severity="warning",
        happened=f"The loss is the squared error of labels of shape {true} and predictions of "
        f"shape {pred}, which broadcast.",
        expected="labels and predictions of the same shape.",
        fix="give the last layer as many units as there are values to predict.",
    )
