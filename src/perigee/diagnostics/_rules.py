"""The rules of `check`, in the order in which findings of one severity are told."""

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
"""Tables map each rule to the code of what it finds or raises."""

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
"""Rules about the data alone; they run first, since faulty data affects everything."""

FIRST: Mapping[Rule, str] = {lookups.check: "PG326"}
"""If one finds ids out of range, the step is not run again: some frameworks raise."""

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
"""Rules about the Step's behavior on a batch."""

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
    # After the rehearsal: the Step, the rehearsal, the batch, whether to trust loss objects.
    "rehearsed": {pairing.check_rehearsal: "PG211"},
    # Then, too: the batch, as tensors.
    "first batch": {undivided.check: "PG761"},
    # Once all that the Step updates is known: a rehearsal for each structure of batches.
    "updates": {idle.check_rehearsals: "PG112", coverage.check_rehearsals: "PG110"},
    # After a program has run: the program.
    "ran": {retraces.check: "PG420", outside.check: "PG446"},
    # After the Step has changed: how often by now, and which attributes the last time.
    "changed": {retraces.check_changes: "PG420"},
    # When a run is opened, which may be resumed: the feed of the data.
    "kept": {resumption.check_feed: "PG430"},
    # The same for validation: the feed of its data.
    "kept validation": {resumption.check_validation_feed: "PG430"},
    # After a program of such a run has run: the program.
    "kept program": {resumption.check_program: "PG430"},
    # After a checkpoint: the kind of data, bytes of its position, the most expected, the fix.
    "saved": {positions.check: "PG431"},
}
"""Rules that are cheap enough for every training, by the moment at which they run."""

_EXPLAINED: dict[str, Sequence[str]] = {
    "PG203": ("PG211", "PG212"),
    "PG204": ("PG120", "PG221"),
    "PG206": ("PG133", "PG223", "PG225"),
    "PG233": ("PG223",),  # a softmax over the batch is no distribution over the classes either
    "PG122": ("PG120", "PG224"),  # nothing passes dead units
    "PG224": ("PG133",),
    "PG130": ("PG132",),
    "PG132": ("PG221",),  # outputs that are nearly constant have nearly one loss for all labels
    "PG320": ("PG321", "PG325", "PG330"),
    "PG321": ("PG131", "PG132", "PG133"),
    "PG322": ("PG221", "PG331"),
    "PG325": ("PG131",),
}
"""Findings by what explains them: they say the same once more."""


def known_codes() -> frozenset[str]:
    """Return the codes of all errors and findings."""
    tables = OF_DATA, FIRST, OF_STEPS, OF_TRIALS, *OF_FIT.values()
    rules = {code for table in tables for code in table.values()}
    return frozenset({PerigeeError.code, RULE_FAILED, *GUARDS, *rules, *_codes_below(PerigeeError)})


def _codes_below(error: type[PerigeeError]) -> set[str]:
    return {code for sub in error.__subclasses__() for code in (sub.code, *_codes_below(sub))}


def findings_of(moment: Moment, *about: Any) -> list[Finding]:
    """Run the rules of a training for one moment; a rule that fails becomes a finding.

    Args:
        moment: The moment; see `OF_FIT`.
        about: The arguments of its rules.

    Raises:
        PairingError: If the loss does not depend on which label belongs to which example.
    """
    fence = Fence()
    found = [finding for rule in OF_FIT[moment] for finding in fence.run(rule, *about)]
    return [*found, *fence.findings()]


def examine(evidence: Evidence) -> list[Finding]:
    """Run all rules; one that fails is told of, and ends nothing.

    Returns:
        Findings, the worst first; errors that the rehearsal refuses with are among them. Where
        the step runs in spite of them, the others are looked for as well.
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
            if not refused:  # what was refused is why it fails
                raise
    found += [_as_finding(error) for error in refused]
    if is_recorded:
        unknown = _run(FIRST, evidence, fence)
        told = {error.code for error in refused}
        found += unknown or [f for f in _run(OF_STEPS, evidence, fence) if f.code not in told]
    return sorted_out([*found, *fence.findings()], _EXPLAINED)


def _rehearse(evidence: Evidence, fence: Fence) -> bool:
    """Run the step, and write down what it does; false where Perigee could not.

    What the user's code raises comes out. What comes of listening to it does not: it is told apart
    by running the step without.
    """
    try:
        with telling(fence):
            evidence.rehearse()
    except PerigeeError:
        raise
    except Exception as error:
        evidence.rehearse_alone()
        fence.add("that writes down what a step does", error)
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
