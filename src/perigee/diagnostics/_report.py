"""The result of `check`: findings, the most severe first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from perigee.diagnostics._causes import SEVERITIES
from perigee.diagnostics._finding import Finding


@dataclass(frozen=True, slots=True, repr=False)
class Report:
    """Findings of `check`, the most severe first; iterating over it yields them.

    >>> print(pg.check(step, (x, y)))
    Nothing found.

    Attributes:
        findings: Errors, then warnings, then hints; causes first. What one explains is listed in
            its `explains`, and is no finding of its own.
    """

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there are no errors and no warnings; there may be hints."""
        return all(finding.severity == "hint" for finding in self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __bool__(self) -> bool:
        raise TypeError("A report has no truth value: use `.ok` or its length.")

    def __str__(self) -> str:
        return "\n\n".join([self._head(), *(f"{f.severity}: {f}" for f in self.findings)])

    def __repr__(self) -> str:
        codes = ", ".join(f"{finding.code} {finding.name}" for finding in self.findings)
        return f"<Report: {self._head()[:-1]}{codes and ': '}{codes}>"

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        shown = "".join(finding._repr_html_() for finding in self.findings)
        return f"<div><p>{self._head()}</p>{shown}</div>"

    def _head(self) -> str:
        counts = [(severity, self._count(severity)) for severity in SEVERITIES]
        head = ", ".join(f"{n} {s}{'s' if n > 1 else ''}" for s, n in counts if n)
        return f"{head}." if head else "Nothing found."

    def _count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)
