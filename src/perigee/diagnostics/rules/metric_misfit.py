"""PG230, MetricMisfit: a metric that does not fit its predictions.

`Accuracy` compares predictions with labels exactly, so probabilities never match. `BinaryAccuracy`
on several exclusive classes also counts each correct 0. Both, and `AUC`, compare with thresholds
between 0 and 1, which are wrong for logits: pass `threshold=0`, or `from_logits=True`.
"""

from __future__ import annotations

import numpy as np

from perigee._step.losses import computation_of
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import Compared
from perigee.diagnostics.rules.classes_as_numbers import is_one_hot


def check(evidence: Evidence) -> list[Finding]:
    """Examine what the metrics of both steps compare."""
    testing = evidence.testing
    seen = [*evidence.training.compared, *(testing.compared if testing else ())]
    found: dict[int, Finding] = {}
    for one in seen:
        said = _misfit(one)
        if said is not None and id(one.by) not in found:
            happened, fix = said
            found[id(one.by)] = Finding(
                code="PG230",
                name="MetricMisfit",
                severity="warning",
                happened=f"The metric {one.by.name!r} ({computation_of(one.by).name}) {happened}",
                expected="a metric that is best for the best predictions, and only for them.",
                fix=fix,
            )
    return list(found.values())


def _misfit(seen: Compared) -> tuple[str, str] | None:
    what, pred = computation_of(seen.by), seen.y_pred.astype("float64")
    if not pred.size or not np.isfinite(pred).all():
        return None
    scope = f"{pred.min():.3g}..{pred.max():.3g}"
    if what.kind == "accuracy" and bool((pred != np.round(pred)).any()):
        return (
            f"compares predictions ({scope}) with labels for equality.",
            "use SparseCategoricalAccuracy, CategoricalAccuracy or BinaryAccuracy.",
        )
    is_binary = what.kind == "binary_accuracy"
    if is_binary and is_one_hot(seen.y_true.astype("float64")):
        return (
            f"counts {pred.shape[-1]} predictions per example, where one class is right.",
            "use CategoricalAccuracy.",
        )
    is_outside = pred.min() < -1e-3 or pred.max() > 1 + 1e-3
    threshold = what.settings.get("threshold")
    if is_binary and threshold is not None and 0 < threshold < 1 and is_outside:
        return (
            f"compares logits ({scope}) with a threshold of {threshold:g}.",
            "pass `threshold=0`, or measure probabilities.",
        )
    if what.kind == "auc" and is_outside and not what.from_logits:
        return f"treats logits ({scope}) as probabilities.", "pass `from_logits=True`."
    return None
