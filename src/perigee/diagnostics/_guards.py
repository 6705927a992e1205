"""The guards of `fit`: rules that watch a training, using values that the host reads anyway."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any, ParamSpec, TypeVar

import numpy as np

from perigee import _backends
from perigee._events.clock import Clock
from perigee._events.protocols import Feed
from perigee._execution import Program
from perigee._step.averages import Column
from perigee._step.state import attributes_preserved, track
from perigee._step.step import Step
from perigee._step.updates import counter_of
from perigee._typing import Batch
from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding
from perigee.diagnostics.fence import Fence
from perigee.diagnostics.guards.input_starvation import Starvation
from perigee.diagnostics.guards.loss_diverges import Divergence
from perigee.diagnostics.guards.loss_stalls import Stall, follows_labels
from perigee.diagnostics.guards.metric_stuck import Stuck
from perigee.diagnostics.guards.non_finite_origin import Origins
from perigee.diagnostics.rules import dead_units

_P = ParamSpec("_P")
_R = TypeVar("_R")

GUARDS: Mapping[str, str] = {
    "PG122": "DeadUnits",
    "PG420": "Recompiled",
    "PG701": "NonFiniteOrigin",
    "PG702": "LossDiverges",
    "PG703": "LossStalls",
    "PG704": "InputStarvation",
    "PG705": "MetricStuck",
}
"""All guards: names by code."""


class Guards:
    """Watches a training, using values that the host reads anyway; reports a finding once.

    A guard that fails ends nothing: it is reported once and then turned off.

    Args:
        step: The Step.
        codes: The guards of `GUARDS` to run.
        batch: The first batch of the data, to examine a stalled model with.
        reopen: Opens the data again.
    """

    def __init__(
        self, step: Step, codes: frozenset[str], batch: Batch, reopen: Callable[[], Feed]
    ) -> None:
        self._step, self._codes, self._batch = step, codes, batch
        self._divergence, self._stall = Divergence(), Stall()
        self._starvation, self._stuck = Starvation(), Stuck()
        self._columns: Sequence[Column] = ()
        self._places: list[int] = []
        self._origins = Origins(step, reopen) if "PG701" in codes else None
        self._failed: set[str] = set()
        self._untold: list[Finding] = []
        if self._guarded("PG703", self._has_learned):
            self._stall.leave()

    def before(self, feed: Feed, clock: Clock) -> None:
        """Keep what is needed to find where a NaN began; called before the next step."""
        if self._origins is not None:
            self._guarded("PG701", self._origins.keep, feed, clock)

    def origin(
        self, program: Program, name: str, value: float, step: int, within: range | None
    ) -> Finding | None:
        """Return where a value that is not finite began; `None` if unknown.

        Args:
            program: The program that ran.
            name: The name of a logged value or of a variable.
            value: NaN or an infinity.
            step: The step that logged it.
            within: For a variable, the steps one of which wrote it.
        """
        if self._origins is None:
            return None
        if within is not None:
            return self._guarded("PG701", self._origins.of_state, program, name, value, within)
        return self._guarded("PG701", self._origins.find, program, name, value, step)

    def rows(self, columns: Sequence[Column], rows: np.ndarray, clock: Clock) -> list[Finding]:
        """Examine rows that were read.

        Args:
            columns: Their columns.
            rows: Means and counts, shape `(steps, columns, 2)`.
            clock: The progress after the last of them.
        """
        first = clock.step - len(rows) + 1
        losses = cache(lambda: self._losses(columns, rows, first))
        found: list[Finding] = []
        if "PG702" in self._codes:
            diverged = self._guarded("PG702", lambda: self._divergence.steps(*losses()))
            found += diverged or []
        if self._codes & {"PG122", "PG703"}:
            stalled = self._guarded("PG703", lambda: self._stall.steps(*losses(), clock.epoch))
            if stalled:
                told = self._guarded("PG122", self._of_a_stall, stalled, clock)
                meant = stalled if "PG703" in self._codes else []
                found += meant if told is None else told
        return [*found, *self._told()]

    def epoch(
        self,
        program: Program,
        values: Mapping[str, float],
        spent: Mapping[str, float],
        clock: Clock,
    ) -> list[Finding]:
        """Examine a finished epoch: what was logged, and how the time was spent so far."""
        found: list[Finding] = []
        if "PG704" in self._codes:
            found += self._guarded("PG704", self._starvation.epoch, spent, clock.step) or []
        if "PG705" in self._codes:
            metrics = program.rehearsal.metrics
            found += self._guarded("PG705", self._stuck.epoch, values, metrics, clock.step) or []
        return [*found, *self._told()]

    def state(self) -> dict[str, Any]:
        """Return what must survive a restart, so that each finding is reported once."""
        return {
            "divergence": self._divergence.state(),
            "stall": self._stall.state(),
            "starvation": self._starvation.state(),
            "stuck": self._stuck.state(),
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self._guarded("PG702", lambda: self._divergence.load_state(state["divergence"]))
        self._guarded("PG703", lambda: self._stall.load_state(state["stall"]))
        self._guarded("PG704", lambda: self._starvation.load_state(state["starvation"]))
        self._guarded("PG705", lambda: self._stuck.load_state(state["stuck"]))

    def _guarded(
        self, code: str, look: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs
    ) -> _R | None:
        """Return what a guard finds; `None` if it fails, or has failed before."""
        if code in self._failed:
            return None
        try:
            return look(*args, **kwargs)
        except Exception as error:
            fence = Fence()
            self._failed.add(code)
            fence.add(f"{code}, {GUARDS[code]}", error)
            self._untold += fence.findings()
            return None

    def _told(self) -> list[Finding]:
        untold, self._untold = self._untold, []
        return untold

    def _losses(
        self, columns: Sequence[Column], rows: np.ndarray, first: int
    ) -> tuple[np.ndarray, Sequence[int]]:
        """Return the logged `loss` and its step numbers, for the steps at which it counts."""
        if columns is not self._columns:  # they change only when the step is recompiled
            self._columns = columns
            self._places = [i for i, column in enumerate(columns) if column.name == "loss"]
        if len(self._places) == 1:
            cells = rows[:, self._places[0]]
        else:
            cells = rows[:, self._places].sum(axis=1)
        values, counts = cells[:, 0], cells[:, 1]
        numbers = range(first, first + len(rows))
        if counts.all() and np.isfinite(values.sum()):
            return values, numbers
        counted = np.flatnonzero((counts > 0) & np.isfinite(values))
        return values[counted], [numbers[i] for i in counted]

    def _has_learned(self) -> bool:
        """Return whether an optimizer made updates before this training. It waits, once."""
        optimizers = track(self._step).optimizers.values()
        return any(int(_backends.current().read(counter_of(o))) > 0 for o in optimizers)

    def _of_a_stall(self, stalled: Sequence[Finding], clock: Clock) -> list[Finding]:
        """Examine a model that learns nothing: this costs as much as a few steps."""
        host = _backends.current().to_host(_backends.current().tensors(self._batch))
        evidence = Evidence(self._step, [host], [], None, False)
        with attributes_preserved(self._step):
            evidence.rehearse()
            units = dead_units.check(evidence) if "PG122" in self._codes else []
            is_meant = "PG703" not in self._codes or follows_labels(evidence)
        told = [replace(f, happened=f"At step {clock.step}: {f.happened}") for f in units]
        return told if is_meant else [*told, *stalled]
