"""PG703, LossStalls: a loss that has not fallen since the training began.

Checked during training: after 500 steps and one epoch, no window of 100 steps had a loss more than
1% below that of the first steps, by more than its noise. A loss that has fallen and is now constant
has converged, and is not reported; nor is a training that continues with an optimizer that has made
updates before, nor that of a model that already distinguishes the labels, as in fine-tuning. Usual
causes: a learning rate far too low, all units dead, labels unrelated to the inputs, parts of the
model that nothing updates.

How sure: a warning, shown by the logged losses. A task may be as hard as that.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from perigee.diagnostics._evidence import Evidence
from perigee.diagnostics._finding import Finding

_WINDOW = 100
_FIRST_STEPS = 10
_FEWEST_STEPS = 500
_SHARE = 0.01
_NOISE = 2.0
"""Standard errors that a fall must exceed."""
_KNOWN = 0.5
"""The share by which the loss is lower if a model distinguishes the labels."""
_FEWEST_ROWS = 4


class Stall:
    """Watches the loss of each step."""

    def __init__(self) -> None:
        self._seen = 0
        self._window: list[float] = []
        self._first: dict[str, float] | None = None
        self._best = math.inf
        self._is_over = False

    def steps(self, losses: np.ndarray, numbers: Sequence[int], epochs: int) -> list[Finding]:
        """Examine the losses of the next steps.

        Args:
            losses: Shape `(steps,)`.
            numbers: The numbers of these steps.
            epochs: Epochs finished before them.
        """
        if self._is_over:
            return []
        for loss, number in zip(losses, numbers, strict=True):
            self._seen += 1
            self._window.append(float(loss))
            if len(self._window) < _WINDOW:
                continue
            window, self._window = self._window, []
            if self._first is None:
                self._first = {
                    "early": float(np.mean(window[:_FIRST_STEPS])),
                    "mean": float(np.mean(window)),
                    "deviation": float(np.std(window)),
                }
                continue
            self._best = min(self._best, float(np.mean(window)))
            if self._has_fallen(self._first):
                self._is_over = True
                return []
            if self._seen >= (_FEWEST_STEPS if epochs else 2 * _FEWEST_STEPS):
                self._is_over = True
                return [self._finding(int(number), self._first)]
        return []

    def _has_fallen(self, first: Mapping[str, float]) -> bool:
        """Return whether the loss is lower than at the first steps, or than soon after them."""
        least, deviation = _SHARE * abs(first["mean"]), first["deviation"]
        return not math.isfinite(first["mean"]) or (
            first["mean"] - self._best > least + _NOISE * deviation / math.sqrt(_WINDOW)
            or first["early"] - self._best > least + _NOISE * deviation / math.sqrt(_FIRST_STEPS)
        )

    def _finding(self, step: int, first: Mapping[str, float]) -> Finding:
        return Finding(
            code="PG703",
            name="LossStalls",
            severity="warning",
            happened=f"Up to step {step} the loss has not fallen: it was {first['mean']:.4g} over "
            f"the first {_WINDOW} steps, and no lower than {self._best:.4g} over any "
            f"{_WINDOW} since.",
            expected=f"a fall of more than {_SHARE:.0%}.",
            fix="try a learning rate ten times higher, and run `pg.check(step, data)`.",
        )

    def state(self) -> dict[str, Any]:
        """Return what must survive a restart."""
        best = self._best if math.isfinite(self._best) else None
        return {
            "seen": self._seen,
            "window": list(self._window),
            "first": self._first,
            "best": best,
            "over": self._is_over,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned."""
        self._seen, self._window = state["seen"], list(state["window"])
        self._first = None if state["first"] is None else dict(state["first"])
        self._best = math.inf if state["best"] is None else state["best"]
        self._is_over = state["over"]

    def leave(self) -> None:
        """Stop checking: the training continues from weights that are already trained."""
        self._is_over = True


def follows_labels(evidence: Evidence) -> bool:
    """Return whether the loss is far lower with the right labels than with others."""
    batch = evidence.batches[0]
    if not isinstance(batch, tuple) or len(batch) < 2 or evidence.size < _FEWEST_ROWS:
        return False
    order = np.random.default_rng(0).permutation(evidence.size)
    labels = keras.tree.map_structure(lambda leaf: np.asarray(leaf)[order], batch[1])
    losses = evidence.loss(batch), evidence.loss((batch[0], labels, *batch[2:]))
    here, elsewhere = (np.nan if loss is None else loss - evidence.penalty for loss in losses)
    return bool(elsewhere - here > _KNOWN * abs(elsewhere))
