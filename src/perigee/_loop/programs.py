"""The program of a method for the batch at hand; what is suspected of it is reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from perigee import _backends, diagnostics
from perigee._errors import PerigeeError
from perigee._execution import Execution, Nonfinite, Plan, Program, compiling
from perigee._execution.choice import preparing
from perigee._loop.findings import Findings
from perigee._step.frame import Method
from perigee._step.shown import Shown
from perigee._step.step import Step
from perigee._step.updates import internals
from perigee._typing import Batch
from perigee.diagnostics import Finding


class Programs:
    """Returns the program of one method of a Step, recompiled where the Step has changed.

    Args:
        step: The Step.
        method: Which of its methods.
        execution: How it runs.
        findings: Where to report what is found; `None` looks for nothing. A method that does not
            train is only searched for what makes its averages inexact.
        accumulate: Micro-batches an update.
        nonfinite: What happens when a returned value or the state is not finite.
        watches: What hooks want to know of the updates.
        plan: How it runs; `None` leaves that to the program until `use` is called.
        is_kept: Whether a run keeps the training, so that it may be resumed.
        is_alone: Whether all batches have one structure, so that the first one updates all that
            is ever updated.

    Attributes:
        step: The Step.
    """

    def __init__(
        self,
        step: Step,
        method: Method,
        execution: Execution,
        *,
        findings: Findings | None = None,
        accumulate: int = 1,
        nonfinite: Nonfinite = "raise",
        watches: frozenset[str] = frozenset(),
        plan: Plan | None = None,
        is_kept: bool = False,
        is_alone: bool = True,
    ) -> None:
        self.step = step
        self._method: Method = method
        self._findings, self._plan, self._accumulate = findings, plan, accumulate
        self._is_kept, self._is_alone = is_kept, is_alone
        self._execution = execution
        self._checks = diagnostics.LossChecks()
        self._make: Callable[..., Program] = partial(
            Program.of,
            step,
            method,
            execution=execution,
            observers=(diagnostics.guarded(self._checks),),
            accumulate=accumulate,
            nonfinite=nonfinite,
            watches=watches,
        )
        self._last: Program | None = None
        self._looked_at: Program | None = None

    def __call__(self, batch: Batch) -> Program:
        """Return the program for batches like this one."""
        with compiling(), preparing(self._execution):
            return self._program(batch)

    def _program(self, batch: Batch) -> Program:
        fence = diagnostics.Fence()
        try:
            with diagnostics.telling(fence), diagnostics.by_cause():
                found = self._make(batch=batch)
        except PerigeeError:
            internals(self.step).programs.clear()  # it may have been made despite the error
            raise
        if self._plan is not None:  # also of a Step that has changed
            found.use(self._plan)
        is_new = self._last is not found
        if is_new:
            about = self.step, found.rehearsal, batch
            self.report(diagnostics.findings_of("weighted", *about))
        if self._findings is None or self._method != "train_step":
            self._last = found
            return found
        if not is_new:
            self.look_back()  # it has run an epoch
        self._last = found

        def look() -> list[Finding]:
            first = _backends.current().tensors(batch)
            about = self.step, found.rehearsal, first, not self._checks.may_mix
            return [
                *diagnostics.findings_of("rehearsed", *about),
                *diagnostics.findings_of("first batch", first),
                *self._of_parts(found, first),
                *fence.findings(),
            ]

        self.report(found.suspected(look))
        if self._is_alone and is_new:
            self.look_at_updates([found])
        return found

    def _of_parts(self, found: Program, first: Batch) -> list[Finding]:
        """Look at what parts of a batch cannot add up, where a program divides batches."""
        is_of_one_process = found.is_split or not found.spans_processes
        if not (found.accumulates or found.is_split) or not is_of_one_process:
            return []
        about = self.step, found.rehearsal, first, self._accumulate, found.is_split
        with diagnostics.exchanging(*about) as rows:
            return diagnostics.findings_of("divided", rows)

    def use(self, plan: Plan) -> None:
        """Run as a plan says from now on."""
        self._plan = plan
        if self._last is not None:
            self._last.use(plan)

    def look_at_updates(self, programs: Sequence[Program]) -> None:
        """Report what is not updated on batches of any structure; each has its program."""
        self.report(diagnostics.findings_of("updates", [one.rehearsal for one in programs]))

    def samples(self) -> dict[str, Shown]:
        """Return what its program logged as samples since the last time."""
        return {} if self._last is None else self._last.samples()

    def look_back(self) -> None:
        """Report what is known only once the program has run."""
        if self._last is None:
            return
        self.report(diagnostics.findings_of("ran", self._last))
        has_run = self._last.traces or self._last.plan.mode == "eager"
        if self._is_kept and self._last is not self._looked_at and has_run:
            self._looked_at = self._last
            self.report(diagnostics.findings_of("kept program", self._last))

    def report(self, findings: Sequence[Finding], warns: bool = True) -> None:
        """Report findings; see `Findings.report`."""
        if self._findings is not None:
            self._findings.report(findings, warns)
