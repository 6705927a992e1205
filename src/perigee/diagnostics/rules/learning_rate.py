"""PG124, LearningRate: learning rates at which nothing can be learned.

At rates of 1 and more, the steps of Adam and similar optimizers are larger than usual weights; at
rates below 1e-6 nothing moves. If it is known how long the training is (`epochs=`), the rates of
all its updates are looked at, too:

- A schedule counts steps, not epochs: one that is over after so many steps as there are epochs
  leaves nearly all of the training at a rate of almost 0.
- A warm-up that is longer than the training never reaches the rate that it leads to.
- A rate that only grows has no highest value.
- The sum of the rates says how far Adam and similar optimizers can move a weight at most; for plain
  SGD, the first gradient tells. A model that is not trained yet, by its loss, has to move by more
  than a thirtieth of its weights.

Without the length of the training, schedules are not checked: they may begin at 0.

One update that moves the weights by more than their own size leaves nothing of them. For Adam and
similar optimizers the rate tells, for others the first step. Where the inputs or the weights are
far from unit scale, they are the cause, and this is not reported.

How sure: a warning, read from the rate of the optimizer, or shown by the first step. An unusual
loss or unusual weights may need such a rate.
"""

from __future__ import annotations

import numpy as np

from perigee._execution import constant_rate
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._planned import (
    Planned,
    highest_rate,
    is_adaptive,
    leap,
    planned,
    rate_at,
    reach,
)
from perigee.diagnostics._recording import Update
from perigee.diagnostics._variations import is_out_of_scale
from perigee.diagnostics.rules.few_updates import are_too_few

_LOWEST = 1e-6
_HIGHEST_ADAPTIVE, _HIGHEST = 1.0, 50.0
_NOTHING, _SHARE = 0.01, 0.25
"""A rate that is almost 0 beside the highest one, and the share of updates that are to be above."""
_SOON = 200
"""A schedule that is over after more updates, and after an epoch, may have been meant."""
_TOP = 0.1
"""The part of its highest rate that a schedule reaches at least."""
_FEWEST = 20
"""The fewest steps of a training whose schedule is looked at."""
_GROWTH, _LATER = 10.0, 100
"""By which factor a rate grows that has no top, and how much later it still does."""
_LEAST_REACH, _LEAP = 0.03, 1.0
"""How far a training has to move weights, and how far one update may, in units of their size."""


def check(evidence: Evidence) -> list[Finding]:
    """Examine the rates of optimizers that were applied."""
    found: dict[str, Finding] = {}
    plans = {id(plan.optimizer): plan for plan in planned(evidence)}
    for update in evidence.training.updates:
        optimizer = update.inner
        path = evidence.tracked.path_of(update.optimizer)
        rate, plan = constant_rate(optimizer), plans.get(id(optimizer))
        highest = _HIGHEST_ADAPTIVE if is_adaptive(optimizer) else _HIGHEST
        said = None
        if rate and not _LOWEST <= rate < highest:
            said = (
                f"has a learning rate of {rate:g}.",
                f"a rate from {_LOWEST:g} to below {highest:g}.",
                "start with 1e-3 for Adam and 1e-2 for SGD.",
            )
        elif plan is not None:
            said = _of_schedule(plan, evidence) or _of_reach(plan, evidence)
        said = said or _of_leap(update, plan, rate, evidence)
        if said is None:
            continue
        happened, expected, fix = said
        found[path] = _finding(f"{path!r} ({type(optimizer).__name__}) {happened}", expected, fix)
    if not found and not evidence.training.updates:
        said = _of_leap(None, None, None, evidence)
        if said is not None:
            happened, expected, _ = said
            found[""] = _finding(f"`train_step` {happened}", expected, "lower the learning rate.")
    return list(found.values())


def _finding(happened: str, expected: str, fix: str) -> Finding:
    return Finding(
        code="PG124",
        name="LearningRate",
        severity="warning",
        happened=happened,
        expected=expected,
        fix=fix,
    )


def _of_leap(
    update: Update | None, plan: Planned | None, rate: float | None, evidence: Evidence
) -> tuple[str, str, str] | None:
    """Return that one update changes the weights by more than they are large.

    Where inputs or weights are of an unusual scale, that would be the cause.
    """
    highest = None
    if update is not None and is_adaptive(update.inner):
        highest = rate if plan is None else float(plan.rates.max())
        if highest is None:
            return None
    far = leap(evidence, update, highest)
    if far is None or far < _LEAP or evidence.once(is_out_of_scale):
        return None
    return (
        f"moves the weights by {far:.3g} times their size in one update.",
        "updates that are a small part of the weights: a thousandth is usual.",
        "start with a rate of 1e-3 for Adam and 1e-2 for SGD.",
    )


def _of_schedule(plan: Planned, evidence: Evidence) -> tuple[str, str, str] | None:
    """Return what is wrong with a schedule over the steps of the training."""
    assert evidence.length is not None
    steps, a_pass = evidence.length.steps, evidence.length.steps_per_pass or 0
    if not plan.has_schedule or steps < _FEWEST or not np.isfinite(plan.rates).all():
        return None
    top, last = float(plan.rates.max()), float(plan.rates[-1])
    share = plan.part_above(_NOTHING * top)
    if top > 0 and share < _SHARE and share * steps <= max(_SOON, a_pass):
        return (
            f"has a learning rate below {_NOTHING * top:.2g}, a hundredth of its highest, for "
            f"{1 - share:.0%} of the {steps} steps of the training.",
            "a schedule that is as long as the training.",
            "a schedule counts steps: multiply a number of epochs by the steps of an epoch.",
        )
    is_rising = np.all(np.diff(plan.rates) >= 0) and last > plan.rates[0]
    if not is_rising:
        return None
    ever = highest_rate(plan.optimizer, None)
    if last < _TOP * ever and np.isfinite(ever):
        later = rate_at(plan.optimizer, _LATER * steps)
        if rate_at(plan.optimizer, 10 * _LATER * steps) <= later or ever <= later:
            return (
                f"is still warming up when the training of {steps} steps ends: its learning rate "
                f"is {last:.2g} then, and {ever:.2g} at the highest.",
                "a warm-up that is a small part of the training.",
                "let the warm-up take a twentieth of the training, in steps.",
            )
    later = rate_at(plan.optimizer, _LATER * steps)
    if plan.rates[0] > 0 and last >= _GROWTH * plan.rates[0] and not later <= _GROWTH * last:
        return (
            f"has a learning rate that grows from {plan.rates[0]:.2g} to {last:.2g} in the course "
            "of the training, and for ever after.",
            "a schedule that falls after its warm-up.",
            "check the sign of the exponent, and whether the rate of a decay is below 1.",
        )
    return None


def _of_reach(plan: Planned, evidence: Evidence) -> tuple[str, str, str] | None:
    """Return that all updates together hardly move the weights."""
    if not plan.updates or are_too_few(plan, evidence):
        return None
    far = reach(evidence, plan)
    if far is None or far >= _LEAST_REACH:
        return None
    return (
        f"has learning rates whose sum over {plan.updates} updates is {plan.total:.2g}: that moves "
        f"the weights by some {far:.1%} of their size.",
        "a training that can move the weights by as much as they are large.",
        "start with a rate of 1e-3 for Adam and 1e-2 for SGD.",
    )
