"""The rules of `check(..., level="full")`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from perigee._events.protocols import Feed
from perigee.diagnostics import rate_trials, standstill, trial_values, unfollowed
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._report import sorted_out
from perigee.diagnostics._trials import Trials
from perigee.diagnostics.fence import Fence

OF_TRIALS: Mapping[Callable[[Trials], list[Finding]], str] = {
    trial_values.check: "PG710",
    standstill.check: "PG711",
    unfollowed.check: "PG712",
    rate_trials.check: "PG713",
}
"""Rules about the results of some hundred steps, with the code of each."""

_EXPLAINED: Mapping[str, Sequence[str]] = {
    "PG320": ("PG710",),
    "PG120": ("PG711", "PG713"),
    "PG122": ("PG711", "PG713"),
    "PG124": ("PG711", "PG713"),
    "PG710": ("PG713",),
    "PG711": ("PG713",),
}
"""Findings by what explains them: they say the same once more."""


def try_out(
    evidence: Evidence, found: Sequence[Finding], open_feed: Callable[[], Feed]
) -> list[Finding]:
    """Run the rules that need some hundred steps, on a copy of the state.

    Args:
        evidence: What is known of the Step.
        found: What was found without trials.
        open_feed: Opens data to train on, anew each time.

    Returns:
        All findings, the worst first. A Step that cannot be rehearsed is not tried.
    """
    if evidence.training.rehearsal is None:
        return list(found)
    trials, fence = Trials(evidence, open_feed), Fence()
    tried = [finding for rule in OF_TRIALS for finding in fence.run(rule, trials)]
    return sorted_out([*found, *tried, *fence.findings()], _EXPLAINED)
