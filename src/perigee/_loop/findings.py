"""What is suspected of a training: each finding is kept, warned about and passed on once."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from perigee._errors import PerigeeWarning, is_internal
from perigee._step.step import Step
from perigee.diagnostics import GUARDS, Finding


class Findings:
    """Collects the findings about a Step that is trained.

    Args:
        step: The Step, whose `ignore_findings` are left out.
        guards: The codes of the guards that are wanted; the others are left out.

    Attributes:
        found: All findings, in the order in which they were reported.
    """

    def __init__(self, step: Step, guards: frozenset[str] = frozenset(GUARDS)) -> None:
        self.found: list[Finding] = []
        self._step = step
        self._unwanted = frozenset(GUARDS) - guards
        self._receivers: list[Callable[[Finding], None]] = []

    def report(self, findings: Sequence[Finding], warns: bool = True) -> None:
        """Keep findings and pass them on, each once.

        Args:
            findings: What was found.
            warns: Whether to warn about them.
        """
        left_out = {*self._step.ignore_findings, *self._unwanted}
        known = {str(finding) for finding in self.found}
        new = [f for f in findings if f.code not in left_out and str(f) not in known]
        self.found += new
        for finding in new:
            for receive in self._receivers:
                receive(finding)
        for finding in new if warns else ():
            warnings.warn(str(finding), PerigeeWarning, stacklevel=levels_to_caller())

    @contextmanager
    def passed_to(self, receive: Callable[[Finding], None]) -> Generator[None]:
        """Call `receive` with each finding that is reported within."""
        self._receivers.append(receive)
        try:
            yield
        finally:
            self._receivers.remove(receive)


def levels_to_caller() -> int:
    """Return the `stacklevel` at which a warning names the line that called Perigee."""
    frame, level = inspect.currentframe(), 0
    while frame is not None and is_internal(frame):
        frame, level = frame.f_back, level + 1
    return level
