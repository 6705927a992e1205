"""The curves of runs: what was recorded under each name, thinned to what can be drawn."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from perigee.report.reading import KeptRun

Part = Literal["window", "training", "validation"]
PARTS: Sequence[Part] = ("training", "window", "validation")

MOST_POINTS = 800
"""Points of a curve at most; of more, the lowest and highest of each stretch are kept."""

_PREFIX = "val_"


@dataclass(frozen=True, slots=True)
class Point:
    """One value of a curve.

    Attributes:
        step: At which it was recorded; of other charts the place on their axis.
        epoch: Finished epochs then.
        seconds: Since the training began, all parts of it.
        value: May be NaN or infinite.
    """

    step: float
    epoch: int
    seconds: float
    value: float


@dataclass(frozen=True, slots=True)
class Curve:
    """One quantity of one run.

    Attributes:
        run: The number of the run on the page.
        name: Without `val_`.
        part: Means of windows of steps or of epochs in training, or values of validations.
        points: In the order of their steps.
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
        if record["seconds"] < last:  # the run was taken up again, and its clock began anew
            passed += last
        last = record["seconds"]
        for name, value in record["values"].items():
            part: Part = "window" if record["kind"] == "steps" else "training"
            if name.startswith(_PREFIX):
                name, part = name.removeprefix(_PREFIX), "validation"
            point = Point(record["step"], record["epoch"], passed + last, float(value))
            # One of an epoch left in the middle is recorded again, at the same step or later.
            found.setdefault((name, part), {})[point.step] = point
    return [
        Curve(number, name, part, thinned([points[step] for step in sorted(points)]))
        for (name, part), points in found.items()
    ]


def joined(curves: Sequence[Curve]) -> Curve:
    """Return the curves of one quantity as one, for what is no mean of what it covers."""
    points = {point.step: point for curve in curves for point in curve.points}
    first = curves[0]
    return Curve(first.run, first.name, "training", [points[step] for step in sorted(points)])


def thinned(points: Sequence[Point]) -> list[Point]:
    """Return at most `MOST_POINTS` of the points, of each stretch the lowest and the highest."""
    if len(points) <= MOST_POINTS:
        return list(points)
    stretches = MOST_POINTS // 2 - 1
    kept = {0, len(points) - 1}
    for stretch in range(stretches):
        first = stretch * len(points) // stretches
        indices = range(first, (stretch + 1) * len(points) // stretches)
        # What is not finite is not hidden.
        kept.update(sorted(indices, key=lambda i: _rank(points[i].value))[:: len(indices) - 1][:2])
    return [points[index] for index in sorted(kept)]


def _rank(value: float) -> float:
    return math.inf if math.isnan(value) else value
