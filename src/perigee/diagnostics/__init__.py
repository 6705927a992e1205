"""Checks: certain errors are raised, suspected problems are returned as findings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from perigee._events.protocols import Feed
from perigee._execution import Program
from perigee._rehearsal.discovery import Rehearsal
from perigee._step.step import Step
from perigee.diagnostics import (
    coverage,
    idle,
    outside,
    pairing,
    positions,
    resumption,
    retraces,
    undivided,
)
from perigee.diagnostics._evidence import Evidence as Evidence
from perigee.diagnostics._evidence import rows_of as rows_of
from perigee.diagnostics._finding import Finding as Finding
from perigee.diagnostics._guards import GUARDS as GUARDS
from perigee.diagnostics._guards import Guards as Guards
from perigee.diagnostics._report import Report as Report
from perigee.diagnostics._rules import examine as examine
from perigee.diagnostics._rules import known_codes as known_codes
from perigee.diagnostics._trying import try_out as try_out
from perigee.diagnostics.fence import Fence as Fence
from perigee.diagnostics.fence import guarded as guarded
from perigee.diagnostics.fence import telling as telling
from perigee.diagnostics.labels import LossChecks as LossChecks


def after_rehearsal(
    step: Step, rehearsal: Rehearsal, batch: Any, checks: LossChecks
) -> list[Finding]:
    """Run the cheap checks that are certain, after a step has been rehearsed.

    Args:
        step: The Step.
        rehearsal: Of its `train_step`.
        batch: Tensors.
        checks: The checks that saw each call of a loss meanwhile.

    Raises:
        PairingError: If the loss does not depend on which label belongs to which example.
    """
    trusts_losses = not checks.may_mix
    return _found((pairing.check, step, rehearsal, batch, trusts_losses), (undivided.check, batch))


def of_updates(rehearsals: Sequence[Rehearsal]) -> list[Finding]:
    """Run the rules about everything that a Step updates, over batches of every structure."""
    return _found((idle.check, rehearsals), (coverage.check, rehearsals))


def after_running(program: Program) -> list[Finding]:
    """Run the rules that need a program that has run."""
    return _found((retraces.check, program), (outside.check, program))


def of_changes(changes: int, attributes: Sequence[str]) -> list[Finding]:
    """Report a Step that has changed this often since it was first compiled."""
    return _found((retraces.check_changes, changes, attributes))


def of_a_run(feed: Feed) -> list[Finding]:
    """Run the rules for a training that may be resumed."""
    return _found((resumption.check_feed, feed))


def of_a_validation(feed: Feed) -> list[Finding]:
    """Run the rules for the validation data of such a training."""
    return _found((resumption.check_validation_feed, feed))


def of_a_position(kind: str, size_bytes: int, most_bytes: int, fix: str) -> list[Finding]:
    """Run the rules that need a saved position of the data."""
    return _found((positions.check, kind, size_bytes, most_bytes, fix))


def of_a_run_after_running(program: Program) -> list[Finding]:
    """Run the rules for resuming that need a program that has run."""
    return _found((resumption.check_program, program))


def _found(*rules: tuple[Any, ...]) -> list[Finding]:
    """Run rules, each followed by its arguments; a rule that fails becomes a finding."""
    fence = Fence()
    found = [finding for rule, *arguments in rules for finding in fence.run(rule, *arguments)]
    return [*found, *fence.findings()]
