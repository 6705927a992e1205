"""The program of a method as `fit` and its like use it: what is found in it is reported once."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Sequence

from perigee import _backends, diagnostics
from perigee._errors import PerigeeWarning
from perigee._execution import Execution, Nonfinite, Plan, Program, compiling
from perigee._step.frame import Method
from perigee._step.shown import Shown
from perigee._step.step import Step
from perigee._typing import Batch
from perigee.diagnostics import Finding
from perigee.writers.history import History


class Programs:
    """Gives the program of one method, and reports what its rehearsal found, once.

    Attributes:
        plan: How it runs; `None` while that is not decided.
        is_kept: Whether a run keeps the training.
        is_alone: Whether all batches have one structure, so that what the first one updates is all.
        tell: Is called with each finding when it is reported.
        reports: Tells whether a finding is wanted.
    """

    def __init__(
        self,
        step: Step,
        method: Method,
        execution: Execution,
        accumulate: int = 1,
        history: History | None = None,
        nonfinite: Nonfinite = "raise",
        watches: frozenset[str] = frozenset(),
    ) -> None:
        self._step, self._execution = step, execution
        self._method: Method = method
        self._accumulate, self._history = accumulate, history
        self._nonfinite: Nonfinite = nonfinite
        self._watches = watches
        self.plan: Plan | None = None
        self.is_kept = False
        self.is_alone = True
        self.tell: Callable[[Finding], None] = lambda finding: None
        self.reports: Callable[[Finding], bool] = lambda finding: True
        self._last: Program | None = None
        self._looked_at: Program | None = None
        self._checks = diagnostics.LossChecks()

    def __call__(self, batch: Batch) -> Program:
        with compiling():
            return self._program(batch)

    def _program(self, batch: Batch) -> Program:
        fence = diagnostics.Fence()
        with diagnostics.telling(fence):
            found = Program.of(
                self._step,
                self._method,
                batch,
                self._execution,
                observers=(diagnostics.guarded(self._checks),),
                accumulate=self._accumulate,
                nonfinite=self._nonfinite,
                watches=self._watches,
            )
        if self.plan is not None:  # also of a Step that has changed
            found.plan = self.plan
        is_new = self._last is not found
        if self._history is not None and not is_new:
            self.look_back()  # it has run an epoch
        self._last = found
        if self._history is not None:
            if found.findings is None:
                first = _backends.current().tensors(batch)
                about = self._step, found.rehearsal, first, not self._checks.may_mix
                found.findings = [
                    *diagnostics.findings_of("rehearsed", *about),
                    *diagnostics.findings_of("first batch", first),
                    *fence.findings(),
                ]
            self.report(found.findings)
            if self.is_alone and is_new:
                self.look_at_updates([found])
        return found

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
        if self.is_kept and self._last is not self._looked_at and self._last.traces:
            self._looked_at = self._last
            self.report(diagnostics.findings_of("kept program", self._last))

    def report(self, findings: Sequence[Finding], is_aloud: bool = True) -> None:
        """Put findings on the history and tell of them, each once, but for those that are meant.

        Args:
            findings: What was found.
            is_aloud: Whether to warn of them.
        """
        assert self._history is not None
        meant = self._step.ignore_findings
        findings = [f for f in findings if f.code not in meant and self.reports(f)]
        known = {str(finding) for finding in self._history.findings}
        new = [finding for finding in findings if str(finding) not in known]
        self._history.findings = [*self._history.findings, *new]
        for finding in new:
            self.tell(finding)
        for finding in new if is_aloud else ():
            warnings.warn(str(finding), PerigeeWarning, stacklevel=_levels_to_caller())


def _levels_to_caller() -> int:
    """Return the `stacklevel` at which a warning names the line that called Perigee."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and frame.f_globals.get("__name__", "").startswith("perigee."):
        frame, level = frame.f_back, level + 1
    return level
