"""The curves of runs: recorded values by name, thinned to a drawable number of points."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from perigee._events.events import RUNNING
from perigee.report.reading import KeptRun

Part = Literal["window", "running", "training", "validation"]
PARTS: Sequence[Part] = ("training", "window", "running", "validation")

MOST_POINTS = 800
"""The most points of a curve; of more, the lowest and highest of each segment are kept."""

_PREFIX = "val_"


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a curve.

    Attributes:
        step: The step at which it was recorded; for other charts the position on their axis.
        epoch: Finished epochs at that time.
        seconds: Training time, summed over all parts of the run.
        value: The value; may be NaN or infinite.
    """

    step: float
    epoch: int
    seconds: float
    value: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity of one run.

    Attributes:
        run: The index of the run on the page.
        name: The name without `val_` or `running/`.
        part: Whether it has means of windows of steps in training, values over the epoch so far,
            values of whole epochs, or validation values.
        points: The points in the order of their steps.
    """

    run: int
    name: str
    part: Part
    points: Sequence[Point]


def curves_of(run: KeptRun, number: int) -> list[Curve]:
    """Return every curve of a run, in the order in which names were first recorded."""
    found: dict[tuple[str, Part], dict[float, Point]] = {}
    passed = last = 0.0
    for record in run.records:
        if record["seconds"] < last:  # the run was resumed, and its time restarted
            passed += last
        last = record["seconds"]
        for name, value in record["values"].items():
            part: Part = "window" if record["kind"] == "steps" else "training"
            if part == "window" and name.startswith(RUNNING):
                name, part = name.removeprefix(RUNNING), "running"
            elif name.startswith(_PREFIX):
                name, part = name.removeprefix(_PREFIX), "validation"
            point = Point(record["step"], record["epoch"], passed + last, float(value))
            # An interrupted epoch is recorded again, at the same step or later.
            found.setdefault((name, part), {})[point.step] = point
    return [
        Curve(number, name, part, thinned([points[step] for step in sorted(points)]))
        for (name, part), points in found.items()
    ]


def joined(curves: Sequence[Curve]) -> Curve:
    """Return the curves of one quantity as one, for values that are not means."""
    points = {point.step: point for curve in curves for point in curve.points}
    first = curves[0]
    return Curve(first.run, first.name, "training", [points[step] for step in sorted(points)])


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most `MOST_POINTS` of the points: the lowest and highest of each segment."""
    if len(points) <= MOST_POINTS:
        return list(points)
    stretches = MOST_POINTS // 2 - 1
    kept = {0, len(points) - 1}
    for stretch in range(stretches):
        first = stretch * len(points) // stretches
        indices = range(first, (stretch + 1) * len(points) // stretches)
        # Values that are not finite stay visible.
        kept.update(sorted(indices, key=lambda i: _rank(points[i].value))[:: len(indices) - 1][:2])
    return [points[index] for index in sorted(kept)]


def _rank(value: float) -> float:
    return math.inf if math.isnan(value) else value
