"""The rules of `check(..., level="full")`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from perigee._events.protocols import Feed
from perigee.diagnostics._causes import EXPLAINS, sorted_out
from perigee.diagnostics._comparison import Comparison
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics.fence import Fence
from perigee.diagnostics.trials import (
    initial_weights,
    input_scale,
    nothing_moves,
    other_learning_rate,
    outputs_do_not_follow,
    too_few_updates,
    trial_not_finite,
)

OF_TRIALS: Mapping[Callable[[Comparison], list[Finding]], str] = {
    trial_not_finite.check: "PG710",
    nothing_moves.check: "PG711",
    outputs_do_not_follow.check: "PG712",
    other_learning_rate.check: "PG713",
    input_scale.check: "PG714",
    initial_weights.check: "PG715",
    too_few_updates.check: "PG716",
}
"""Rules about the results of some hundred steps."""


def try_out(
    evidence: Evidence,
    found: Sequence[Finding],
    open_feed: Callable[..., Feed],
) -> list[Finding]:
    """Run the rules that need some hundred steps, on a copy of the state.

    Args:
        evidence: Evidence about the Step.
        found: The findings made without trials.
        open_feed: Opens data; see `perigee.data.open_feed`.

    Returns:
        All findings, the most severe first. A Step that cannot be rehearsed gets no trial.
    """
    if evidence.training.rehearsal is None:
        return list(found)
    trials, fence = Comparison(evidence, open_feed), Fence()
    shown = [finding.code for finding in found if finding.severity != "hint"]
    explained = {code for cause in shown for code in EXPLAINS.get(cause, ())}
    # What a finding explains needs no trial, which would cost more than all other rules together.
    rules = [rule for rule, code in OF_TRIALS.items() if code not in explained]
    tried = [finding for rule in rules for finding in fence.run(rule, trials)]
    return sorted_out([*found, *tried, *fence.findings()])
