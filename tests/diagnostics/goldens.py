"""What each rule says of its first sick program.

`python -m tests.diagnostics.goldens` writes it again. Numbers, which differ between
frameworks, stand as `#`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import perigee as pg
from tests.diagnostics.planted import ONLY_COMPILED, SICK

PAGE = Path(__file__).with_name("goldens.json")


def golden(finding: pg.Finding) -> str:
    """Return a finding as text, without its numbers and without the things that it lists."""
    text = f"{finding.severity}: {finding.name} [{finding.code}]: {finding.happened} "
    text += f"Expected: {finding.expected} Fix: {finding.fix}"
    text = re.sub(r"_\d+\b", "", text)  # `dense_3`: which one it is depends on what was made before
    return re.sub(r"-?\b\d[\d.]*(e[-+]?\d+)?\b|-?\binf\b", "#", text)


def goldens() -> dict[str, str]:
    """Return what is said, by code, as it was written."""
    return json.loads(PAGE.read_text(encoding="utf-8"))


def first(code: str) -> str:
    """Return the name of the program that a code has its golden of."""
    return next(iter((SICK | ONLY_COMPILED)[code]))


def main() -> None:
    said = {}
    for code, programs in sorted((SICK | ONLY_COMPILED).items()):
        report = pg.check(*programs[first(code)]())
        said[code] = next(golden(finding) for finding in report if finding.code == code)
    PAGE.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
