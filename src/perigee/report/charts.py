"""Charts of curves as SVG, drawn without a library, with a textual description."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from perigee.report.curves import Curve
from perigee.writers.terminal import format_value

WIDTH, HEIGHT = 380, 220
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 8, 12, 24

_BARS_WIDTH, _BARS_HEIGHT = 180, 40

_LEAST_RATIO = 10.0
"""Ratio of the highest to the lowest value from which a logarithmic scale is offered."""
_USUAL_RATIO = 50.0
"""Ratio from which it is shown first."""
_MOST_COLORS = 8

_STYLE_ALONE = """
.perigee-chart { color: #2563c9; font: 11.5px system-ui, "DejaVu Sans", sans-serif; }
.perigee-chart text { fill: #5c6773; }
.perigee-chart .grid { stroke: #e3e7eb; }
.perigee-chart .axis, .perigee-chart .mark { stroke: #8a939d; }
.perigee-chart .mark { stroke-dasharray: 2 3; }
.perigee-chart .line { fill: none; stroke: currentColor; stroke-width: 1.8; }
.perigee-chart .faint .line { stroke-width: 1; opacity: 0.5; }
.perigee-chart circle { fill: currentColor; }
.perigee-chart .cross { fill: none; stroke: #b3261e; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  .perigee-chart { color: #7eb0ff; } .perigee-chart text { fill: #9aa6b2; }
  .perigee-chart .grid { stroke: #272e37; }
}
"""
"""The style of a chart outside Perigee's page."""


@dataclass(frozen=True, slots=True)
class Line:
    """How a curve is drawn.

    Attributes:
        curve: The curve.
        label: The label in the legend.
        color: The index of a color of the page.
        style: `"solid"`, `"dashed"` or `"faint"`.
    """

    curve: Curve
    label: str
    color: int
    style: str


@dataclass(frozen=True, slots=True)
class Chart:
    """The curves of one quantity in one frame.

    Attributes:
        name: The name of the quantity.
        lines: The lines.
        axis: The name of the horizontal axis.
        is_log_axis: Whether that axis is logarithmic.
    """

    name: str
    lines: Sequence[Line]
    axis: str = "step"
    is_log_axis: bool = False

    @property
    def scales(self) -> list[str]:
        """The useful scales, `"linear"` and `"log"`, the one to show first in front."""
        values = [p.value for line in self.lines for p in line.curve.points]
        values = [value for value in values if math.isfinite(value)]
        if not values or min(values) <= 0 or max(values) / min(values) < _LEAST_RATIO:
            return ["linear"]
        is_log = max(values) / min(values) >= _USUAL_RATIO
        return ["log", "linear"] if is_log else ["linear", "log"]

    def describe(self) -> str:
        """Describe the chart in words, for screen readers."""
        parts: list[str] = []
        for line in self.lines:
            finite = [p for p in line.curve.points if math.isfinite(p.value)]
            if not finite or line.style == "faint":
                continue
            first, last = finite[0], finite[-1]
            said = f"{line.label}: {format_value(first.value)} at {self._at(first.step)}"
            if last is not first:
                said += f", {format_value(last.value)} at {self._at(last.step)}"
            missing = len(line.curve.points) - len(finite)
            if missing:
                said += f", {missing} not finite"
            parts.append(said)
        return f"{self.name} by {self.axis}. {'; '.join(parts)}."

    def _at(self, place: float) -> str:
        return f"{self.axis} {place if isinstance(place, int) else format_value(place)}"

    def svg(self, scale: str, identity: str, marks: Sequence[float] = ()) -> str:
        """Return the chart as an SVG element.

        `data-` attributes hold what a script needs to look up values: the ranges of both axes, and
        the frame in units of the drawing.

        Args:
            scale: `"linear"` or `"log"`.
            identity: Unique on the page.
            marks: Positions to mark by vertical lines.
        """
        frame = _Frame.around(self, scale)
        drawn = [
            f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" tabindex="0" '
            f'aria-labelledby="{identity}-title {identity}-said" data-scale="{scale}" '
            f'data-x="{frame.x_low!r} {frame.x_high!r}" data-y="{frame.y_low!r} {frame.y_high!r}" '
            f'data-frame="{_LEFT} {_TOP} {WIDTH - _RIGHT} {HEIGHT - _BOTTOM}">',
            f'<title id="{identity}-title">{escape(self.name)}</title>',
            f'<desc id="{identity}-said">{escape(self.describe())}</desc>',
            *frame.axes(),
        ]
        for place in marks:
            if _LEFT < frame.x(place) < WIDTH - _RIGHT:
                x = f"{frame.x(place):.1f}"
                drawn.append(
                    f'<line class="mark" x1="{x}" x2="{x}" y1="{_TOP}" y2="{HEIGHT - _BOTTOM}"/>'
                )
        drawn += [_drawn(line, frame) for line in self.lines]
        drawn.append('<g class="hover" aria-hidden="true"></g></svg>')
        return "".join(drawn)

    def alone(self, marks: Sequence[float] = ()) -> str:
        """Return the chart as a standalone picture: an SVG file, or a part of any page."""
        drawn = self.svg(self.scales[0], "perigee-alone", marks)
        head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{1.6 * WIDTH:.0f}" '
        head, rest = drawn.replace('<svg class="chart" ', f'{head}class="perigee-chart" ', 1).split(
            ">", 1
        )
        return f"{head}><style>{_STYLE_ALONE}</style>{rest}"


@dataclass(frozen=True, slots=True)
class _Frame:
    """The mapping from values to coordinates of a drawing."""

    chart: Chart
    scale: str
    x_low: float
    x_high: float
    y_low: float
    y_high: float

    @classmethod
    def around(cls, chart: Chart, scale: str) -> _Frame:
        points = [p for line in chart.lines for p in line.curve.points]
        steps = [p.step for p in points] or [0]
        values = [p.value for p in points if math.isfinite(p.value)]
        if scale == "log":
            values = [value for value in values if value > 0]
            low, high = (math.log10(min(values)), math.log10(max(values))) if values else (0, 1)
        else:
            low, high = (min(values), max(values)) if values else (0.0, 1.0)
        if not high - low > 1e-12 * max(abs(low), abs(high)):  # no range
            room = abs(high) / 2 or 0.5
        else:
            room = (high - low) * 0.05
        if scale == "linear" and low >= 0 and high > 0 and low < 0.3 * high:
            low, high = 0.0, high + room  # start at 0 if it is near
        else:
            low, high = low - room, high + room
        first, last = min(steps), max(steps)
        if chart.is_log_axis:
            first, last = math.log10(first), math.log10(last)
        elif first < 0.3 * last:
            first = 0
        last = last if last > first else first + 1
        return cls(chart, scale, float(first), float(last), low, high)

    def x(self, step: float) -> float:
        place = math.log10(step) if self.chart.is_log_axis else step
        share = (place - self.x_low) / (self.x_high - self.x_low)
        return _LEFT + share * (WIDTH - _RIGHT - _LEFT)

    def y(self, value: float) -> float:
        if self.scale == "log":
            value = math.log10(value) if value > 0 else self.y_low
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return HEIGHT - _BOTTOM - share * (HEIGHT - _BOTTOM - _TOP)

    def axes(self) -> list[str]:
        right, bottom = WIDTH - _RIGHT, HEIGHT - _BOTTOM
        drawn: list[str] = []
        for value in self._y_ticks():
            y = self.y(value)
            drawn.append(
                f'<line class="grid" x1="{_LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>'
                f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_tick(value)}</text>'
            )
        name = self.chart.axis
        drawn.append(f'<text x="{right}" y="{bottom + 16}" text-anchor="end">{escape(name)}</text>')
        for step in self._x_ticks():
            if self.x(step) > right - 32 - 6.5 * len(name):  # the name of the axis is there
                continue
            drawn.append(
                f'<text x="{self.x(step):.1f}" y="{bottom + 16}" text-anchor="middle">'
                f"{_tick(step)}</text>"
            )
        drawn.append(f'<line class="axis" x1="{_LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
        return drawn

    def _x_ticks(self) -> list[float]:
        if not self.chart.is_log_axis:
            return [step for step in _nice(self.x_low, self.x_high, 5) if step == int(step)]
        ticks = [10.0**n for n in range(math.ceil(self.x_low), math.floor(self.x_high) + 1)]
        return ticks[:: -(-len(ticks) // 6)] if ticks else []

    def _y_ticks(self) -> list[float]:
        if self.scale == "linear":
            return _nice(self.y_low, self.y_high, 5)
        powers = range(math.ceil(self.y_low), math.floor(self.y_high) + 1)
        ticks = [10.0**power for power in powers]
        if len(ticks) < 3:
            whole = range(math.floor(self.y_low), math.ceil(self.y_high) + 1)
            ticks = [k * 10.0**power for power in whole for k in (1, 2, 5)]
        ticks = [tick for tick in ticks if self.y_low <= math.log10(tick) <= self.y_high]
        return ticks[:: -(-len(ticks) // 7)] if ticks else []


def _nice(low: float, high: float, most: int) -> list[float]:
    """Return about `most` round numbers from `low` to `high`."""
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / most
    power = 10.0 ** math.floor(math.log10(rough))
    width = next(k * power for k in (1, 2, 2.5, 5, 10) if k * power >= rough)
    first = math.ceil(low / width - 1e-9)
    # From integers, so that 0.3 is not 0.30000000000000004.
    return [
        round((first + i) * width, 12 - math.floor(math.log10(width)))
        for i in range(most + 2)
        if (first + i) * width <= high + 1e-9 * span
    ]


def _tick(value: float) -> str:
    if value == 0:
        return "0"
    size = abs(value)
    for limit, sign in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if size >= limit and size < 1e12:
            unit = {"G": 1e9, "M": 1e6, "k": 1e3}[sign]
            return f"{value / unit:g}{sign}"
    return format_value(value)


def _drawn(line: Line, frame: _Frame) -> str:
    """Draw a curve with gaps at values that are not finite, marked by crosses at the bottom."""
    color = f"c{line.color % _MOST_COLORS}"
    is_drawable: Callable[[float], bool] = (
        (lambda value: math.isfinite(value) and value > 0)
        if frame.scale == "log"
        else math.isfinite
    )
    pieces: list[list[str]] = [[]]
    crosses: list[str] = []
    for point in line.curve.points:
        if is_drawable(point.value):
            pieces[-1].append(f"{frame.x(point.step):.2f} {frame.y(point.value):.2f}")
        else:
            pieces.append([])
            x = frame.x(point.step)
            crosses.append(
                f'<path class="cross" d="M{x - 3:.1f} {HEIGHT - _BOTTOM - 7}l6 6m0-6l-6 6"/>'
            )
    path = "".join(f"M{'L'.join(piece)}" for piece in pieces if len(piece) > 1)
    dots = [piece[0] for piece in pieces if len(piece) == 1]
    if line.style != "faint" and len(line.curve.points) <= 40:
        dots = [place for piece in pieces for place in piece]
    shown = f'<path class="line" d="{path}"/>' if path else ""
    for place in dots:
        x, y = place.split()
        shown += f'<circle cx="{x}" cy="{y}" r="2.2"/>'
    return (
        f'<g class="{color} {line.style}" data-run="{line.curve.run}" '
        f'data-part="{line.curve.part}">{shown}{"".join(crosses)}</g>'
    )


def bars(edges: Sequence[float], counts: Sequence[int]) -> str:
    """Draw a small histogram: the number of values in each bin, with the outer edges below."""
    highest, width = max([*counts, 1]), _BARS_WIDTH / max(len(counts), 1)
    drawn = "".join(
        f'<rect x="{i * width:.2f}" y="{_BARS_HEIGHT * (1 - count / highest):.2f}" '
        f'width="{width * 0.9:.2f}" height="{_BARS_HEIGHT * count / highest:.2f}"/>'
        for i, count in enumerate(counts)
        if count
    )
    low, high = format_value(edges[0]), format_value(edges[-1])
    said = f"{sum(counts)} values from {low} to {high}"
    return (
        f'<svg class="bars c0" viewBox="0 0 {_BARS_WIDTH} {_BARS_HEIGHT + 14}" role="img">'
        f"<title>{said}</title>{drawn}"
        f'<text x="0" y="{_BARS_HEIGHT + 12}">{low}</text>'
        f'<text x="{_BARS_WIDTH}" y="{_BARS_HEIGHT + 12}" text-anchor="end">{high}</text></svg>'
    )
