"""The code on a page of the documentation, run."""

import contextlib
import io
import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"


def blocks_of(page):
    """Return the fenced blocks of a page: language, content, and the line where it begins."""
    text = (DOCS / page).read_text(encoding="utf-8")
    fenced = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in fenced]


def run_page(page):
    """Run the Python blocks of a page in one namespace.

    Returns:
        For each block of text, its first line, its content, and what the Python block before it
        printed.
    """
    namespace = {"__name__": page}
    printed, shown = "", []
    for language, content, line in blocks_of(page):
        if language == "python":
            # TensorFlow reads the source of a step, by its line.
            code = compile("\n" * (line - 1) + content, str(DOCS / page), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, namespace)
            printed = out.getvalue()
        elif language == "text":
            shown.append((line, content, printed))
    return shown
