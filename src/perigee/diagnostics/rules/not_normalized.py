"""PG223, NotNormalized: predicted probabilities of exclusive classes do not sum to 1.

A categorical crossentropy of probabilities expects a distribution over the last axis. Sigmoids are
for labels that do not exclude each other, and a softmax over another axis normalizes the wrong
values. Keras's losses may train such a model, through the logits before its last activation, yet
the outputs of the model are not probabilities. So does one over the right axis of values that a
reshape has put there: (height, width, classes) becomes (pixels, classes), and not
(classes, pixels), which must be transposed.

How sure: a warning, shown by the sums of the predictions that a loss was given.
"""

from __future__ import annotations

import numpy as np

from perigee._step.losses import CATEGORICAL, SPARSE, computation_of
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._heads import crossed
from perigee.diagnostics._tasks import Task, tasks_of

_TOLERANCE = 2e-2


def check(evidence: Evidence) -> list[Finding]:
    """Sum the probabilities that categorical losses were given."""
    tasks = tasks_of(evidence)
    for seen in evidence.training.losses:
        y_pred = seen.y_pred.astype("float64")
        what = computation_of(seen.by)
        if what.kind not in SPARSE | CATEGORICAL or what.from_logits:
            continue
        if what.axis != -1 or y_pred.ndim < 2 or y_pred.shape[-1] < 2:
            continue
        if not np.isfinite(y_pred).all() or y_pred.min() < 0:
            continue
        sums = y_pred.sum(axis=-1)
        # Two sigmoids may begin with a sum near 1: then the layers tell.
        is_other = any(t.by is seen.by and t.head.activation == "sigmoid" for t in tasks)
        if np.mean(np.abs(sums - 1) > _TOLERANCE) < 0.5 and not is_other:
            continue
        others = [
            a for a in range(y_pred.ndim - 1) if y_pred.shape[a] > 1 and _sums_to_1(y_pred, a)
        ]
        where = f" over the last axis, and to 1 over axis {others[0]}" if others else ""
        return [
            Finding(
                code="PG223",
                name="NotNormalized",
                severity="warning",
                happened=f"The predictions given to {what.name} sum to "
                f"{sums.min():.3g}..{sums.max():.3g}{where}.",
                expected="probabilities of exclusive classes, which sum to 1.",
                fix='end the model with `activation="softmax"` over the last axis, or use '
                "BinaryCrossentropy for labels that do not exclude each other.",
            )
        ]
    return [finding for task in tasks if (finding := _crossed(evidence, task)) is not None]


def _crossed(evidence: Evidence, task: Task) -> Finding | None:
    """Return that the last axis holds values of one unit, where it should hold the classes."""
    if task.loss.kind not in SPARSE | CATEGORICAL or task.source is None:
        return None
    if task.loss.axis != -1:
        return None
    layer = crossed(evidence, *task.source)
    if layer is None:
        return None
    return Finding(
        code="PG223",
        name="NotNormalized",
        severity="warning",
        happened=f"The last axis of the predictions {task.pred.shape} does not hold the "
        f"{task.head.units} units of {layer!r}: it holds values that one unit has made at "
        f"{task.head.units} places, and a softmax makes them sum to 1.",
        expected="the units of the last layer, one for each class, on the last axis.",
        fix="leave the classes on the last axis: reshape (height, width, classes) to (height * "
        "width, classes).",
    )


def _sums_to_1(values: np.ndarray, axis: int) -> bool:
    return bool(np.all(np.abs(values.sum(axis=axis) - 1) < _TOLERANCE))
