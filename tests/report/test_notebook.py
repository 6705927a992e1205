"""What a notebook shows: progress, the history, and a run."""

import html
import math
import sys
import types
import xml.etree.ElementTree as ET

import keras
import numpy as np
import pytest
from rich.console import Console

import perigee as pg
from perigee._events.clock import Clock
from perigee._events.events import Ended, Recorded, Started
from perigee.writers.terminal import terminal
from tests.report.kept import made, points_of

LOSSES = [4.0, 1.0, 2.0]


def history():
    found = pg.History()
    for number, loss in enumerate(LOSSES, start=1):
        values = {"loss": loss, "<b>": -loss, "val_accuracy": 1 / loss}
        found.on_record(Recorded(Clock(5 * number, number, 0), "epoch", values, print, 1.0))
    found.on_end(Ended(Clock(15, 3, 0), "epochs", 3.0))
    return found


def test_a_history_shows_how_each_value_went():
    shown = ET.fromstring(f"<div>{history()._repr_html_()}</div>")

    assert shown.find("p").text == "3 epochs, 15 steps, ended by epochs"
    rows = [[cell.text for cell in row] for row in shown.iter("tr")]
    assert rows[1] == ["loss", None, "2", "1"]
    assert rows[2] == ["<b>", None, "-2", None], "its name does not tell what is better"
    assert rows[3] == ["val_accuracy", None, "0.5", "1"]
    lines = [line.get("points").split() for line in shown.iter("polyline")]
    heights = [float(place.split(",")[1]) for place in lines[0]]
    assert len(heights) == len(LOSSES)
    assert np.argsort(heights).tolist() == np.argsort(LOSSES)[::-1].tolist(), "up is more"


@pytest.mark.parametrize("values", [[], [math.nan], [1.0], [1.0, math.inf], [2.0, 2.0]])
def test_values_that_cannot_be_drawn_do_no_harm(values):
    found = pg.History()
    found.history = {"loss": values}

    ET.fromstring(f"<div>{found._repr_html_()}</div>")


def finding(**changed):
    facts = {
        "code": "PG110",
        "name": "UncoveredVariables",
        "severity": "warning",
        "happened": "No optimizer updates <b>2</b> of `a < b`:",
        "expected": "all & more.",
        "fix": "pass `variables=`.",
        "items": ("head/kernel", "<script>"),
    }
    return pg.Finding(**{**facts, **changed})


def test_a_finding_shows_its_parts():
    shown = ET.fromstring(finding()._repr_html_())

    text = "".join(shown.itertext())
    assert "warning: UncoveredVariables [PG110]" in text
    assert "No optimizer updates <b>2</b> of a < b:" in text
    assert [item.text for item in shown.iter("li")] == ["head/kernel", "<script>"]
    codes = [code.text for code in shown.iter("code")]
    assert codes == ["a < b", "variables=", "perigee explain PG110"]


def test_a_finding_shows_five_of_many_items():
    shown = ET.fromstring(finding(items=tuple("abcdefgh"))._repr_html_())

    assert [item.text for item in shown.iter("li")] == [*"abcde", "... and 3 more"]


def test_a_report_shows_its_findings():
    report = pg.Report((finding(severity="error"), finding(), finding()))

    shown = ET.fromstring(report._repr_html_())

    assert shown.find("p").text == "1 error, 2 warnings."
    assert len(shown.findall("div")) == len(report)
    assert ET.fromstring(pg.Report(())._repr_html_()).find("p").text == "Nothing found."


def test_what_a_terminal_shows_of_a_report_is_one_line_with_the_codes():
    many = finding(happened="very long, " * 50)

    assert repr(pg.Report(())) == "<Report: Nothing found>"
    assert repr(pg.Report((many, many))) == (
        "<Report: 2 warnings: PG110 UncoveredVariables, PG110 UncoveredVariables>"
    )
    assert repr(many).startswith("<warning PG110 UncoveredVariables: very long,")
    assert len(repr(many)) < 150


def test_a_notebook_asks_a_report_for_html_and_text():
    formatter = pytest.importorskip("IPython.core.formatters").DisplayFormatter()
    report = pg.Report((finding(),))

    shown, _ = formatter.format(report, include={"text/html", "text/plain"})

    assert shown == {"text/html": report._repr_html_(), "text/plain": repr(report)}


def test_a_run_shows_its_report(tmp_path):
    path = made(tmp_path / "run", [{"loss": loss} for loss in LOSSES])

    frame = ET.fromstring(pg.Run(path)._repr_html_())

    assert frame.tag == "iframe"
    assert [value for _, value in points_of(frame.get("srcdoc"), "loss")] == LOSSES


def test_a_run_that_is_not_there_says_where_it_will_be(tmp_path):
    shown = pg.Run(tmp_path / "later")._repr_html_()

    assert shown.startswith("<code>") and "later" in html.unescape(shown)


def test_progress_goes_to_the_cell(monkeypatch):
    shown = []
    display = types.ModuleType("IPython.display")
    display.display = shown.append
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    hook = terminal("lines", Console(force_jupyter=True))

    hook.on_start(Started(None, Clock(), 2, None, 5, 0.0))
    hook.on_record(Recorded(Clock(5, 1, 0), "epoch", {"loss": 0.25}, print, 1.0))
    hook.on_end(Ended(Clock(5, 1, 0), "epochs", 1.0))

    texts = [each._repr_mimebundle_((), ())["text/plain"] for each in shown]
    assert "Epoch 1/2" in texts[0] and "loss 0.25" in texts[0]
    assert "Finished at step 5" in texts[-1]
    assert all("<pre" in each._repr_mimebundle_((), ())["text/html"] for each in shown)


def test_a_training_gives_what_a_notebook_shows(tmp_path):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    step = pg.Supervised(model, keras.optimizers.SGD(0.1), keras.losses.MeanSquaredError())
    x = np.ones((8, 2), "float32")

    found = pg.fit(step, (x, x[:, :1]), epochs=2, run=tmp_path, progress="off")

    assert f"{found.clock.step} steps" in found._repr_html_()
    assert "iframe" in pg.Run(tmp_path)._repr_html_()
