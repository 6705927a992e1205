"""What the command line answers, and what it must not import to do so."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from perigee._cli.main import app
from perigee._cli.pages import all_pages, find_page
from perigee._version import __version__

FRAMEWORKS = {"keras", "tensorflow", "jax", "torch", "sklearn", "tensorboard"}


def invoke(*arguments: str):
    return CliRunner().invoke(app, list(arguments), prog_name="perigee")


def test_version_is_the_packages():
    answer = invoke("--version")

    assert answer.exit_code == 0
    assert answer.stdout == f"perigee {__version__}\n"


def test_help_names_the_commands():
    answer = invoke("--help")

    assert answer.exit_code == 0
    assert "explain" in answer.stdout


@pytest.mark.parametrize("asked", ["PG101", "pg101", "101", "[PG101]", "UnusedVariablesError"])
def test_explain_finds_a_page_however_it_is_asked_for(asked):
    answer = invoke("explain", asked)

    assert answer.exit_code == 0
    assert answer.stdout.startswith("UnusedVariablesError [PG101] (also caught as ValueError)\n")
    assert "No gradient reached" in answer.stdout


def test_explain_without_a_code_lists_every_page():
    answer = invoke("explain")

    assert answer.exit_code == 0
    assert [line.split()[0] for line in answer.stdout.splitlines()] == list(all_pages())


def test_an_unknown_code_names_near_ones_and_exits_with_2():
    answer = invoke("explain", "PG1001")

    assert answer.exit_code == 2
    assert answer.stdout == ""
    assert "No error has the code 'PG1001'" in answer.stderr
    assert "PG101  UnusedVariablesError" in answer.stderr
    assert "Traceback" not in answer.output


def test_a_code_like_no_other_suggests_nothing():
    answer = invoke("explain", "?")

    assert answer.exit_code == 2
    assert "Did you mean" not in answer.stderr
    assert "`perigee explain` lists all codes." in answer.stderr


def test_the_page_of_the_root_leaves_out_the_attributes():
    page = find_page("PG000")

    assert page is not None
    assert page.name == "PerigeeError"
    assert "Attributes" not in page.text


def test_every_page_has_a_code_and_a_summary_of_its_own():
    pages = all_pages().values()

    assert all(page.summary for page in pages)
    assert len({page.summary for page in pages}) == len(pages)
    assert len({page.name for page in pages}) == len(pages)


@pytest.mark.process
def test_help_imports_nothing_that_takes_long():
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "perigee", "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    # With them it would take more than 0.3 seconds.
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "typer" in imported
    assert not imported & {"rich", "rich.console", "numpy", "keras"}


@pytest.mark.process
@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["-c", "import perigee"], marks=pytest.mark.sample),
        ["-m", "perigee", "--help"],
        ["-m", "perigee", "--version"],
        ["-m", "perigee", "explain", "PG101"],
    ],
    ids=["import", "help", "version", "explain"],
)
def test_no_framework_is_imported(arguments):
    answer = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )

    # Each line of the log ends in "| <module>".
    imported = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "perigee" in imported
    assert not FRAMEWORKS & {module.partition(".")[0] for module in imported}
