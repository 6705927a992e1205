"""Findings as plain values, for files."""

from typing import Any


def facts_of(finding: Any) -> dict[str, Any]:
    """Return what a finding says, as plain values."""
    return {
        "code": finding.code,
        "name": finding.name,
        "severity": finding.severity,
        "happened": finding.happened,
        "items": list(finding.items),
        "expected": finding.expected,
        "fix": finding.fix,
    }
