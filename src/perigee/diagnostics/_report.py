"""What `check` returns: findings, the worst first."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from perigee.diagnostics._finding import Finding

SEVERITIES = ("error", "warning", "hint")


@dataclass(frozen=True, slots=True)
class Report:
    """Findings of `check`, the worst first; iterated over, it yields them.

    >>> print(pg.check(step, (x, y)))
    Nothing found.

    Attributes:
        findings: All of them: errors, then warnings, then hints.
    """

    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """Whether there is no error and no warning; hints may be there."""
        return all(finding.severity == "hint" for finding in self.findings)

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    def __len__(self) -> int:
        return len(self.findings)

    def __bool__(self) -> bool:
        raise TypeError("Ask a report for `.ok` or for its length: it is no truth value by itself.")

    def __str__(self) -> str:
        if not self.findings:
            return "Nothing found."
        counts = [(severity, self._count(severity)) for severity in SEVERITIES]
        head = ", ".join(f"{n} {s}{'s' if n > 1 else ''}" for s, n in counts if n)
        return "\n\n".join([f"{head}.", *(f"{f.severity}: {f}" for f in self.findings)])

    def _count(self, severity: str) -> int:
        return sum(finding.severity == severity for finding in self.findings)
