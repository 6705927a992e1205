"""The code on a page of the documentation runs, and prints what the page says."""

import contextlib
import io
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"


def blocks_of(page):
    """Return the fenced blocks of a page: language, content, and the line where it begins."""
    text = (DOCS / page).read_text(encoding="utf-8")
    fenced = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [(m[1], m[2], text.count("\n", 0, m.start(2)) + 1) for m in fenced]


def run(blocks, page):
    """Run the Python blocks in one namespace.

    Returns:
        For each block of text, its first line, its content, and what the Python block before it
        printed.
    """
    namespace = {"__name__": page}
    printed, shown = "", []
    for language, content, line in blocks:
        if language == "python":
            code = compile("\n" * (line - 1) + content, str(DOCS / page), "exec")
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(code, namespace)
            printed = out.getvalue()
        elif language == "text":
            shown.append((line, content, printed))
    return shown


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("page", ["from_a_hand_written_loop.md"])
def test_the_code_of_a_page_runs_and_prints_what_it_shows(page):
    blocks = blocks_of(page)

    shown = run(blocks, page)

    assert {language for language, _, _ in blocks} == {"python", "text"}
    missing = [(line, text) for line, text, printed in shown if text.strip() not in printed]
    assert missing == []
