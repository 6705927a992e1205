"""The code on a page of the documentation, run."""

import contextlib
import io
import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"


_FENCED = re.compile(r'^```(\w*)(?: title="(.+?)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def blocks_of(page):
    """Return the fenced blocks of a page: language, content, and the line where it begins.

    Files that a page says to write are left out: `files_of` has them.
    """
    text = (DOCS / page).read_text(encoding="utf-8")
    fenced = [m for m in _FENCED.finditer(text) if m[2] is None]
    return [(m[1], m[3], text.count("\n", 0, m.start(3)) + 1) for m in fenced]


def files_of(page):
    """Return the files that a page says to write: their content by their name."""
    text = (DOCS / page).read_text(encoding="utf-8")
    return {m[2]: m[3] for m in _FENCED.finditer(text) if m[2] is not None}


def run_page(page, **given):
    """Run the Python blocks of a page in one namespace.

    Args:
        page: Its path below `docs`.
        given: What the page takes for granted, by name.

    Returns:
        For each block of text that follows Python, its first line, its content, and what the
        Python block before it printed.
    """
    namespace = {"__name__": page, **given}
    printed, shown = None, []
    for language, content, line in blocks_of(page):
        if language == "python":
            # TensorFlow reads the source of a step, by its line.
            code = compile("\n" * (line - 1) + content, str(DOCS / page), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, namespace)
            printed = out.getvalue()
        elif language == "sh":
            printed = None
        elif language == "text" and printed is not None:
            shown.append((line, content, printed))
    return shown
