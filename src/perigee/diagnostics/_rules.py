"""The rules of `check`, in the order in which findings of one severity are reported."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

from perigee._errors import PerigeeError, keeping_refusals
from perigee._step.losses import computation_of
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
    overlap,
    padding,
    pairing,
    penalties,
    ranges,
    rates,
    reach,
    resets,
    scales,
    scores,
    sharing,
    signs,
    singles,
    stability,
    targets,
    unmeasured,
    unweighted,
    vanishing,
    weights,
    zeroes,
)
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._report import sorted_out
from perigee.diagnostics.fence import Fence, telling

Rule = Callable[[Evidence], list[Finding]]

OF_DATA: Sequence[Rule] = (
    finite.check,
    constants.check,
    leaks.check,
    overlap.check,
    stability.check,
    composition.check,
    order.check,
    alignment.check,
)
"""Rules about the data alone; they run first, since faulty data affects everything."""


def _uncovered(evidence: Evidence) -> list[Finding]:
    return coverage.check(evidence.rehearsals)


def _idle(evidence: Evidence) -> list[Finding]:
    return idle.check(evidence.rehearsals)


def _unpaired(evidence: Evidence) -> list[Finding]:
    rehearsal, seen = evidence.training.rehearsal, evidence.training.losses
    if rehearsal is not None:
        trusts_losses = bool(seen) and not any(computation_of(one.by).is_own for one in seen)
        pairing.check(
            evidence.step, rehearsal, evidence.batch, trusts_losses, lambda: evidence.probe
        )
    return []


BY_WAY_OF: Mapping[Rule, ModuleType] = {_uncovered: coverage, _idle: idle, _unpaired: pairing}
"""The modules of rules that are called through a function here."""


OF_STEPS: Sequence[Rule] = (
    ranges.check,
    balance.check,
    _idle,
    calls.check,
    exchanges.check,
    scales.check,
    targets.check,
    _unpaired,
    broadcasts.check,
    signs.check,
    mixing.check,
    distributions.check,
    heads.check,
    reach.check,
    answers.check,
    weights.check,
    padding.check,
    growth.check,
    dead.check,
    constant_output.check,
    gradients.check,
    linearity.check,
    sharing.check,
    vanishing.check,
    exploding.check,
    activations.check,
    beginnings.check,
    dominance.check,
    decays.check,
    frozen.check,
    zeroes.check,
    draws.check,
    counting.check,
    modes.check,
    singles.check,
    evaluation.check,
    dropouts.check,
    penalties.check,
    counters.check,
    rates.check,
    _uncovered,
    unmeasured.check,
    unweighted.check,
    resets.check,
    scores.check,
    means.check,
    encodings.check,
)
"""Rules about the Step's behavior on a batch."""

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
        unknown = _run([lookups.check], evidence, fence)
        # With ids out of range a step is not run again: some frameworks raise.
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


def _run(rules: Sequence[Rule], evidence: Evidence, fence: Fence) -> list[Finding]:
    found: list[Finding] = []
    for rule in rules:
        try:
            found += fence.run(rule, evidence, by=BY_WAY_OF.get(rule))
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


@cache
def known_codes() -> frozenset[str]:
    """Return the codes of all errors and rules."""
    rules = (_code_of(path) for path in Path(__file__).parent.glob("*.py"))
    return frozenset(_codes_below(PerigeeError)) | {code for code in rules if code}


def _codes_below(error: type[PerigeeError]) -> Iterator[str]:
    yield error.code
    for subclass in error.__subclasses__():
        yield from _codes_below(subclass)


def _code_of(path: Path) -> str | None:
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    head = re.match(r"(PG\d{3}), ", text)
    return None if head is None else head[1]
