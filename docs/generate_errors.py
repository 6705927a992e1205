"""Write `errors.md` and a page for each code, from the docstrings of error classes and rules.

The programs of a page stand in `programs/<code>.py`: what both begin with, and after the lines
`# Wrong` and `# Right` what each of them goes on with.

python docs/generate_errors.py
"""

import re
from collections.abc import Collection, Iterable
from itertools import groupby
from pathlib import Path
from textwrap import fill

from perigee._cli.pages import Page, all_pages

HERE = Path(__file__).parent
WIDTH = 100

INTRODUCTION = """\
# Errors and findings

<!-- Written by docs/generate_errors.py from the docstrings in src/perigee. -->

Every error that Perigee itself raises, and every finding that it reports, has a code and a message
of four parts: what happened (with the values that were seen), what was expected, how to fix it, and
where to read more. `perigee explain CODE` prints the text of its page. An exception from your own
code is raised unchanged, with a note that names the step at which it happened.
"""

REFUSALS = """\
## The evidence for each error, and which can be turned off

This table gives the evidence on which `fit` and similar functions reject a program. Errors about
arguments and files are not listed. If a right program may do the same, the last column says "yes".
Then `ignore_findings = ("PG104",)` in the Step, or `ignore_findings=["PG104"]` of `keras_fit`,
turns the error off. Every finding can be turned off in this way.
"""

TURNED_OFF = """\
## If this is intended

`ignore_findings = ("{code}",)` in a Step, or `ignore_findings=["{code}"]` of `pg.keras_fit`, turns
the error off. In `check` it can be ignored like a finding: [Finding silent bugs](../check.md).
"""

HOW_SURE = "How sure: an error, which {off} be turned off. It rests on {shown_by}."

PROGRAMS = """\
## A wrong program

```python
{wrong}
```

## A right one

```python
{right}
```
"""

LEFT_OUT = """\
## If this is intended

Ignore it once with `pg.check(step, data, ignore=["{code}"])` or
`perigee check FILE --ignore {code}`; for a Step, wherever it is checked or trained, with
`ignore_findings = ("{code}",)` in the Step; for a project, with `ignore = ["{code}"]` under
`[tool.perigee.check]` in `pyproject.toml`. More about findings:
[Finding silent bugs](../check.md).
"""


def render() -> dict[str, str]:
    """Return every page by its path below `docs`."""
    pages = all_pages()
    return {"errors.md": _index(pages.values())} | {
        f"errors/{page.code}.md": _page(page) for page in pages.values()
    }


def write() -> None:
    """Write every page, and remove those of codes that are gone."""
    pages = render()
    for path in HERE.glob("errors/*.md"):
        if path.relative_to(HERE).as_posix() not in pages:
            path.unlink()
    (HERE / "errors").mkdir(exist_ok=True)
    for name, text in pages.items():
        (HERE / name).write_text(text, encoding="utf-8")
    print(f"errors.md and {len(pages) - 1} codes")


def _index(pages: Collection[Page]) -> str:
    parts = [INTRODUCTION]
    for subject, of_subject in groupby(pages, key=lambda page: page.subject):
        if subject:
            parts.append(f"## {subject}\n")
        rows = [
            f"| [{page.code}](errors/{page.code}.md) | {page.name} | {page.summary} |"
            for page in of_subject
        ]
        parts.append("\n".join(["| code | name | meaning |", "|---|---|---|", *rows, ""]))
    return "\n".join([*parts, REFUSALS, *_refusals(pages)]) + "\n"


def _refusals(pages: Iterable[Page]) -> list[str]:
    """Return the table of errors about programs: the evidence, and whether it can be turned off."""
    rows = [
        f"| {page.code} | {page.name} | {page.shown_by} | "
        f"{'yes' if page.can_be_ignored else 'no'} |"
        for page in pages
        if page.shown_by
    ]
    return ["| code | name | evidence | can be turned off |", "|---|---|---|---|", *rows]


def _page(page: Page) -> str:
    also = ", ".join(f"`{name}`" for name in page.caught_as)
    if page.is_finding:
        kind = "A [finding](../errors.md)."
    else:
        kind = f"An [error](../errors.md){f', also caught as {also}' if also else ''}."
    parts = [f"# {page.code}: {page.name}", kind, page.text]
    if page.shown_by:
        off = "can" if page.can_be_ignored else "cannot"
        sure = HOW_SURE.format(off=off, shown_by=page.shown_by)
        parts.append(fill(sure, WIDTH, break_long_words=False, break_on_hyphens=False))
    parts += _programs(page.code)
    if page.is_finding:
        parts.append(LEFT_OUT.format(code=page.code).rstrip())
    elif page.can_be_ignored:
        parts.append(TURNED_OFF.format(code=page.code).rstrip())
    return "\n\n".join(parts) + "\n"


def _programs(code: str) -> list[str]:
    """Return what a page shows of its programs, if it has them."""
    path = HERE / "programs" / f"{code}.py"
    if not path.exists():
        return []
    parts = re.split(r"^# (?:Wrong|Right)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    both, wrong, right = (part.strip() for part in parts)
    return [PROGRAMS.format(wrong=_joined(both, wrong), right=_joined(both, right)).rstrip()]


def _joined(start: str, end: str) -> str:
    """Return two parts of a program with as many blank lines between them as are usual."""
    is_block = start.splitlines()[-1].startswith(" ") or end.startswith(("class ", "def "))
    return start + ("\n\n\n" if is_block else "\n\n") + end


if __name__ == "__main__":
    write()
