"""PG704, InputStarvation: steps that wait for their data more than they compute.

Watched while training, at the end of each epoch: more than half of the time, and at least 5
seconds, went into waiting for batches. Make them in the background (`prefetch` of a
`tf.data.Dataset`, `workers` of a PyDataset or of torch's DataLoader), or keep in memory what is
made anew each epoch. Of a `tf.data.Dataset` that compiled code draws from itself, the time of
waiting is not known.
"""

from __future__ import annotations

from collections.abc import Mapping

from perigee.diagnostics._finding import Finding

_SHARE = 0.5
_FEWEST_SECONDS = 5.0


class Starvation:
    """Looks at where the time went."""

    def __init__(self) -> None:
        self._is_told = False

    def epoch(self, spent: Mapping[str, float], step: int) -> list[Finding]:
        """Look at the end of an epoch.

        Args:
            spent: Seconds so far, as in `History.spent`.
            step: Which one was the last.
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
                happened=f"Up to step {step}, {waited / total:.0%} of the time went into waiting "
                f"for data: {waited:.1f} of {total:.1f} seconds.",
                expected="batches that are ready when the step is.",
                fix="make batches in the background (`prefetch`, `workers`), or cache them.",
            )
        ]

    def state(self) -> dict[str, bool]:
        """Return what must survive a restart."""
        return {"told": self._is_told}

    def load_state(self, state: Mapping[str, bool]) -> None:
        """Take back what `state` returned."""
        self._is_told = state["told"]
