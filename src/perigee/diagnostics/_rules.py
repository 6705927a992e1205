"""The rules of `check`, in the order in which findings of one severity are reported."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from perigee._errors import PerigeeError, keeping_refusals
from perigee.diagnostics import (
    activations,
    alignment,
    answers,
    balance,
    beginnings,
    broadcasts,
    calls,
    composition,
    constant_output,
    constants,
    counters,
    counting,
    coverage,
    dead,
    decays,
    distributions,
    dominance,
    draws,
    dropouts,
    encodings,
    evaluation,
    exchanges,
    exploding,
    finite,
    frozen,
    gradients,
    growth,
    heads,
    idle,
    leaks,
    linearity,
    lookups,
    means,
    mixing,
    modes,
    order,
    outside,
    overlap,
    padding,
    pairing,
    penalties,
    positions,
    ranges,
    rates,
    reach,
    resets,
    resumption,
    retraces,
    scales,
    scores,
    sharing,
    signs,
    singles,
    stability,
    targets,
    undivided,
    unmeasured,
    unweighted,
    vanishing,
    weights,
    zeroes,
)
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._guards import GUARDS
from perigee.diagnostics._report import sorted_out
from perigee.diagnostics._trying import OF_TRIALS
from perigee.diagnostics.fence import CODE as RULE_FAILED
from perigee.diagnostics.fence import Fence, telling

Rule = Callable[[Evidence], list[Finding]]
"""Tables of rules map each one to the code of what it finds or raises."""

OF_DATA: Mapping[Rule, str] = {
    finite.check: "PG320",
    constants.check: "PG322",
    leaks.check: "PG324",
    overlap.check: "PG323",
    stability.check: "PG329",
    composition.check: "PG328",
    order.check: "PG327",
    alignment.check: "PG330",
}
"""Look at the data alone; the first ones, since what is wrong with it shows everywhere."""

FIRST: Mapping[Rule, str] = {lookups.check: "PG326"}
"""Where one finds something, the step is not run again: some frameworks refuse unknown ids."""

OF_STEPS: Mapping[Rule, str] = {
    ranges.check: "PG205",
    balance.check: "PG331",
    idle.check: "PG112",
    calls.check: "PG101",
    exchanges.check: "PG121",
    scales.check: "PG321",
    targets.check: "PG325",
    pairing.check: "PG211",
    broadcasts.check: "PG212",
    signs.check: "PG222",
    mixing.check: "PG233",
    distributions.check: "PG223",
    heads.check: "PG225",
    reach.check: "PG226",
    answers.check: "PG221",
    weights.check: "PG215",
    padding.check: "PG214",
    growth.check: "PG220",
    dead.check: "PG122",
    constant_output.check: "PG224",
    gradients.check: "PG120",
    linearity.check: "PG123",
    sharing.check: "PG128",
    vanishing.check: "PG130",
    exploding.check: "PG131",
    activations.check: "PG132",
    beginnings.check: "PG133",
    dominance.check: "PG134",
    decays.check: "PG135",
    frozen.check: "PG126",
    zeroes.check: "PG127",
    draws.check: "PG444",
    counting.check: "PG445",
    modes.check: "PG440",
    singles.check: "PG443",
    evaluation.check: "PG441",
    dropouts.check: "PG442",
    penalties.check: "PG229",
    counters.check: "PG125",
    rates.check: "PG124",
    coverage.check: "PG110",
    unmeasured.check: "PG232",
    unweighted.check: "PG231",
    resets.check: "PG234",
    scores.check: "PG230",
    means.check: "PG216",
    encodings.check: "PG227",
}
"""Look at what the Step does on a batch."""

Moment = Literal[
    "rehearsed",
    "first batch",
    "updates",
    "ran",
    "changed",
    "kept",
    "kept validation",
    "kept program",
    "saved",
]

OF_FIT: Mapping[Moment, Mapping[Callable[..., list[Finding] | None], str]] = {
    # `train_step` was rehearsed: the Step, the rehearsal, the batch, whether losses are trusted.
    "rehearsed": {pairing.check_rehearsal: "PG211"},
    # That batch, as tensors.
    "first batch": {undivided.check: "PG761"},
    # All that the Step updates is known: rehearsals on batches of whatever structure.
    "updates": {idle.check_rehearsals: "PG112", coverage.check_rehearsals: "PG110"},
    # A program has run.
    "ran": {retraces.check: "PG420", outside.check: "PG446"},
    # The Step has changed: how often since it was first compiled, and its attributes that did.
    "changed": {retraces.check_changes: "PG420"},
    # The training may be resumed: the feed of its data.
    "kept": {resumption.check_feed: "PG430"},
    # So may its validations: their feed.
    "kept validation": {resumption.check_validation_feed: "PG430"},
    # A program has run that may be resumed.
    "kept program": {resumption.check_program: "PG430"},
    # A position in the data was saved: its kind, its bytes, how many are usual, what to do.
    "saved": {positions.check: "PG431"},
}
"""Are cheap enough for each training; by the moment at which they are asked, and with what."""

_EXPLAINED: dict[str, Sequence[str]] = {
    "PG203": ("PG211", "PG212"),
    "PG204": ("PG120", "PG221"),
    "PG206": ("PG133", "PG223", "PG225"),
    "PG233": ("PG223",),  # a softmax over the batch is not a distribution over the classes either
    "PG122": ("PG120", "PG224"),  # no gradient passes dead units
    "PG224": ("PG133",),
    "PG130": ("PG132",),
    "PG132": ("PG221",),  # nearly constant outputs have nearly the same loss for all labels
    "PG320": ("PG321", "PG325", "PG330"),
    "PG321": ("PG131", "PG132", "PG133"),
    "PG322": ("PG221", "PG331"),
    "PG325": ("PG131",),
}
"""For each code, the codes of findings that it explains, which are dropped."""


def known_codes() -> frozenset[str]:
    """Return the codes of all errors and findings."""
    tables = OF_DATA, FIRST, OF_STEPS, OF_TRIALS, *OF_FIT.values()
    rules = {code for table in tables for code in table.values()}
    return frozenset({PerigeeError.code, RULE_FAILED, *GUARDS, *rules, *_codes_below(PerigeeError)})


def _codes_below(error: type[PerigeeError]) -> set[str]:
    return {code for sub in error.__subclasses__() for code in (sub.code, *_codes_below(sub))}


def findings_of(moment: Moment, *about: Any) -> list[Finding]:
    """Run the rules of `fit` for a moment; those that fail are findings too.

    Args:
        moment: Which one; see `OF_FIT`.
        about: What they look at.

    Raises:
        PairingError: If the loss does not depend on which label belongs to which example.
    """
    fence = Fence()
    found = [finding for rule in OF_FIT[moment] for finding in fence.run(rule, *about)]
    return [*found, *fence.findings()]


def examine(evidence: Evidence) -> list[Finding]:
    """Run all rules; one that fails is reported, and ends nothing.

    Returns:
        Findings, the most severe first, including errors raised by the rehearsal. If the step runs
        despite them, the other rules run as well.
    """
    fence = Fence()
    found = _run(OF_DATA, evidence, fence)
    is_recorded = False
    with keeping_refusals() as refused:
        try:
            is_recorded = _rehearse(evidence, fence)
        except PerigeeError as error:
            refused.append(error)
        except Exception:
            if not refused:  # otherwise the refusal is the cause
                raise
    found += [_as_finding(error) for error in refused]
    if is_recorded:
        unknown = _run(FIRST, evidence, fence)
        told = {error.code for error in refused}
        found += unknown or [f for f in _run(OF_STEPS, evidence, fence) if f.code not in told]
    return sorted_out([*found, *fence.findings()], _EXPLAINED)


def _rehearse(evidence: Evidence, fence: Fence) -> bool:
    """Run the step and record what it does; false if Perigee failed.

    Errors of the user's code are raised. Errors caused by recording are not: running the step
    without it tells the two apart.
    """
    try:
        with telling(fence):
            evidence.rehearse()
    except PerigeeError:
        raise
    except Exception as error:
        evidence.rehearse_alone()
        fence.add("that records a step", error)
        return False
    return True


def _run(rules: Iterable[Rule], evidence: Evidence, fence: Fence) -> list[Finding]:
    found: list[Finding] = []
    for rule in rules:
        try:
            found += fence.run(rule, evidence)
        except PerigeeError as error:
            found.append(_as_finding(error))
    return list(dict.fromkeys(found))


def _as_finding(error: PerigeeError) -> Finding:
    return Finding(
        code=error.code,
        name=type(error).__name__,
        severity="error",
        happened=error.happened,
        expected=error.expected,
        fix=error.fix,
        items=error.items,
    )
