"""The result of a diagnostic: a suspected problem, in the same four parts as an error."""

from __future__ import annotations

import re
from dataclasses import dataclass
from html import escape
from textwrap import shorten
from typing import Any, Literal

from perigee._errors import PerigeeError, compose, listed


@dataclass(frozen=True, slots=True, repr=False)
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
        explains: Codes and names of findings that follow from it, as `"PG133 LargeLoss"`.
    """

    code: str
    name: str
    severity: Literal["error", "warning", "hint"]
    happened: str
    expected: str
    fix: str
    items: tuple[str, ...] = ()
    explains: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = compose(self.name, self.code, self.happened, self.expected, self.fix, self.items)
        if not self.explains:
            return text
        *lines, more = text.splitlines()
        return "\n".join([*lines, f"Explains: {', '.join(self.explains)}.", more])

    def __repr__(self) -> str:
        return f"<{self.severity} {self.code} {self.name}: {shorten(self.happened, 100)}>"

    def _repr_html_(self) -> str:
        """Show it in a notebook."""
        items = "".join(f"<li>{escape(item)}</li>" for item in listed(self.items))
        return (
            f"<div><p><b>{self.severity}: {escape(self.name)} [{escape(self.code)}]</b><br/>"
            f"{_marked(self.happened)}</p>"
            + (f"<ul>{items}</ul>" if items else "")
            + f"<p>Expected: {_marked(self.expected)}<br/>Fix: {_marked(self.fix)}<br/>"
            + (f"Explains: {escape(', '.join(self.explains))}.<br/>" if self.explains else "")
            + f"More: <code>perigee explain {escape(self.code)}</code></p></div>"
        )

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
        } | ({"explains": list(self.explains)} if self.explains else {})


def of_error(error: PerigeeError, severity: Literal["error", "warning"] = "error") -> Finding:
    """Return an error about a program as a finding."""
    return Finding(
        code=error.code,
        name=type(error).__name__,
        severity=severity,
        happened=error.happened,
        expected=error.expected,
        fix=error.fix,
        items=error.items,
    )


def _marked(text: str) -> str:
    """Return a text as HTML, with what is between backticks as code."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))
