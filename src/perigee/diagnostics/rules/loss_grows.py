"""PG220, LossGrows: a loss that depends on the batch size.

A batch that holds each example twice has the same mean loss. A loss that doubles with it is a sum:
its gradients grow with the batch, the learning rate fits one batch size only, and the last, smaller
batch counts less. A loss that halves is divided by the batch size twice. Return one value per
example, or their mean. If a sum is intended, pass `ignore=["PG220"]`. It is a hint where a Keras
loss was told to sum and the rate fits that: any of an optimizer that divides by the size of the
gradients, or one of SGD that is small even if multiplied by the size of the batch.

How sure: a warning or, as said, a hint, shown by the loss of a batch and of the same examples two
and four times. A sum may be meant.
"""

from __future__ import annotations

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_TOLERANCE = 0.1
"""Relative change due to Dropout and BatchNorm in a batch that holds each example twice."""

_POWERS = {"grows with the batch": 1.0, "shrinks as the batch grows": -1.0}
"""The wording, and the power of the batch size to which the loss is proportional."""

_USUAL_RATE = 0.5
"""A rate of SGD that is usual for means."""


def check(evidence: Evidence) -> list[Finding]:
    """Compare the loss of a batch with that of the batch repeated twice and four times."""
    if not evidence.size or not evidence.is_repeatable:
        return []
    logged = evidence.training.logs.get("loss")  # not known for a step that is already compiled
    once = evidence.loss(evidence.batches[0], 1) if logged is None else float(np.mean(logged))
    if once is None or not np.isfinite(once) or abs(once) < 1e-12:
        return []
    # Penalties do not depend on the batch, and may or may not be part of what is logged.
    bases = {0.0, evidence.penalty if abs(once - evidence.penalty) > 1e-6 * abs(once) else 0.0}
    left = [(what, base) for what in _POWERS for base in bases]
    losses = {1: once}
    for times in (2, 4):  # the second only if the first one shows it
        losses[times] = evidence.loss(evidence.batches[0], times) or 0.0
        left = [
            (what, base)
            for what, base in left
            if np.isclose(
                (losses[times] - base) / (once - base), times ** _POWERS[what], _TOLERANCE, 0
            )
        ]
        if not left:
            return []
    return [
        Finding(
            code="PG220",
            name="LossGrows",
            severity="hint" if _is_meant(evidence) else "warning",
            happened=f"The loss {left[0][0]}: {once:.4g} for {evidence.size} examples, "
            f"{losses[2]:.4g} for the same examples twice.",
            expected="a mean over the examples, which is the same for both.",
            fix="return one value per example, their mean or `pg.mean(values, weights)`; for a "
            'Keras loss remove `reduction="sum"`.',
        )
    ]


def _is_meant(evidence: Evidence) -> bool:
    """Return whether all losses were told to sum, and the rates are as small as that requires."""
    losses = evidence.training.losses
    if not losses or any(getattr(seen.by, "reduction", "") != "sum" for seen in losses):
        return False
    optimizers = [update.inner for update in evidence.training.updates]
    rates = [
        float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        for optimizer in optimizers
        if isinstance(optimizer, keras.optimizers.SGD)
    ]
    return bool(optimizers) and all(rate * evidence.size <= _USUAL_RATE for rate in rates)
