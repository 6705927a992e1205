"""The documentation says what the code says, and its links lead somewhere."""

import re
import runpy
from pathlib import Path

import pytest

from perigee._cli.pages import all_pages
from tests.pages import blocks_of, run_page

ROOT = Path(__file__).parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/reference/*.md")])


def test_the_pages_of_codes_are_current():
    render = runpy.run_path(str(ROOT / "docs" / "generate_errors.py"))["render"]

    found = [ROOT / "docs" / "errors.md", *ROOT.glob("docs/errors/*.md")]
    written = {
        path.relative_to(ROOT / "docs").as_posix(): path.read_text(encoding="utf-8")
        for path in found
    }
    assert written == render(), "run `make docs`"


def test_the_table_of_strategies_says_what_tests_say():
    render = runpy.run_path(str(ROOT / "docs" / "generate_distribution.py"))["render"]

    written = (ROOT / "docs" / "distribution.md").read_text(encoding="utf-8")
    assert written == render(written), "run `make docs`"


def test_every_code_has_a_page_that_the_index_names():
    index = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    titles = [
        re.match(r"# (PG\d{3}): \w+\n", page.read_text(encoding="utf-8"))[1]
        for page in sorted(ROOT.glob("docs/errors/*.md"))
    ]

    assert titles == list(all_pages())
    assert re.findall(r"\[(PG\d{3})\]\(errors/\1\.md\)", index) == list(all_pages())


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))

    inner = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in inner if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(
    "name", ["check.md", "command_line.md", "runs.md", "prepare.md", "from_orbit_and_lightning.md"]
)
def test_the_code_on_a_page_runs(name):
    assert "python" in {language for language, _, _ in blocks_of(name)}

    run_page(name)
