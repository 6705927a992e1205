"""Runs made of nothing but their files, and what a page says in its own data."""

import json
import re

from perigee._events.clock import Clock
from perigee._events.events import Ended, Recorded, Started
from perigee.diagnostics import Finding
from perigee.writers import JsonLines, RunDirectory, Writers


def made(path, epochs, *, windows=(), spent=None, findings=(), plan=None, reason="epochs"):
    """Write the files of a run, as training does.

    Args:
        path: Its directory.
        epochs: The values of each epoch, which have 10 steps.
        windows: (step, values) of windows of steps.
        spent: Where the time went.
        findings: The arguments of each.
        plan: As plain values.
        reason: Why it ended.
    """
    directory = RunDirectory(
        path,
        seed=7,
        backend="jax",
        more={"plan": plan},
        configuration={"step": "Made"},
        findings=[Finding(**finding) for finding in findings],
    )
    writers = Writers({"metrics": JsonLines(path)}, directory=directory)
    writers.on_start(Started(None, Clock(), len(epochs), None, 10, 0.0))
    waiting = sorted(windows)
    for number, values in enumerate(epochs, start=1):
        while waiting and waiting[0][0] <= 10 * number:
            step, means = waiting.pop(0)
            clock = Clock(step, number - 1, step - 10 * (number - 1))
            writers.on_record(Recorded(clock, "steps", means, print, step / 10))
        clock = Clock(10 * number, number, 0)
        writers.on_record(Recorded(clock, "epoch", values, print, float(number)))
    clock = Clock(10 * len(epochs), len(epochs), 0)
    writers.on_end(Ended(clock, reason, float(len(epochs)) + 0.5, spent or {}))
    return path


def data_of(page):
    """The data that a page carries."""
    found = re.search(r'<script type="application/json" id="perigee-data">(.*?)</script>', page)
    return json.loads(found[1])


def points_of(page, chart, part="training", run=0):
    """Each (step, value) of a curve, in the data of a page."""
    charts = {each["name"]: each for each in data_of(page)["charts"]}
    curves = charts[chart]["curves"]
    found = next(c for c in curves if c["part"] == part and c["run"] == run)
    return [(point[0], point[3]) for point in found["points"]]
