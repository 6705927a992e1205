"""The programs on the page of a code: the wrong one is told of the code, the right one of nothing."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import warnings

import pytest

import perigee as pg
from perigee._cli.pages import all_pages
from tests.project.pages import DOCS, blocks_of

PROGRAMS = sorted(path.stem for path in (DOCS / "programs").glob("*.py"))

WITHOUT: set[str] = set()
"""Codes whose pages have no programs yet; the list is to become shorter."""

_TOLD = re.compile(r"\[(PG\d{3})\]")


def told(program, path):
    """Run a program; return all codes that it prints, warns of or ends with, and what it said."""
    path.write_text(program, encoding="utf-8")  # TensorFlow reads the source of a step
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        warnings.catch_warnings(record=True) as warned,
    ):
        warnings.simplefilter("always")
        try:
            runpy.run_path(str(path))
        except pg.PerigeeError as error:
            print(f"error: {error}")
    said = "\n".join([out.getvalue(), *(str(warning.message) for warning in warned)])
    return set(_TOLD.findall(said)), said


@pytest.mark.spread(14, once=True)
@pytest.mark.parametrize("code", PROGRAMS)
def test_a_page_shows_a_program_with_its_fault_and_one_without(code, tmp_path):
    *_, wrong, right = [text for language, text, _ in blocks_of(f"errors/{code}.md") if language]
    page = all_pages()[code]

    codes, said = told(wrong, tmp_path / "wrong.py")
    assert code in codes, said
    if page.is_finding:
        (sure,) = re.findall(r"^How sure: .*(?:\n.+)*", page.text, re.MULTILINE)
        severities = re.findall(rf"^(error|warning|hint): \w+ \[{code}\]", said, re.MULTILINE)
        assert [each for each in severities if each not in sure] == []
    codes, said = told(right, tmp_path / "right.py")
    assert codes == set(), said


@pytest.mark.once
def test_the_list_of_pages_without_programs_is_true():
    about_programs = {p.code for p in all_pages().values() if p.is_finding or p.shown_by}

    assert about_programs - set(PROGRAMS) == WITHOUT
    assert set(PROGRAMS) <= about_programs
