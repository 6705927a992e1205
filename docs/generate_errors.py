"""Write `errors.md` and a page for each code, from the docstrings of error classes and rules.

python docs/generate_errors.py
"""

from collections.abc import Collection, Iterable
from itertools import groupby
from pathlib import Path

from perigee._cli.pages import Page, all_pages

HERE = Path(__file__).parent

INTRODUCTION = """\
# Errors and findings

<!-- Written by docs/generate_errors.py from the docstrings in src/perigee. -->

Every error that Perigee itself raises, and every finding that it reports, has a code and
a message of four parts: what happened (with values), what was expected, how to fix it, and where to
read more. `perigee explain CODE` prints the page of a code. An exception in your own code is raised
unchanged, with a note that names the step.
"""

REFUSALS = """\
## The evidence for an error, and which errors can be turned off

`fit` and similar functions refuse a program only on evidence: what it did, or its arguments. This
table lists it, without errors about arguments and files. If a correct program may do the same, the
last column says "yes": `ignore_findings = ("PG104",)` in the Step, or `ignore_findings=["PG104"]`
of `keras_fit`, turns the error off. Every finding can be turned off in this way.
"""

TURNED_OFF = """\
## If it is intended

`ignore_findings = ("{code}",)` in a Step, or `ignore_findings=["{code}"]` of `pg.keras_fit`, turns
it off. `check` can ignore it like a finding: [Check](../check.md).
"""

LEFT_OUT = """\
## If it is intended

`pg.check(step, data, ignore=["{code}"])` and `perigee check FILE --ignore {code}` ignore it once,
`ignore_findings = ("{code}",)` in a Step wherever that Step is checked or trained, and
`ignore = ["{code}"]` under `[tool.perigee.check]` in `pyproject.toml` for a project. More about
findings: [Check](../check.md).
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
    """Return the table of errors about programs: what shows each, and whether it can be off."""
    rows = [
        f"| {page.code} | {page.name} | {page.shown_by} | "
        f"{'yes' if page.can_be_ignored else 'no'} |"
        for page in pages
        if page.shown_by
    ]
    return ["| code | name | shown by | can be turned off |", "|---|---|---|---|", *rows]


def _page(page: Page) -> str:
    also = ", ".join(f"`{name}`" for name in page.caught_as)
    if page.is_finding:
        kind = "A [finding](../errors.md)."
    else:
        kind = f"An [error](../errors.md){f', also caught as {also}' if also else ''}."
    parts = [f"# {page.code}: {page.name}", kind, page.text]
    if page.is_finding:
        parts.append(LEFT_OUT.format(code=page.code).rstrip())
    elif page.can_be_ignored:
        parts.append(TURNED_OFF.format(code=page.code).rstrip())
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    write()
