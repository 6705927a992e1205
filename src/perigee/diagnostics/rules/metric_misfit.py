"""PG230, MetricMisfit: a metric that does not fit its predictions or its labels.

`Accuracy` compares predictions with labels exactly, so probabilities never match. `BinaryAccuracy`
compares labels with 0 and 1, so that amounts, ids and labels of -1 never match; of several
exclusive classes it also counts each correct 0. `BinaryAccuracy` and `AUC` compare with thresholds
between 0 and 1, which are wrong for logits: pass `threshold=0`, or `from_logits=True`.
`CategoricalAccuracy` needs a row for each label and `SparseCategoricalAccuracy` an id, and both
need a prediction for each class. One that looks for the class among the best `k` is always 1 where
there are no more classes than that; without `k` it is 5. Amounts have no accuracy: measure
`MeanAbsoluteError`.

How sure: a warning, shown by the labels and the predictions that the metric was given.
"""

from __future__ import annotations

import numpy as np

from perigee._step.losses import computation_of
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import Compared
from perigee.diagnostics._tasks import Labels, Task, accuracy_of, labels_of, tasks_of

_SHARE = 0.05

_Misfit = tuple[str, str] | None


def check(evidence: Evidence) -> list[Finding]:
    """Examine what the metrics of both steps compare."""
    testing = evidence.testing
    seen = [*evidence.training.compared, *(testing.compared if testing else ())]
    tasks = tasks_of(evidence)
    found: dict[int, Finding] = {}
    for one in seen:
        task = next((t for t in tasks if t.pred.size == one.y_pred.size), None)
        said = _misfit(one, task)
        if said is not None and id(one.by) not in found:
            happened, fix = said
            found[id(one.by)] = Finding(
                code="PG230",
                name="MetricMisfit",
                severity="warning",
                happened=f"The metric {one.by.name!r} ({_kind(one)}) {happened}",
                expected="a metric that is best for the best predictions, and only for them.",
                fix=fix,
            )
    return list(found.values())


def _kind(seen: Compared) -> str:
    words = accuracy_of(seen).split("_")
    return "".join(map(str.capitalize, words)) or computation_of(seen.by).name


def _misfit(seen: Compared, task: Task | None) -> _Misfit:
    pred = seen.y_pred.astype("float64")
    if not pred.size or not np.isfinite(pred).all() or not (pred.ndim and seen.y_true.ndim):
        return None
    kind = accuracy_of(seen)
    if kind == "accuracy":
        if not bool((pred != np.round(pred)).any()):
            return None
        return (
            f"compares predictions ({pred.min():.3g}..{pred.max():.3g}) with labels for equality.",
            "use SparseCategoricalAccuracy, CategoricalAccuracy or BinaryAccuracy.",
        )
    if kind == "binary_accuracy":
        return _of_binary(seen, task) or _of_scores(seen, task)
    if kind:
        return _of_classes(seen, kind, task)
    return _of_scores(seen, task) if computation_of(seen.by).kind == "auc" else None


def _of_binary(seen: Compared, task: Task | None) -> _Misfit:
    """Return how labels do not fit a metric that compares them with 0 and 1, one by one."""
    pred = seen.y_pred
    if seen.y_true.size != pred.size:
        return None
    has_rows = pred.ndim > 1 and pred.shape[-1] > 1
    labels = labels_of(_labels(seen, task), has_rows)
    if labels is None or (task is not None and task.is_of_inputs):
        return None
    if labels.kind == "one-hot" and labels.classes > 2:
        return (
            f"counts {pred.shape[-1]} predictions per example, where one class is right.",
            "use CategoricalAccuracy.",
        )
    y = _labels(seen, task)
    others = float(np.mean((y != 0) & (y != 1)))
    if others > _SHARE:
        return _never_equal(labels, others)
    return None


def _never_equal(labels: Labels, share: float) -> _Misfit:
    fix = {
        "ids": "use SparseCategoricalAccuracy, with a unit for each class; for counts or grades "
        "use MeanAbsoluteError.",
        "signs": "use labels 0 and 1, or a function that compares the signs.",
    }.get(labels.kind, "measure amounts by MeanAbsoluteError.")
    return f"compares 0 and 1 with {labels}, of which {share:.0%} are neither.", fix


def _of_scores(seen: Compared, task: Task | None) -> _Misfit:
    """Return how logits do not fit a threshold for probabilities."""
    what, pred = computation_of(seen.by), seen.y_pred
    is_outside = pred.min() < -1e-3 or pred.max() > 1 + 1e-3
    # A metric may also be given probabilities that are made of the logits.
    is_of_logits = (
        task is not None
        and bool(task.loss.from_logits)
        and task.head.activation == "linear"
        and np.array_equal(pred, task.pred)
    )
    if not is_outside and not is_of_logits:
        return None
    scope = f"{pred.min():.3g}..{pred.max():.3g}"
    threshold = what.settings.get("threshold", 0.5)
    if accuracy_of(seen) == "binary_accuracy":
        if threshold is None or not 0 < threshold < 1:
            return None
        return (
            f"compares logits ({scope}) with a threshold of {threshold:g}.",
            "pass `keras.metrics.BinaryAccuracy(threshold=0)`, or measure probabilities.",
        )
    if not what.from_logits:
        return f"treats logits ({scope}) as probabilities.", "pass `from_logits=True`."
    return None


def _of_classes(seen: Compared, kind: str, task: Task | None) -> _Misfit:
    """Return how labels do not fit a metric that looks for the highest of several predictions."""
    true, pred = seen.y_true, seen.y_pred
    if pred.ndim < 2:
        return None
    units, is_sparse = pred.shape[-1], kind.startswith("sparse")
    if units == 1:
        return (
            "looks for the highest of one prediction, which is always the same.",
            "use BinaryAccuracy for one unit.",
        )
    best = computation_of(seen.by).settings.get("k", 0) if "top_k" in kind else 0
    if isinstance(best, int) and best >= units:
        return (
            f"looks for the class among the best {best} of {units}, where it always is.",
            "pass a smaller `k`.",
        )
    if true.size == pred.size:
        labels = labels_of(_labels(seen, task), True)
        if labels is None or (task is not None and task.is_of_inputs):
            return None
        if is_sparse and labels.kind == "one-hot":
            return f"takes {labels} for ids.", "use CategoricalAccuracy."
        if labels.kind == "numbers" and task is not None and not task.loss.from_logits:
            return (
                f"compares which of several {labels} is the highest.",
                "measure amounts by MeanAbsoluteError.",
            )
        return None
    if not is_sparse and true.size * units == pred.size and true.shape[-1] != units:
        return "takes ids for rows.", "use SparseCategoricalAccuracy."
    return None


def _labels(seen: Compared, task: Task | None) -> np.ndarray:
    """Return the labels that a metric compares: all known ones, where they are those of a task."""
    if task is None or task.true.size * len(seen.y_true) != seen.y_true.size * len(task.true):
        return seen.y_true
    first = task.true[: len(seen.y_true)]
    is_of_task = np.array_equal(first.reshape(-1), seen.y_true.reshape(-1))
    return task.true if is_of_task else seen.y_true
