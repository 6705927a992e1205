"""The page in a real browser: what it draws and says is what was recorded."""

import json
import math
import tempfile

import pytest

from perigee.report import read_kept, render
from tests.report.browser import Browser, find
from tests.report.kept import made

EPOCHS = [
    {"loss": 3.0 / n**2, "val_loss": 4.0 / n**2, "accuracy": 1 - 0.5 / n} for n in range(1, 9)
]

# From a drawn path back to (step, value), by what the chart says of its axes.
READ = """
(() => [...document.querySelectorAll('.chart-card')].map((card) => {
  const svg = [...card.querySelectorAll('.chart')]
    .find((each) => getComputedStyle(each).display !== 'none');
  const [left, top, right, bottom] = svg.dataset.frame.split(' ').map(Number);
  const [x0, x1] = svg.dataset.x.split(' ').map(Number);
  const [y0, y1] = svg.dataset.y.split(' ').map(Number);
  const curves = {};
  for (const group of svg.querySelectorAll('g[data-part]')) {
    const places = group.querySelector('.line').getAttribute('d').slice(1).split('L');
    curves[group.dataset.run + ' ' + group.dataset.part] = places.map((place) => {
      const [x, y] = place.split(' ').map(Number);
      const value = y0 + (bottom - y) / (bottom - top) * (y1 - y0);
      return [x0 + (x - left) / (right - left) * (x1 - x0),
              svg.dataset.scale === 'log' ? 10 ** value : value];
    });
  }
  return {name: card.querySelector('h3').textContent, scale: svg.dataset.scale, curves};
}))()
"""


@pytest.fixture(scope="module")
def browser():
    program = find()
    if program is None:
        pytest.skip("no Chromium on this machine")
    # Not pytest's own directory, which the browser may still write to when it is removed.
    folder = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
    with folder as path, Browser(program, path) as opened:
        yield opened


@pytest.fixture
def page(tmp_path, browser):
    """Open the page of runs, and look that it complains of nothing and asks for nothing."""

    def show(*paths, is_dark=False):
        target = tmp_path / "page.html"
        target.write_text(render([read_kept(path) for path in paths]), encoding="utf-8")
        browser.requests.clear()
        browser.open(target, is_dark=is_dark)
        return browser

    yield show
    assert browser.complaints == []
    assert [each for each in browser.requests if not each.startswith(("file:", "data:"))] == []


def recorded(path, name):
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    return [(line["step"], line["values"][name]) for line in lines]


def test_the_curves_that_are_drawn_have_the_values_of_the_file(tmp_path, page):
    path = made(tmp_path / "run", EPOCHS)

    charts = {chart["name"]: chart for chart in page(path).run(READ)}

    assert charts["loss"]["scale"] == "log"  # from 4 to 0.05
    assert charts["accuracy"]["scale"] == "linear"
    for name, chart, part in [
        ("loss", "loss", "training"),
        ("val_loss", "loss", "validation"),
        ("accuracy", "accuracy", "training"),
    ]:
        drawn = charts[chart]["curves"][f"0 {part}"]
        expected = recorded(path, name)
        assert len(drawn) == len(expected)
        for (x, y), (step, value) in zip(drawn, expected, strict=True):
            assert math.isclose(x, step, abs_tol=0.05)
            assert math.isclose(y, value, rel_tol=2e-3)


def test_the_pointer_and_the_keys_show_the_values_at_a_step(tmp_path, page):
    path = made(tmp_path / "run", EPOCHS)
    shown = page(path)
    box = shown.run(
        "(() => { const b = document.querySelector('.chart').getBoundingClientRect();"
        " return [b.x, b.y, b.width, b.height]; })()"
    )

    shown.move(box[0] + box[2] - 12, box[1] + box[3] / 2)
    text = shown.run("document.querySelector('.tip').innerText")

    (step, loss), (_, validation) = recorded(path, "loss")[-1], recorded(path, "val_loss")[-1]
    assert text.startswith(f"step {step}")
    assert f"{loss:.5g}" in text and f"{validation:.5g}" in text

    key = "new KeyboardEvent('keydown', {key: 'ArrowLeft'})"
    shown.run(f"document.querySelector('.chart').dispatchEvent({key})")
    text = shown.run("document.querySelector('.tip').innerText")
    step, loss = recorded(path, "loss")[-2]
    assert text.startswith(f"step {step}") and f"{loss:.5g}" in text


def test_the_other_scale_shows_the_same_values(tmp_path, page):
    path = made(tmp_path / "run", EPOCHS)
    shown = page(path)

    shown.run("document.querySelector('.scale input').click()")

    chart = next(chart for chart in shown.run(READ) if chart["name"] == "loss")
    assert chart["scale"] == "linear"
    for (_, y), (_, value) in zip(
        chart["curves"]["0 training"], recorded(path, "loss"), strict=True
    ):
        assert math.isclose(y, value, abs_tol=0.02)


def test_three_runs_are_drawn_in_colors_of_their_own(tmp_path, page):
    paths = [
        made(tmp_path / str(number), [{"loss": factor / n} for n in range(1, 5)])
        for number, factor in enumerate((1.0, 2.0, 3.0))
    ]

    shown = page(*paths)

    (chart,) = shown.run(READ)
    assert sorted(chart["curves"]) == ["0 training", "1 training", "2 training"]
    for number, path in enumerate(paths):
        for (_, y), (_, value) in zip(
            chart["curves"][f"{number} training"], recorded(path, "loss"), strict=True
        ):
            assert math.isclose(y, value, rel_tol=5e-3)
    colors = shown.run(
        "[...document.querySelectorAll('g[data-part] .line')]"
        ".map((line) => getComputedStyle(line).stroke)"
    )
    assert len(set(colors)) == len(paths)


def test_light_and_dark_are_told_apart_and_can_be_read(tmp_path, page):
    path = made(tmp_path / "run", EPOCHS)

    def brightness(is_dark):
        shown = page(path, is_dark=is_dark)
        style = "getComputedStyle(document.body)"
        return [
            sum(int(part) for part in color.strip("rgba()").split(",")[:3]) / 3
            for color in shown.run(f"[{style}.backgroundColor, {style}.color]")
        ]

    for is_dark in (False, True):
        background, text = brightness(is_dark)
        assert (background < 128) is is_dark
        assert abs(background - text) > 150


def test_nothing_hangs_over_the_edge_on_a_small_screen(tmp_path, page, browser):
    path = made(tmp_path / "run", EPOCHS)
    page(path)

    browser.open(tmp_path / "page.html", width=380, height=700)

    assert browser.run("document.documentElement.scrollWidth") <= 380
