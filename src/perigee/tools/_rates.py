"""Learning rate range test: a short training with an increasing rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import keras

from perigee._api.arguments import as_execution, check_count, check_step, named
from perigee._errors import ArgumentError
from perigee._events.protocols import Feed
from perigee._execution import Program, constant_rate, rows_on_host
from perigee._loop.programs import Programs
from perigee._step.averages import Tally
from perigee._step.state import attributes_preserved, preserved
from perigee._step.step import Step
from perigee.data import open_feed
from perigee.report.charts import Chart, Line
from perigee.report.curves import Curve, Point
from perigee.writers import replace_file
from perigee.writers.terminal import format_value

_SMOOTHING = 0.9
_DIVERGED = 4.0
"""The rate is too high if the smoothed loss is this many times its lowest value."""
_LEAST_FALL = 0.98
"""The loss has fallen if it is below this share of its first smoothed value."""


@dataclass(frozen=True, slots=True)
class RateRange:
    """The result of a range test. Printing it suggests a rate, and a notebook shows the plot.

    Attributes:
        rates: The rate of each step.
        losses: The loss of each step; the last one may be NaN or infinite.
        smoothed: The losses, each averaged with earlier ones, whose weight decays by 0.9 per step.
        suggestion: A tenth of the rate with the lowest smoothed loss, above which the loss rises;
            `None` if the loss did not fall.
        said: The reason in words.
    """

    rates: Sequence[float]
    losses: Sequence[float]
    smoothed: Sequence[float]
    suggestion: float | None
    said: str

    def __str__(self) -> str:
        return self.said

    def svg(self) -> str:
        """Return the plot as a standalone SVG: a vertical line marks the suggestion."""
        drawn = {"faint": self.losses, "solid": self.smoothed}
        names = {"faint": "loss", "solid": "smoothed"}
        lines: list[Line] = []
        for style, values in drawn.items():
            points = [
                Point(rate, 0, 0.0, value) for rate, value in zip(self.rates, values, strict=True)
            ]
            lines.append(Line(Curve(0, "loss", "training", points), names[style], 0, style))
        chart = Chart("loss", lines, axis="learning rate", is_log_axis=True)
        return chart.alone([] if self.suggestion is None else [self.suggestion])

    def save(self, path: str | PathLike[str]) -> Path:
        """Write the plot to a file.

        Args:
            path: The path of an `.svg` file, or of a page, `.html`.

        Returns:
            The path.

        Raises:
            ArgumentError: If it ends in neither.
        """
        target, content = Path(fspath(path)), self.svg()
        if target.suffix == ".html":
            content = (
                '<!doctype html><html lang="en"><head><meta charset="utf-8">'
                "<title>Learning rates</title><style>:root { color-scheme: light dark; }</style>"
                f"</head><body>{self._repr_html_()}</body></html>\n"
            )
        elif target.suffix != ".svg":
            raise ArgumentError(
                "path", repr(str(path)), "one that ends in .svg or .html.", "add it."
            )
        replace_file(target, content.encode())
        return target

    def _repr_html_(self) -> str:
        return f"<p>{escape(self.said)}</p>{self.svg()}"


@named
def learning_rate_range(
    step: Step,
    data: Any,
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
    batch_size: int | None = None,
    optimizer: keras.optimizers.Optimizer | None = None,
    loss: str = "loss",
) -> RateRange:
    """Train for a while with a rate that increases at each step, and restore everything.

    While the rate is much too low the loss is constant, then it falls, and when the rate is too
    high it rises again (Smith, 2017, "Cyclical learning rates", section 3.3). It ends early if the
    smoothed loss is 4 times as high as its lowest value, or not finite.

    >>> found = learning_rate_range(step, (x, y), batch_size=32)
    >>> print(found)
    >>> found.save("rates.html")

    Args:
        step: The Step. Weights, slots, seeds, metrics and rates are restored at the end; lazy
            layers stay built, and `fit` reuses compiled code.
        data: Data as for `fit`; batches drawn from an iterator are consumed.
        lowest: The rate of the first step, above 0.
        highest: The rate of the last step; the rate grows by the same factor at each step.
        steps: The number of steps, at least 10.
        batch_size: Rows per batch, 32 by default; for arrays only.
        optimizer: The optimizer whose rate increases; may be `None` if the step applies only one.
        loss: The name under which the loss is logged.

    Returns:
        Rates, losses, a suggestion, and a plot of them.

    Raises:
        ArgumentError: If arguments are invalid, the rate follows a schedule, or nothing is logged
            under that name.
    """
    check_step(step, "train_step")
    check_count("steps", steps, is_optional=False)
    if not 0 < lowest < highest < math.inf:
        raise ArgumentError(
            "lowest", f"{lowest!r} with highest={highest!r}", "0 < lowest < highest.", "swap them."
        )
    if steps < 10:
        raise ArgumentError("steps", repr(steps), "at least 10.", "omit it.")
    rates = [lowest * (highest / lowest) ** (i / (steps - 1)) for i in range(steps)]
    feed = open_feed(data, batch_size=batch_size, seed=0, shuffles_by_default=True)
    try:
        program = Programs(step, "train_step", as_execution("auto"))(feed.peek())
        chosen = _optimizer(program, optimizer)
        tracked = program.rehearsal.tracked
        with preserved(tracked.state), attributes_preserved(step):
            for metric in tracked.metrics.values():
                metric.reset_state()
            losses = _losses(program, feed, chosen, rates, loss)
        program.samples()  # drops samples
    finally:
        feed.close()
    return _judged(rates[: len(losses)], losses)


def _optimizer(program: Program, given: Any) -> Any:
    """Return the optimizer whose rate increases; the rate must be a number."""
    held = program.rehearsal.tracked.optimizers
    applied = [held[path] for path in program.rehearsal.updated if path in held]
    chosen = [each for each in applied if given is None or each is given]
    if len(chosen) != 1:
        raise ArgumentError(
            "optimizer",
            "None" if given is None else f"<{type(given).__name__}>",
            f"one that the step applies through `minimize` or `apply`; there are {len(applied)}.",
            "pass one of them, such as `optimizer=step.optimizer`.",
        )
    (optimizer,) = chosen
    if constant_rate(optimizer) is None:
        raise ArgumentError(
            "optimizer",
            f"<{type(optimizer).__name__}> whose rate follows a schedule",
            "a constant learning rate, which can be set.",
            "create the step with a number as its learning rate for this test.",
        )
    return optimizer


def _losses(
    program: Program, feed: Feed, optimizer: Any, rates: Sequence[float], name: str
) -> list[float]:
    losses: list[float] = []
    for rate in rates:
        batch = feed.draw()
        if batch is None:  # the end of a pass: the next one begins
            batch = feed.draw()
        optimizer.learning_rate = rate
        tally = Tally()
        # It waits for the device at each step, since each may be the last.
        rows = rows_on_host([program.run(batch)])
        tally.add(program.columns, rows)
        means = tally.means()
        if name not in means:
            raise ArgumentError(
                "loss", repr(name), f"one of {', '.join(means)}, which the step logs.", "name it."
            )
        losses.append(float(means[name]))
        smoothed = _smoothed(losses)
        if not math.isfinite(losses[-1]) or smoothed[-1] > _DIVERGED * abs(min(smoothed)):
            break
    return losses


def _smoothed(losses: Sequence[float]) -> list[float]:
    """Return running averages, with bias correction at the start."""
    found: list[float] = []
    average = 0.0
    for number, value in enumerate(losses, start=1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * value
        found.append(average / (1 - _SMOOTHING**number))
    return found


def _judged(rates: Sequence[float], losses: Sequence[float]) -> RateRange:
    smoothed = _smoothed(losses)
    finite = [value for value in smoothed if math.isfinite(value)]
    if not finite or not min(finite) < finite[0] - (1 - _LEAST_FALL) * abs(finite[0]):
        said = (
            f"The loss does not fall at any rate from {format_value(rates[0])} to "
            f"{format_value(rates[-1])}: check the step with `pg.check`, or try other rates."
        )
        return RateRange(tuple(rates), tuple(losses), tuple(smoothed), None, said)
    best = rates[smoothed.index(min(finite))]
    said = (
        f"Suggested learning rate: {format_value(best / 10)}, a tenth of the one at which the loss "
        f"is lowest ({format_value(best)})."
    )
    if best == rates[-1]:
        said += " It falls up to the highest rate: higher ones may work, too."
    return RateRange(tuple(rates), tuple(losses), tuple(smoothed), best / 10, said)
