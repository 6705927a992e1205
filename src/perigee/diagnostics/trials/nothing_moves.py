"""PG711, NothingMoves: updates so small that the weights hardly change.

Checked at `level="full"`: over a trial, the median update of a kernel was less than a hundred
thousandth of its norm, and with updates of the usual size the loss falls: a model that is
fine-tuned may be trained enough already. Usual causes: a learning rate far too low, gradients that
vanish, a loss divided by a large number, a rate that is multiplied by 0. Schedules are not checked:
they may begin at 0.

How sure: a warning, shown by the updates of the trial, and by the loss with larger ones.
"""

from __future__ import annotations

from dataclasses import replace

from perigee.diagnostics._finding import Finding
from perigee.diagnostics._trials import Trials, median_ratio

_LEAST, _USUAL = 1e-5, 1e-3
_LEAST_GAIN = 0.5
"""The part of the loss that updates of the usual size take away, at least."""


def check(trials: Trials) -> list[Finding]:
    """Examine the size of the updates."""
    if trials.optimizer is None or trials.has_schedule or trials.own.bad is not None:
        return []
    ratio = median_ratio(trials.own)
    if ratio is None or ratio >= _LEAST or not _learns_faster(trials, _USUAL / ratio):
        return []
    return [
        Finding(
            code="PG711",
            name="NothingMoves",
            severity="warning",
            happened=f"In a trial, a step moved the weights by {ratio:.2g} of their size.",
            expected=f"updates of at least {_LEAST:g} of the weights; {_USUAL:g} is usual.",
            fix="raise the learning rate, and check that the loss is not divided twice.",
        )
    ]


def _learns_faster(trials: Trials, factor: float) -> bool:
    own, other = trials.own.loss, trials.of(replace(trials.unchanged, factor=factor)).loss
    return own - other >= _LEAST_GAIN * abs(own)
