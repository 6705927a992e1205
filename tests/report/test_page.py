"""The page of a run holds what its files say, whatever they say."""

import json
import math
import re
import time
from html.parser import HTMLParser

import pytest

from perigee._errors import NoRunError, RunFileError
from perigee.report import find_runs, read_kept, render, table, write_report
from perigee.report.charts import Chart, Line
from perigee.report.curves import MOST_POINTS, Curve, Point, thinned
from tests.report.kept import data_of, made, points_of

VOID = {"meta", "link", "img", "input", "br"}
SPENT = {
    "data": 0.5,
    "device": 3.0,
    "validation": 0.25,
    "saving": 0.1,
    "compiling": 2.0,
    "host": 0.15,
}


class Nesting(HTMLParser):
    """Checks that every element is closed where it was opened, and counts them."""

    def __init__(self):
        super().__init__()
        self.open, self.found = [], []

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parsed(page):
    nesting = Nesting()
    nesting.feed(page)
    assert nesting.open == []
    return nesting.found


def falling(count, first=2.0):
    return [{"loss": first / n, "val_loss": 1.5 * first / n} for n in range(1, count + 1)]


def test_the_page_holds_every_value_that_was_recorded(tmp_path):
    epochs = falling(5)

    page = render([read_kept(made(tmp_path / "run", epochs))])

    steps = [10, 20, 30, 40, 50]
    assert points_of(page, "loss") == [(s, e["loss"]) for s, e in zip(steps, epochs, strict=True)]
    assert points_of(page, "loss", "validation") == [
        (s, e["val_loss"]) for s, e in zip(steps, epochs, strict=True)
    ]


def test_the_page_is_whole_and_asks_for_nothing_else(tmp_path):
    page = render([read_kept(made(tmp_path / "run", falling(3), spent=SPENT))])

    found = parsed(page)
    assert not [tag for tag, _ in found if tag in ("iframe", "object", "embed")]
    for _, attributes in found:
        for name in ("src", "href"):
            assert str(attributes.get(name, "data:")).startswith("data:")
    assert "@import" not in page and "url(" not in page


def test_each_chart_can_be_read_without_being_seen(tmp_path):
    page = render([read_kept(made(tmp_path / "run", [{"loss": 2.0}, {"loss": 0.5}]))])

    assert 'role="img"' in page
    assert "<desc" in page
    assert "loss by step. training: 2 at step 10, 0.5 at step 20." in page


def test_where_the_time_went_adds_up(tmp_path):
    page = render([read_kept(made(tmp_path / "run", falling(3), spent=SPENT))])

    assert sum(SPENT.values()) == pytest.approx(6.0)
    for said in ("6.00 s", "3.00 s", "50.0 %", "33.3 %", "preparing and compiling"):
        assert said in page
    assert "100 ms per step on the device, over 30 steps" in page


def test_findings_plan_configuration_and_environment_are_there(tmp_path):
    finding = {
        "code": "PG430",
        "name": "NotResumed",
        "severity": "warning",
        "happened": "It shuffles <without> a seed.",
        "expected": "a seed",
        "fix": "give one",
        "items": ("one", "two"),
    }
    trials = [
        {
            "mode": "graph",
            "is_fused": True,
            "microseconds": 120.4,
            "compile_seconds": 1.5,
            "note": "",
        },
        {
            "mode": "xla",
            "is_fused": True,
            "microseconds": None,
            "compile_seconds": None,
            "note": "left out: it prints",
        },
    ]
    plan = {"mode": "graph", "is_fused": True, "origin": "measured", "trials": trials}

    page = render([read_kept(made(tmp_path / "run", falling(2), findings=[finding], plan=plan))])

    parsed(page)
    for said in (
        "Warning: NotResumed",
        "It shuffles &lt;without&gt; a seed.",
        "graph, many steps per call (measured)",
        "120 us per step",
        "left out: it prints",
        "Made",
        "jax",
    ):
        assert said in page


def test_what_names_hold_is_shown_and_not_obeyed(tmp_path):
    evil = "</script><script>alert(1)</script><b>\"'&"
    page = render([read_kept(made(tmp_path / "run", [{evil: 1.0}, {evil: 2.0}]), evil)])

    scripts = [attributes for tag, attributes in parsed(page) if tag == "script"]
    assert len(scripts) == 2
    assert data_of(page)["charts"][0]["name"] == evil


def test_values_that_are_not_finite_break_the_curve_and_are_said(tmp_path):
    losses = [1.0, math.nan, 0.5, math.inf, 0.25]
    page = render([read_kept(made(tmp_path / "run", [{"loss": value} for value in losses]))])

    assert [value for _, value in points_of(page, "loss")] == [1.0, "nan", 0.5, "inf", 0.25]
    assert "2 not finite" in page
    assert page.count('class="cross"') == 2


