"""PG705, MetricStuck: a metric that has had one value since the training began.

Watched while training: over the first five epochs the metric was the same to the last digit, far
from its best, while the loss changed by more than 5%. It compares what cannot be equal (`Accuracy`
of probabilities, ids against one-hot rows), or the model answers all examples alike. A score from
0.9 to 1 is left alone: a training that goes on may keep its last few errors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perigee.diagnostics._finding import Finding

_EPOCHS = 5
_CHANGE = 0.05
_GOOD = 0.9


class Stuck:
    """Looks at the values of each epoch."""

    def __init__(self) -> None:
        self._epochs = 0
        self._first: dict[str, float] = {}
        self._loss: float | None = None

    def epoch(
        self, values: Mapping[str, float], metrics: Mapping[str, Any], step: int
    ) -> list[Finding]:
        """Look at the end of an epoch.

        Args:
            values: What was logged.
            metrics: Metrics by the name under which they are logged.
            step: Which one was the last.
        """
        if self._epochs >= _EPOCHS:
            return []
        if self._epochs == 0:
            self._first = {
                name: value
                for name, value in values.items()
                if _is_score(metrics.get(name)) and not _GOOD <= value <= 1.0
            }
            self._loss = values.get("loss")
        self._epochs += 1
        self._first = {n: v for n, v in self._first.items() if values.get(n) == v}
        if self._epochs < _EPOCHS or not self._first or self._loss is None:
            return []
        if abs(values.get("loss", self._loss) - self._loss) <= _CHANGE * abs(self._loss):
            return []
        return [
            Finding(
                code="PG705",
                name="MetricStuck",
                severity="warning",
                happened=f"Up to step {step}, for {_EPOCHS} epochs, these metrics have not moved, "
                f"while the loss went from {self._loss:.4g} to {values['loss']:.4g}:",
                items=tuple(f"{name}: {value:.6g}" for name, value in self._first.items()),
                expected="metrics that move with the loss.",
                fix="`pg.check(step, data)` says whether the metric fits the labels and outputs.",
            )
        ]

    def state(self) -> dict[str, Any]:
        """Return what must survive a restart."""
        return {"epochs": self._epochs, "first": dict(self._first), "loss": self._loss}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        self._epochs, self._first = state["epochs"], dict(state["first"])
        self._loss = state["loss"]


def _is_score(metric: Any) -> bool:
    """Tell whether a metric compares labels and predictions: `Mean` and `Sum` may count."""
    return metric is not None and type(metric).__name__ not in ("Mean", "Sum")
