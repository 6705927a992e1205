"""PG713, OtherLearningRate: in trials, the program learns at another learning rate only.

Checked at `level="full"`: the program is trained for some hundred steps on a part of the rows, as
it is and with its learning rate ten, a hundred and more times higher and lower, each time from the
same start, and its loss is measured on the other rows. This is reported if another rate brings most
of what can be learned and its own less than half of that, from two starts. How much can be learned
shows a training on inputs of other rows, which learns nothing but the frequencies of labels.

A schedule is replaced by its highest rate. A training that is longer than trials, or of unknown
length, is given the benefit of the doubt: a rate that would do after so many steps is not reported.

How sure: a warning, shown by losses on rows that were not trained on, from two starts; an error if
the program as it is becomes NaN or infinite there.
"""

from __future__ import annotations

from perigee.diagnostics._comparison import Comparison, told
from perigee.diagnostics._finding import Finding


def check(trials: Comparison) -> list[Finding]:
    """Report another learning rate as the cause."""
    cause = trials.cause
    if cause is None or cause.kind != "rate":
        return []
    factor = cause.variation.factor
    other = trials.rate * factor
    what = f"At a learning rate of {other:.3g}"
    if len(trials.optimizers) > 1:
        instead, fix = "these", f"try learning rates {factor:g} times as high."
        what = f"At learning rates {factor:g} times as high"
    elif not trials.has_schedule:
        instead, fix = f"{trials.rate:.3g}", f"try a learning rate of {other:.3g}."
    else:
        instead = "the schedule"
        fix = f"try a schedule with rates of about {other:.3g} for most of the training."
        what = f"At a constant learning rate of {other:.3g}"
    return [
        Finding(
            code="PG713",
            name="OtherLearningRate",
            severity=trials.severity,
            happened=told(f"{what} instead of {instead}", cause),
            expected="a learning rate at which the program learns.",
            fix=fix,
        )
    ]
