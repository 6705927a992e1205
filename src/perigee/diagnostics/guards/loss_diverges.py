"""PG702, LossDiverges: a loss that has been far above its first value for many steps.

Checked during training: the logged `loss` of 20 consecutive steps is more than three times the
largest of the first five. On 53 published correct programs this never happened. The learning rate
is too high, the gradients are not clipped, or the loss has the wrong sign.

How sure: a warning, shown by the logged losses. A training may recover.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from perigee.diagnostics._finding import Finding

_FIRST_STEPS = 5
_FACTOR = 3.0
_STEPS = 20


class Divergence:
    """Watches the loss of each step."""

    def __init__(self) -> None:
        self._seen = 0
        self._first = 0.0
        self._above = 0
        self._is_told = False

    def steps(self, losses: np.ndarray, numbers: Sequence[int]) -> list[Finding]:
        """Examine the losses of the next steps.

        Args:
            losses: Shape `(steps,)`.
            numbers: The numbers of these steps.
        """
        if self._seen < _FIRST_STEPS:
            first = losses[: _FIRST_STEPS - self._seen]
            self._first = max([self._first, *map(float, first)])
            self._seen += len(losses)
        if self._is_told or self._first <= 0 or not len(losses):
            return []
        is_above = losses > _FACTOR * self._first
        if not is_above.any():
            self._above = 0
            return []
        for index, above in enumerate(is_above):
            self._above = self._above + 1 if above else 0
            if self._above == _STEPS:
                self._is_told = True
                return [self._finding(int(numbers[index]), float(losses[index]))]
        return []

    def _finding(self, step: int, loss: float) -> Finding:
        return Finding(
            code="PG702",
            name="LossDiverges",
            severity="warning",
            happened=f"The loss was above {_FACTOR:g} times its first value ({self._first:.4g}) "
            f"for {_STEPS} steps, up to step {step}, where it was {loss:.4g}.",
            expected="a loss that falls.",
            fix="lower the learning rate, or clip the gradients.",
        )

    def state(self) -> dict[str, Any]:
        """Return what must survive a restart."""
        return {
            "seen": self._seen,
            "first": self._first,
            "above": self._above,
            "told": self._is_told,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self._seen, self._first = state["seen"], state["first"]
        self._above, self._is_told = state["above"], state["told"]
