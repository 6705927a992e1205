"""PG704, InputStarvation: steps that spend more time waiting for data than computing.

Checked during training, at the end of each epoch: more than half of the time, and at least 5
seconds, were spent waiting for batches. Prepare them in the background (`prefetch` of a
`tf.data.Dataset`, `workers` of a PyDataset or of torch's DataLoader), or cache in memory what is
computed again in each epoch. The waiting time is not known for a `tf.data.Dataset` that is read
inside compiled code.

No program is shown: what is too slow on one machine is fast enough on another.

How sure: a hint, shown by the time that was spent waiting for batches.
"""

from __future__ import annotations

from collections.abc import Mapping

from perigee.diagnostics._finding import Finding

_SHARE = 0.5
_FEWEST_SECONDS = 5.0


class Starvation:
    """Examines how the time was spent."""

    def __init__(self) -> None:
        self._is_told = False

    def epoch(self, spent: Mapping[str, float], step: int) -> list[Finding]:
        """Examine a finished epoch.

        Args:
            spent: Seconds so far, as in `History.spent`.
            step: The last step.
        """
        waited, computed = spent["data"], spent["device"]
        total = waited + computed
        if self._is_told or waited < _FEWEST_SECONDS or waited <= _SHARE * total:
            return []
        self._is_told = True
        return [
            Finding(
                code="PG704",
                name="InputStarvation",
                severity="hint",
                happened=f"Up to step {step}, {waited / total:.0%} of the time was spent waiting "
                f"for data: {waited:.1f} of {total:.1f} seconds.",
                expected="batches that are ready when the step is.",
                fix="prepare batches in the background (`prefetch`, `workers`), or cache them.",
            )
        ]

    def state(self) -> dict[str, bool]:
        """Return what must survive a restart."""
        return {"told": self._is_told}

    def load_state(self, state: Mapping[str, bool]) -> None:
        """Restore what `state` returned."""
        self._is_told = state["told"]
