"""PG705, MetricStuck: a metric that has not changed since the training began.

Checked during training: over the first five epochs the metric was the same to the last digit, far
from its best value, while the loss changed by more than 5%. It compares values that cannot be equal
(`Accuracy` of probabilities, ids with one-hot rows), or the model predicts the same for all
examples. A score from 0.9 to 1 is not reported: a further training may keep its last few errors.

How sure: a warning, shown by the logged values of five epochs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perigee.diagnostics._finding import Finding

_EPOCHS = 5
_CHANGE = 0.05
_GOOD = 0.9


class Stuck:
    """Examines the values of each epoch."""

    def __init__(self) -> None:
        self._epochs = 0
        self._first: dict[str, float] = {}
        self._loss: float | None = None

    def epoch(
        self, values: Mapping[str, float], metrics: Mapping[str, Any], step: int
    ) -> list[Finding]:
        """Examine a finished epoch.

        Args:
            values: The logged values.
            metrics: Metrics by the name under which they are logged.
            step: The last step.
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
                happened=f"Up to step {step}, for {_EPOCHS} epochs, these metrics have not "
                f"changed, while the loss went from {self._loss:.4g} to {values['loss']:.4g}:",
                items=tuple(f"{name}: {value:.6g}" for name, value in self._first.items()),
                expected="metrics that change with the loss.",
                fix="run `pg.check(step, data)`, which checks whether the metric fits labels and "
                "outputs.",
            )
        ]

    def state(self) -> dict[str, Any]:
        """Return what must survive a restart."""
        return {"epochs": self._epochs, "first": dict(self._first), "loss": self._loss}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self._epochs, self._first = state["epochs"], dict(state["first"])
        self._loss = state["loss"]


def _is_score(metric: Any) -> bool:
    """Return whether a metric compares labels and predictions: `Mean` and `Sum` may count."""
    return metric is not None and type(metric).__name__ not in ("Mean", "Sum")
