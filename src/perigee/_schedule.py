"""When things are due: cadences as values."""

from dataclasses import dataclass

from perigee._clock import Clock
from perigee._errors import ArgumentError


@dataclass(frozen=True, slots=True)
class Every:
    """A cadence: every so many steps, or every so many epochs.

    >>> Every(steps=100).is_due(Clock(step=200))
    True

    Args:
        steps: Due when the clock's step is a multiple of it, at least 1.
        epochs: Due at the end of an epoch whose number is a multiple of it, at least 1.

    Raises:
        ArgumentError: Unless exactly one of them is given, and positive.
    """

    steps: int | None = None
    epochs: int | None = None

    def __post_init__(self) -> None:
        given = [value for value in (self.steps, self.epochs) if value is not None]
        if len(given) != 1 or given[0] < 1:
            raise ArgumentError(
                "Every",
                f"(steps={self.steps}, epochs={self.epochs})",
                "exactly one of `steps` and `epochs`, at least 1.",
                "write `Every(steps=100)` or `Every(epochs=1)`.",
            )

    def is_due(self, clock: Clock) -> bool:
        """Tell whether something is due at this clock.

        Epochs count when they have just ended: `clock.batch` is 0 and `clock.epoch` has advanced.
        """
        if self.steps is not None:
            return clock.step > 0 and clock.step % self.steps == 0
        assert self.epochs is not None
        return clock.batch == 0 and clock.epoch > 0 and clock.epoch % self.epochs == 0

    def steps_until_due(self, clock: Clock) -> int | None:
        """Return how many steps remain until it is due, at least 1; `None` where epochs count."""
        return None if self.steps is None else self.steps - clock.step % self.steps
