"""PG712, OutputsDoNotFollow: a loss that falls while the outputs stay unrelated to the labels.

Checked at `level="full"`: after a trial the loss was less than half of its first value, and of its
value for a predictor that knows only the label frequencies; yet the outputs of the model are no
better than that. Keras's losses use the logits before a softmax or sigmoid where they can, so a
model may learn while its outputs, as `predict` returns them, stay the same.

How sure: a warning, shown by the loss and the outputs of the trial.
"""

from __future__ import annotations

import numpy as np

from perigee._step.losses import computation_of
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import Compared
from perigee.diagnostics._trials import Trial, Trials

_FIRST, _LAST = 5, 20
_HALF = 0.5
_LEAST_QUALITY = 0.1
_LEAST_CORRELATION = 0.3


def check(trials: Trials) -> list[Finding]:
    """Compare the fall of the loss with the quality of the outputs."""
    own = trials.own
    if own.bad is not None or len(own.losses) < _FIRST + _LAST or len(own.judged) != 1:
        return []
    first, last = mean_losses(own)
    (judged,) = own.judged
    found = _quality(judged)
    if found is None or first <= 0 or last > _HALF * first:
        return []
    uninformed, quality, correlation, name = found
    if last > _HALF * uninformed or quality >= _LEAST_QUALITY:
        return []
    if correlation >= _LEAST_CORRELATION:
        return []
    return [
        Finding(
            code="PG712",
            name="OutputsDoNotFollow",
            severity="warning",
            happened=f"In a trial the loss fell from {first:.4g} to {last:.4g}, but the outputs "
            f"have {name} of {quality:.2g}, where a constant has 0 and the labels 1.",
            expected="outputs that follow the labels as the loss falls.",
            fix="check what `predict` returns: the last activation may hide what is learned (a "
            "softmax over one unit, or over another axis).",
        )
    ]


def mean_losses(trial: Trial) -> tuple[float, float]:
    """Return the mean loss of the first steps and of the last ones."""
    return float(np.mean(trial.losses[:_FIRST])), float(np.mean(trial.losses[-_LAST:]))


def _quality(judged: Compared) -> tuple[float, float, float, str] | None:
    """Return the quality of outputs, from 0 (a constant) to 1, and the loss of a constant.

    Returns:
        The loss of the best constant, the quality, the largest correlation of an output with its
        label, and the name of the quality; `None` if it cannot be measured.
    """
    y_true, y_pred = judged.y_true, np.asarray(judged.y_pred, "float64")
    if not np.isfinite(y_pred).all() or y_pred.ndim != 2:
        return None
    if computation_of(judged.by).kind == "mean_squared_error" and y_true.shape == y_pred.shape:
        labels = y_true.astype("float64")
        variance = float(np.mean((labels - labels.mean(axis=0)) ** 2))
        if variance == 0:
            return None
        quality = 1 - float(np.mean((labels - y_pred) ** 2)) / variance
        return variance, quality, _correlation(labels, y_pred), "an R2"
    classes = _classes(judged, y_pred)
    if classes is None:
        return None
    labels, said, rows = classes
    shares = np.bincount(labels) / len(labels)
    largest = float(shares.max())
    if largest == 1:
        return None
    entropy = float(-np.sum(shares[shares > 0] * np.log(shares[shares > 0])))
    quality = (float(np.mean(labels == said)) - largest) / (1 - largest)
    return entropy, quality, _correlation(rows, y_pred), "an accuracy"


def _classes(
    judged: Compared, y_pred: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Return the ids of labels and of outputs, and the labels as rows like the outputs."""
    y_true, what = judged.y_true, computation_of(judged.by)
    size = y_pred.shape[-1]
    if what.kind == "sparse_categorical_crossentropy" and y_true.size == len(y_pred):
        labels = y_true.reshape(-1).astype("int64")
        if labels.min() < 0 or labels.max() >= size:
            return None
        return labels, y_pred.argmax(axis=-1), np.eye(size)[labels]
    if what.kind == "categorical_crossentropy" and y_true.shape == y_pred.shape:
        return y_true.argmax(axis=-1), y_pred.argmax(axis=-1), y_true.astype("float64")
    if what.kind == "binary_crossentropy" and y_true.size == len(y_pred) and size == 1:
        rows = y_true.reshape(-1, 1).astype("float64")
        if not np.isin(rows, (0.0, 1.0)).all():
            return None
        threshold = 0.0 if what.from_logits else 0.5
        return rows[:, 0].astype("int64"), (y_pred[:, 0] > threshold).astype("int64"), rows
    return None


def _correlation(labels: np.ndarray, y_pred: np.ndarray) -> float:
    """Return the largest correlation of a column of labels with that of the outputs."""
    found = [0.0]
    for label, output in zip(labels.T, y_pred.T, strict=True):
        if label.std() > 0 and output.std() > 1e-7:
            found.append(float(np.corrcoef(label, output)[0, 1]))
    return max(found)
