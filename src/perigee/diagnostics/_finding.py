"""The result of a diagnostic: a suspected problem, in the same four parts as an error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from perigee._errors import compose


@dataclass(frozen=True, slots=True)
class Finding:
    """A suspected problem, or something worth knowing.

    Attributes:
        code: Stable identifier of the rule, such as `"PG110"`.
        name: Readable name of the rule.
        severity: `"error"`, `"warning"` or `"hint"`.
        happened: What was observed, with values.
        expected: What would have been right.
        fix: What to change.
        items: What it is about, by path.
    """

    code: str
    name: str
    severity: Literal["error", "warning", "hint"]
    happened: str
    expected: str
    fix: str
    items: tuple[str, ...] = ()

    def __str__(self) -> str:
        return compose(self.name, self.code, self.happened, self.expected, self.fix, self.items)

    def facts(self) -> dict[str, Any]:
        """Return its parts as plain values, for files and other programs."""
        return {
            "code": self.code,
            "name": self.name,
            "severity": self.severity,
            "happened": self.happened,
            "items": list(self.items),
            "expected": self.expected,
            "fix": self.fix,
        }
