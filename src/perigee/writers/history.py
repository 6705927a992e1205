"""The values of each epoch, as Keras's `fit` returns them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

from perigee._events.better import better_mode
from perigee._events.clock import Clock
from perigee._events.events import Ended, Hook, Recorded
from perigee._events.stored_shapes import count, dict_of, fields, list_of, number
from perigee.writers.terminal import format_value

_STATE = fields({"history": dict_of(list_of(number)), "epoch": list_of(count())})
_SPARK_WIDTH, _SPARK_HEIGHT = 120, 24


if TYPE_CHECKING:
    _OfKeras = object  # Keras's class has no type that checkers could read
else:
    _OfKeras = keras.callbacks.History


@dataclass(frozen=True, slots=True)
class Best:
    """The best checkpoint of a run.

    Attributes:
        name: The value that decides: `best` of the `Run`, such as `"val_loss"`.
        value: That value, as it was logged.
        clock: The finished steps and epochs at which it was logged.
        path: The directory of the checkpoint; `Run.restore(step, "best")` loads it.
    """

    name: str
    value: float
    clock: Clock
    path: Path


class History(Hook, _OfKeras):
    """The result of a training, which passes for Keras's own `History`.

    Args:
        find_best: Returns the best checkpoint so far; the others are attributes.

    Attributes:
        history: One exact value per epoch, by name; validation values are prefixed `val_`. If a
            value is missing in some epochs, the list is shorter, as in Keras.
        epoch: The numbers of the epochs, from 0.
        stop_reason: Why it ended: `"epochs"`, `"steps"`, `"data"` if that ended early,
            `"non-finite"`, or the reason given by a hook or callback.
        clock: The progress at its end.
        resumed_from: The progress at which a run was resumed; `None` if it was not.
        best: The best checkpoint when training ended, with `Run(..., best=...)`; else `None`. See
            `Best`.
        spent: Seconds spent waiting for `"data"`, on the `"device"`, in `"validation"`, `"saving"`
            and `"compiling"`; `"host"` is the rest. See `Ended`.
        plan: How the step was run, with the alternatives; print it.
        findings: Suspected problems of the step.
        failures: By what could not be saved or logged, how often it `"failed"` and how many records
            were `"lost"`; empty if all is on the disk.
    """

    may_lag = True

    def __init__(
        self,
        plan: Any = None,
        findings: Sequence[Any] = (),
        resumed_from: Clock | None = None,
        stop_reason: str | None = None,
        find_best: Callable[[], Best | None] = lambda: None,
        failures: Mapping[str, Mapping[str, int]] | None = None,
    ) -> None:
        super().__init__()
        self.history: dict[str, list[float]] = {}
        self.epoch: list[int] = []
        self.stop_reason: str | None = stop_reason
        self.clock: Clock = resumed_from or Clock()
        self.resumed_from: Clock | None = resumed_from
        self.best: Best | None = find_best()
        self.spent: Mapping[str, float] = {}
        self.plan: Any = plan
        self.findings: Sequence[Any] = findings
        self._find_best = find_best
        self.failures: Mapping[str, Mapping[str, int]] = {} if failures is None else failures
        self._partial: Mapping[str, float] = {}

    def on_record(self, event: Recorded) -> None:
        """Store the values of an epoch."""
        if event.scope == "epoch":
            self._partial = event.values if event.clock.batch > 0 else {}
            self.epoch.append(len(self.epoch))
            for name, value in event.values.items():
                self.history.setdefault(name, []).append(value)

    def on_end(self, event: Ended) -> None:
        """Store where and why it ended."""
        self.clock = event.clock
        self.stop_reason = event.reason
        self.spent = event.spent
        self.best = self._find_best()

    def state(self) -> Mapping[str, Any]:
        """Return the values so far; those of an unfinished epoch will be recorded again."""
        history = {
            name: values[: len(values) - (name in self._partial)]
            for name, values in self.history.items()
        }
        return {"history": history, "epoch": self.epoch[: len(self.epoch) - bool(self._partial)]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Continue from values that `state` returned."""
        _STATE(state, "history")
        if state["epoch"] != list(range(len(state["epoch"]))):
            raise ValueError("its epochs are not numbered from 0")
        self.history = {name: list(values) for name, values in state["history"].items()}
        self.epoch = list(state["epoch"])

    def _repr_html_(self) -> str:
        """Show the values in a notebook: a plot of each, the last value, and the best."""
        rows = "".join(
            f"<tr><td>{escape(name)}</td><td>{_sparkline(values)}</td>"
            f"<td>{format_value(values[-1])}</td><td>{_best(name, values)}</td></tr>"
            for name, values in self.history.items()
            if values
        )
        ended = "" if self.stop_reason is None else f", ended by {escape(self.stop_reason)}"
        said = f"{len(self.epoch)} epochs, {self.clock.step} steps{ended}"
        head = "<tr><th></th><th></th><th>last</th><th>best</th></tr>"
        return f"<p>{said}</p>" + (f"<table>{head}{rows}</table>" if rows else "")

    def __repr__(self) -> str:
        last = {name: f"{values[-1]:.4g}" for name, values in self.history.items()}
        return f"History(epochs={len(self.epoch)}, stop_reason={self.stop_reason!r}, last={last})"


def _best(name: str, values: Sequence[float]) -> str:
    """Return the best value, if the name implies what is better."""
    mode = better_mode(name.rpartition("/")[2])
    finite = [value for value in values if math.isfinite(value)]
    if mode is None or not finite:
        return ""
    return format_value(min(finite) if mode == "min" else max(finite))


def _sparkline(values: Sequence[float]) -> str:
    """Draw values as a line without axes; values that are not finite are skipped."""
    finite = [(at, value) for at, value in enumerate(values) if math.isfinite(value)]
    low = min((value for _, value in finite), default=0.0)
    span = max((value for _, value in finite), default=0.0) - low or 1.0
    last = max(len(values) - 1, 1)
    places = " ".join(
        f"{2 + at / last * (_SPARK_WIDTH - 4):.1f},"
        f"{_SPARK_HEIGHT - 2 - (value - low) / span * (_SPARK_HEIGHT - 4):.1f}"
        for at, value in finite
    )
    return (
        f'<svg width="{_SPARK_WIDTH}" height="{_SPARK_HEIGHT}" aria-hidden="true">'
        f'<polyline points="{places}" fill="none" stroke="currentColor" stroke-width="1.5"/></svg>'
    )
