"""The documentation says what the code says, and its links lead somewhere."""

import os
import posixpath
import re
import runpy
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._cli.pages import all_pages
from tests.project.pages import blocks_of, run_page

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("docs/reference/*.md")])


def test_the_pages_of_codes_are_current():
    render = runpy.run_path(str(ROOT / "docs" / "generate_errors.py"))["render"]

    found = [ROOT / "docs" / "errors.md", *ROOT.glob("docs/errors/*.md")]
    written = {
        path.relative_to(ROOT / "docs").as_posix(): path.read_text(encoding="utf-8")
        for path in found
    }
    assert written == render(), "run `make docs`"


def test_the_notebook_says_what_the_tutorial_says():
    render = runpy.run_path(str(ROOT / "docs" / "generate_notebook.py"))["render"]

    written = (ROOT / "docs" / "tutorial.ipynb").read_text(encoding="utf-8")
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


@pytest.fixture(scope="module")
def site():
    """The pages of the site by their place in it, and what writes them."""
    return runpy.run_path(str(ROOT / "docs" / "generate_site.py"))


def test_links_of_the_site_lead_to_its_pages(site):
    pages = site["site"]()

    lost = [
        (place, target)
        for place, text in pages.items()
        if place.endswith(".md") and not place.startswith("source/")
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", re.sub(r"(?s)```.*?```", "", text))
        if not re.match(r"[a-z]+:", target)
        and posixpath.normpath(posixpath.join(posixpath.dirname(place), target)) not in pages
    ]
    assert lost == []
    assert "source/examples/gallery/vae.py.md" in pages
    assert "results.md" in pages


def test_every_page_of_the_site_is_in_its_contents(site):
    _, _, contents = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")

    wanted = [p for p in site["site"]() if p.endswith(".md")]
    wanted = [p for p in wanted if not p.startswith(("errors/", "source/"))]
    assert sorted(re.findall(r"\S+\.md$", contents, re.MULTILINE)) == sorted(wanted)


def test_names_that_pages_lead_to_are_in_the_reference(site):
    named = set(re.findall(r"`\]\[(perigee\.\w+)\]", "".join(site["site"]().values())))
    explained = "".join(p.read_text(encoding="utf-8") for p in ROOT.glob("docs/reference/*.md"))

    assert "perigee.fit" in named
    assert named - set(re.findall(r"^::: ([\w.]+)$", explained, re.MULTILINE)) == set()


def test_codes_and_names_lead_to_where_they_are_explained(site):
    text, linked = site["_within"](
        "See PG101, `PG102` and `pg.fit`, or [results](../benchmarks/RESULTS.md).\n"
        "```python\nPG103\n```\n# About PG104\n",
        "docs/resuming.md",
        "docs",
    )

    assert text == (
        "See [PG101](errors/PG101.md), `PG102` and [`pg.fit`][perigee.fit], or"
        " [results](results.md).\n```python\nPG103\n```\n# About PG104\n"
    )
    assert linked == ["benchmarks/RESULTS.md"]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_within_the_repository_lead_to_files(page):
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))

    inner = [link for link in links if not re.match(r"[a-z]+:", link)]
    assert [link for link in inner if not (page.parent / link).exists()] == []


@pytest.mark.parametrize(
    "name",
    [
        "check.md",
        "command_line.md",
        "resuming.md",
        "prepare.md",
        "from_orbit_and_lightning.md",
        "tools.md",
    ],
)
def test_the_code_on_a_page_runs(name):
    assert "python" in {language for language, _, _ in blocks_of(name)}

    run_page(name)


_PAGE_OF_NUMBERS = """
import os
if os.environ["KERAS_BACKEND"] == "tensorflow":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tests.project.pages import run_page

run_page("numbers.md")
"""


@pytest.mark.process
def test_the_page_of_numbers_runs():
    """In a process of its own: TensorFlow mixes up two strategies of two replicas."""
    found = subprocess.run(
        [sys.executable, "-c", _PAGE_OF_NUMBERS],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": keras.backend.backend()},
        capture_output=True,
        text=True,
        timeout=300,
    )

    assert found.returncode == 0, found.stderr


def test_the_page_of_reasons_runs_and_prints_what_it_shows():
    shown = run_page("why.md")

    assert len(shown) == 5
    missing = [(line, text) for line, text, printed in shown if text.strip() not in printed]
    assert missing == []


def make_classifier(name):
    layers = [keras.Input((6,)), keras.layers.Dense(3)]
    return keras.Sequential(layers, name=name)


def test_the_code_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it keeps a run
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    y = np.arange(64, dtype="int32") % 3
    model = make_classifier("model")

    run_page(
        "../README.md",
        train_step=lambda x, y: model(x)[0, 0],  # it trains nothing
        test_step=lambda x, y: model(x)[0, 0],
        train_ds=[(x, y)],
        val_ds=[(x, y)],
        teacher=make_classifier("teacher"),
        student=make_classifier("student"),
        x=x,
        y=y,
        x_valid=x[:8],
        y_valid=y[:8],
    )


def test_the_code_about_keras_models_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it keeps a run
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")

    run_page("keras_step.md", model=model, x=x, y=x[:, :1], pg=pg, keras=keras, ops=keras.ops)


@pytest.mark.process
def test_the_error_that_contributors_are_shown_is_one():
    ((_, code, _),) = [b for b in blocks_of("../CONTRIBUTING.md") if b[0] == "python"]
    asked = "from perigee._errors import PerigeeError\n" + code + "print(EmptyDataError('list'))"

    # In a process of its own: codes are counted by the classes that are there.
    said = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True)

    assert said.stdout.startswith("EmptyDataError [PG301]: The data (list) holds no batch.")


def test_every_page_with_code_is_run():
    run = "\n".join(path.read_text(encoding="utf-8") for path in ROOT.glob("tests/**/*.py"))
    with_code = [p.name for p in PAGES if "```python" in p.read_text(encoding="utf-8")]

    assert [name for name in with_code if f'{name}"' not in run] == []
