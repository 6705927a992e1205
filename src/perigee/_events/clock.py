"""What counts: steps, epochs and the batches of the epoch under way."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Clock:
    """How far training has come.

    Attributes:
        step: Finished calls of the user's step, over the whole training.
        epoch: Finished epochs.
        batch: Finished steps of the epoch under way.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0

    def after_steps(self, count: int) -> "Clock":
        """Return the clock `count` steps later in the same epoch."""
        return replace(self, step=self.step + count, batch=self.batch + count)

    def after_epoch(self) -> "Clock":
        """Return the clock with the epoch under way finished."""
        return replace(self, epoch=self.epoch + 1, batch=0)
