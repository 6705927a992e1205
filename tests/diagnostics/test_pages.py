"""Pages of codes: their wrong program is told of the code, the right one of nothing."""

from __future__ import annotations

import contextlib
import functools
import io
import re
import runpy
import warnings
from pathlib import Path

import keras
import pytest

import perigee as pg
from perigee import diagnostics
from perigee._cli.pages import all_pages
from tests.project.pages import DOCS, blocks_of

PROGRAMS = sorted(path.stem for path in (DOCS / "programs").glob("*.py"))

WITHOUT = {"PG001", "PG310", "PG405", "PG704"}
"""Codes that no program here can show: their pages say why."""

_TOLD = re.compile(r"\[(PG\d{3})\]")


@functools.cache
def pages():
    return all_pages()


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
        finally:
            keras.distribution.set_distribution(None)
    said = "\n".join([out.getvalue(), *(str(warning.message) for warning in warned)])
    return set(_TOLD.findall(said)), said


OF_TRIALS = [code for code in PROGRAMS if code.startswith("PG71") and code != "PG710"]
"""Their programs train for thousands of steps."""


OF_JAX = ["PG113", "PG412", "PG761"]
OF_ANY = [code for code in PROGRAMS if code not in OF_TRIALS + OF_JAX]


def of_framework(code):
    """Return a case; what imports TensorFlow runs there alone."""
    program = (DOCS / "programs" / f"{code}.py").read_text(encoding="utf-8")
    needs_tensorflow = "import tensorflow" in program or code == "PG136"
    return pytest.param(code, marks=[pytest.mark.only_tensorflow] if needs_tensorflow else [])


@pytest.mark.once
@pytest.mark.spread(14, once=True)
@pytest.mark.parametrize("code", [of_framework(code) for code in OF_ANY])
def test_a_page_shows_a_program_with_its_fault_and_one_without(code, tmp_path):
    runs_as_its_page_says(code, tmp_path)


@pytest.mark.only_jax
@pytest.mark.parametrize("code", OF_JAX)
def test_a_page_about_jax_shows_such_programs_too(code, tmp_path):
    runs_as_its_page_says(code, tmp_path)


@pytest.mark.once
@pytest.mark.slow
@pytest.mark.parametrize("code", OF_TRIALS)
def test_a_page_of_a_trial_shows_such_programs_too(code, tmp_path):
    runs_as_its_page_says(code, tmp_path)


def runs_as_its_page_says(code, tmp_path):
    blocks = [text for language, text, _ in blocks_of(f"errors/{code}.md") if language == "python"]
    wrong, right = blocks[-2:]

    codes, said = told(wrong, tmp_path / "wrong.py")
    assert code in codes, said
    if pages()[code].is_finding:
        severities = re.findall(rf"^(error|warning|hint): \w+ \[{code}\]", said, re.MULTILINE)
        assert set(severities) <= sure_of(code), said
    codes, said = told(right, tmp_path / "right.py")
    assert codes == set(), said


def sure_of(code):
    """Return the severities that the page of a finding names."""
    (paragraph,) = re.findall(r"^How sure: .*(?:\n.+)*", pages()[code].text, re.MULTILINE)
    return set(re.findall(r"error|warning|hint", paragraph))


@pytest.mark.once
def test_a_page_names_each_severity_that_its_rule_can_give():
    severity, head = re.compile(r'"(error|warning|hint)"'), re.compile(r'"""(PG\d{3}), [A-Z]\w+: ')
    sources = [p.read_text("utf-8") for p in Path(diagnostics.__file__).parent.rglob("*.py")]
    given = {match[1]: set(severity.findall(s)) for s in sources if (match := head.match(s))}

    assert len(given) == sum(page.is_finding for page in pages().values())
    assert {code for code, severities in given.items() if not severities <= sure_of(code)} == set()


@pytest.mark.once
def test_a_page_without_programs_says_why():
    about_programs = {p.code for p in pages().values() if p.is_finding or p.shown_by}

    assert about_programs - set(PROGRAMS) == WITHOUT
    assert {code for code in pages() if "No program is shown: " in pages()[code].text} == WITHOUT
    assert set(PROGRAMS) <= about_programs
