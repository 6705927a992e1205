"""The counters of a training: steps, epochs and batches of the current epoch."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Clock:
    """The progress of a training.

    Attributes:
        step: Finished calls of the user's step, over the whole training.
        epoch: Finished epochs.
        batch: Finished steps of the current epoch.
    """

    step: int = 0
    epoch: int = 0
    batch: int = 0

    def after_steps(self, count: int) -> "Clock":
        """Return the clock `count` steps later in the same epoch."""
        return Clock(self.step + count, self.epoch, self.batch + count)

    def after_epoch(self) -> "Clock":
        """Return the clock after the end of the current epoch."""
        return replace(self, epoch=self.epoch + 1, batch=0)
