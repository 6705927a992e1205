"""Write `errors.md`, the page of every error code, from the docstrings of the error classes.

python docs/generate_errors.py
"""

from itertools import groupby
from pathlib import Path

from perigee._cli.pages import Page, all_pages

PAGE = Path(__file__).with_name("errors.md")

INTRODUCTION = """\
# Errors

<!-- Written by docs/generate_errors.py from the docstrings in src/perigee/_errors. -->

Every error that Perigee raises on its own account has a code, and a message of four parts: what
happened (with the values that were seen), what was expected, how to fix it, and where to read
more. The same page is printed by `perigee explain CODE`. An exception that your own code raises
comes out as it is, with a note that says at which step it happened.
"""


def render() -> str:
    """Return the whole page: one section for each code, grouped by subject."""
    parts = [INTRODUCTION]
    for subject, pages in groupby(all_pages().values(), key=lambda page: page.subject):
        if subject:
            parts.append(f"## {subject}\n")
        parts += [_section(page) for page in pages]
    return "\n".join(parts)


def _section(page: Page) -> str:
    level = "###" if page.subject else "##"
    also = ", ".join(f"`{name}`" for name in page.caught_as)
    caught = f"Also caught as {also}.\n\n" if also else ""
    return f"{level} {page.code}: {page.name}\n\n{caught}{page.text}\n"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    print(f"{PAGE.name}: {len(all_pages())} codes")
