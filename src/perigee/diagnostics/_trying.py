"""The rules of `check(..., level="full")`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from perigee._events.protocols import Feed
from perigee.diagnostics._causes import sorted_out
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._trials import Trials
from perigee.diagnostics.fence import Fence
from perigee.diagnostics.trials import (
    nothing_moves,
    other_learning_rate,
    outputs_do_not_follow,
    trial_not_finite,
)

OF_TRIALS: Mapping[Callable[[Trials], list[Finding]], str] = {
    trial_not_finite.check: "PG710",
    nothing_moves.check: "PG711",
    outputs_do_not_follow.check: "PG712",
    other_learning_rate.check: "PG713",
}
"""Rules about the results of some hundred steps."""

_EXPLAINED: Mapping[str, Sequence[str]] = {
    "PG320": ("PG710",),
    "PG120": ("PG711", "PG713"),
    "PG122": ("PG711", "PG713"),
    "PG124": ("PG711", "PG713"),
    "PG710": ("PG713",),
    "PG711": ("PG713",),
}
"""For each code, the codes of findings that it explains, which are dropped."""


def try_out(
    evidence: Evidence, found: Sequence[Finding], open_feed: Callable[[], Feed]
) -> list[Finding]:
    """Run the rules that need some hundred steps, on a copy of the state.

    Args:
        evidence: Evidence about the Step.
        found: The findings made without trials.
        open_feed: Opens the training data from the start, each time.

    Returns:
        All findings, the most severe first. A Step that cannot be rehearsed gets no trial.
    """
    if evidence.training.rehearsal is None:
        return list(found)
    trials, fence = Trials(evidence, open_feed), Fence()
    tried = [finding for rule in OF_TRIALS for finding in fence.run(rule, trials)]
    return sorted_out([*found, *tried, *fence.findings()], _EXPLAINED)
