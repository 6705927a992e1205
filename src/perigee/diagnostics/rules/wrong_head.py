"""PG225, WrongHead: a last activation that does not fit the loss.

Logits can take any value. After a ReLU no class can be ruled out, since no logit is below 0. After
a sigmoid the loss applies another one, and no prediction can be confident. On TensorFlow, Keras
looks for the logits before a sigmoid or a softmax; if it finds them the loss is right, and this is
a hint.

A log loss that is written by hand, of probabilities, needs a sigmoid or a softmax: scores below 0
have no logarithm. Nor has a Poisson loss of them: use `activation="exponential"`. A hinge loss
pushes predictions below -1 and above 1: use no activation, or tanh.

Nothing belongs between the last layer with weights and its activation, or after it. A second
softmax or sigmoid flattens the probabilities of the first one. A Dropout there drops predictions,
which no weights can make up for.

How sure: a warning, read from the last layer and the loss; a hint where Keras is shown to look
behind the activation.
"""

from __future__ import annotations

from perigee._step.losses import BINARY, CATEGORICAL, SPARSE
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._tasks import Task, tasks_of

_BOUND = {"relu": "below 0", "sigmoid": "outside 0..1", "softmax": "outside 0..1"}
_RATES = {"poisson": "values above 0", "kl_divergence": "probabilities"}
_FLAT = {**_BOUND, "tanh": "outside -1..1"}
"""The same of all activations after which a softmax or sigmoid can hardly be confident."""
_SCORES = ("linear", "tanh")


def check(evidence: Evidence) -> list[Finding]:
    """Compare the last activation before each loss with what the loss expects."""
    for task in tasks_of(evidence):
        wrong = (
            _dropped(task)
            or _for_logits(task)
            or _for_probabilities(task)
            or _twice(task)
            or _for_others(task)
        )
        if wrong is None:
            continue
        happened, expected, fix = wrong
        is_right = task.by is not None and not task.head.dropout and evidence.is_right(task.by)
        return [
            Finding(
                code="PG225",
                name="WrongHead",
                severity="hint" if is_right else "warning",
                happened=happened,
                expected=expected,
                fix=fix,
            )
        ]
    return []


_Wrong = tuple[str, str, str] | None


def _dropped(task: Task) -> _Wrong:
    name = task.head.dropout
    if not name or task.loss.is_own:
        return None
    return (
        f"{name!r} is a Dropout after the last layer with weights: in training it replaces "
        "predictions by zeros at random.",
        "predictions that follow from the inputs.",
        "remove it, or put it before the last layer with weights.",
    )


def _twice(task: Task) -> _Wrong:
    head = task.head
    if head.activation not in ("softmax", "sigmoid") or head.before not in _FLAT:
        return None
    if task.loss.kind not in SPARSE | CATEGORICAL | BINARY:
        return None
    return (
        f"{head.layer!r} takes a {head.activation} of what is returned after {head.before}, never "
        f"{_FLAT[head.before]}: it returns {task.pred.min():.3g}..{task.pred.max():.3g} for this "
        "batch.",
        f"one activation after the last weights: a {head.activation} of values of any size.",
        f"remove the {head.before}.",
    )


def _for_logits(task: Task) -> _Wrong:
    activation = task.head.activation
    if not task.loss.from_logits or activation not in _FLAT or not task.pred.size:
        return None
    return (
        f"{_named(task)} expects logits and gets what {task.head.layer!r} returns after "
        f"{activation}: {task.pred.min():.3g}..{task.pred.max():.3g}, never {_FLAT[activation]}.",
        "a last layer without activation, for a loss of logits."
        if task.is_inferred
        else "a last layer without activation, for a loss with from_logits=True.",
        "remove the last activation.",
    )


def _for_probabilities(task: Task) -> _Wrong:
    """Return what is wrong with a loss by hand; `PG206` is about those of Keras."""
    is_of_probabilities = task.is_inferred and task.loss.from_logits is False
    if not is_of_probabilities or task.head.activation not in (*_SCORES, "relu"):
        return None
    right = "sigmoid" if task.loss.kind in BINARY else "softmax"
    return (
        f"{_named(task)} takes logarithms of probabilities and gets what {task.head.layer!r} "
        f"returns: {task.head}, {task.pred.min():.3g}..{task.pred.max():.3g} for this batch.",
        "probabilities, for a loss of probabilities.",
        f'end the model with `activation="{right}"`, or use a loss of Keras with '
        "`from_logits=True`.",
    )


def _for_others(task: Task) -> _Wrong:
    kind, activation = task.loss.kind, task.head.activation
    if kind in _RATES and activation in _SCORES:
        right = "exponential" if kind == "poisson" else "softmax"
        fix = f'end the model with `activation="{right}"`.'
        return f"{_named(task)} gets what is returned by {task.head}.", f"{_RATES[kind]}.", fix
    if kind in ("hinge", "squared_hinge") and activation in _BOUND:
        return (
            f"{_named(task)} gets what is returned by {task.head}, never below 0.",
            "predictions below -1 for one class and above 1 for the other.",
            "remove the last activation, or use BinaryCrossentropy.",
        )
    return None


def _named(task: Task) -> str:
    name = task.loss.name
    return f"The loss, {name}," if task.is_inferred else name