@pytest.mark.parametrize(
    ("values", "scales"),
    [
        ([1.0, 0.5], ["linear"]),
        ([1.0, 0.05], ["linear", "log"]),
        ([1.0, 0.005], ["log", "linear"]),
        ([1.0, 0.0], ["linear"]),
        ([1.0, -1.0], ["linear"]),
        ([math.nan], ["linear"]),
        ([3.0], ["linear"]),
        ([0.0, 0.0], ["linear"]),
    ],
)
def test_a_logarithmic_scale_is_offered_where_it_helps(values, scales):
    points = [Point(10 * i, i, float(i), value) for i, value in enumerate(values, start=1)]
    chart = Chart("loss", [Line(Curve(0, "loss", "training", points), "training", 0, "solid")])

    assert chart.scales == scales
    for scale in scales:
        drawn = chart.svg(scale, "one")
        assert "nan" not in drawn.partition("</desc>")[2]
        parsed(drawn)


def test_a_long_curve_keeps_its_ends_and_its_extremes():
    count = 50 * MOST_POINTS
    values = [math.sin(i / 500) for i in range(count)]
    values[12_345], values[23_456] = 9.0, -9.0
    points = [Point(i, 0, 0.0, value) for i, value in enumerate(values)]

    kept = thinned(points)

    assert len(kept) <= MOST_POINTS
    assert [kept[0], kept[-1]] == [points[0], points[-1]]
    assert {9.0, -9.0} <= {point.value for point in kept}


def test_a_page_over_many_records_takes_little_time_and_room(tmp_path):
    path = made(tmp_path / "run", falling(2))
    line = {"kind": "steps", "epoch": 0, "batch": 0, "values": {"loss": 0.5, "rate": 1e-3}}
    with (path / "metrics.jsonl").open("w") as file:
        for step in range(1, 20_001):
            file.write(json.dumps({**line, "step": step, "seconds": step / 1000}) + "\n")

    began = time.process_time()
    target = write_report(path)

    assert time.process_time() - began < 5  # some 0.5
    assert target.stat().st_size < 500_000


def test_several_runs_are_compared_in_one_page(tmp_path):
    paths = [made(tmp_path / name, falling(3, first)) for name, first in (("a", 2.0), ("b", 4.0))]

    page = render([read_kept(path) for path in paths])

    parsed(page)
    assert points_of(page, "loss", run=0)[-1] == (30, 2.0 / 3)
    assert points_of(page, "loss", run=1)[-1] == (30, 4.0 / 3)
    assert [run["name"] for run in data_of(page)["runs"]] == ["a", "b"]
    assert [f"swatch c{color}" in page for color in range(3)] == [True, True, False]


def test_a_run_taken_up_again_counts_the_time_of_all_its_parts(tmp_path):
    path = made(tmp_path / "run", falling(2))
    lines = [
        {"kind": "epoch", "step": step, "epoch": step, "batch": 0, "seconds": seconds, "values": {}}
        for step, seconds in ((1, 3.0), (2, 5.0), (3, 1.0), (4, 2.0))
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert read_kept(path).seconds == 5.0 + 2.5


def test_a_run_that_was_killed_is_not_said_to_run(tmp_path):
    path = made(tmp_path / "run", falling(2))
    facts = json.loads((path / "run.json").read_text())
    (path / "run.json").write_text(json.dumps({**facts, "state": "running"}))

    assert read_kept(path).state == "killed"


@pytest.mark.parametrize(
    ("reason", "state"),
    [
        ("epochs", "finished"),
        ("error: ValueError", "failed"),
        ("non-finite", "stopped: non-finite"),
    ],
)
def test_the_state_says_how_it_ended(tmp_path, reason, state):
    assert read_kept(made(tmp_path / "run", falling(1), reason=reason)).state == state


def test_the_table_shows_last_and_best_values(tmp_path):
    epochs = [{"val_loss": 2.0, "val_accuracy": 0.5}, {"val_loss": 3.0, "val_accuracy": 0.25}]
    run = read_kept(made(tmp_path / "run", epochs))

    head, row = table([run]).splitlines()

    shown = ["val_loss", "best val_loss", "val_accuracy", "best val_accuracy"]
    assert re.split("  +", head) == ["run", "state", "epochs", "steps", "time", *shown]
    assert re.split("  +", row) == ["run", "finished", "2", "20", "2.50 s", "3", "2", "0.25", "0.5"]


def test_runs_are_found_in_any_depth_and_others_files_are_not(tmp_path):
    paths = [made(tmp_path / name, falling(1)) for name in ("b", "a/one", "a/two")]
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "run.json").write_text('{"of": "another program"}')

    assert find_runs(tmp_path) == sorted(paths)


def test_a_directory_above_runs_is_refused_with_their_names(tmp_path):
    path = made(tmp_path / "runs" / "one", falling(1))

    with pytest.raises(NoRunError) as caught:
        read_kept(tmp_path)

    assert caught.value.near == (str(path),)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("run.json", "no json"),
        ("run.json", "[]"),
        ("metrics.jsonl", "no json\n{}\n"),
        ("metrics.jsonl", '{"nonfinite": 1, "values": {}}\n{}\n'),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    path = made(tmp_path / "run", falling(1))
    (path / name).write_text(content)

    with pytest.raises(RunFileError) as caught:
        read_kept(path)

    assert caught.value.path == str(path / name)


@pytest.mark.parametrize("records", ["", '{"kind": "epoch"}\n{"step": 1}\n'])
def test_a_run_without_records_has_a_page(tmp_path, records):
    path = made(tmp_path / "run", falling(1))
    (path / "metrics.jsonl").write_text(records)

    parsed(render([read_kept(path)]))
