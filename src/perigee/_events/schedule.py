"""When things are due: cadences as values."""

from dataclasses import dataclass

from perigee._errors import ArgumentError
from perigee._events.clock import Clock


@dataclass(frozen=True, slots=True)
class Every:
    """A cadence: every so many steps, every so many epochs, or every so many seconds.

    >>> Every(steps=100).is_due(Clock(step=200))
    True

    Args:
        steps: Due when the clock's step is a multiple of it, at least 1.
        epochs: Due at the end of an epoch whose number is a multiple of it, at least 1.
        seconds: Due when so much time has gone by, greater than 0; for saving only, since what is
            trained and logged does not depend on time.

    Raises:
        ArgumentError: Unless exactly one of them is given, and positive.
    """

    steps: int | None = None
    epochs: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        given = [v for v in (self.steps, self.epochs, self.seconds) if v is not None]
        least = 1 if self.seconds is None else 1e-9
        if len(given) != 1 or not given[0] >= least:
            raise ArgumentError(
                "Every",
                f"(steps={self.steps}, epochs={self.epochs}, seconds={self.seconds})",
                "exactly one of `steps`, `epochs` (at least 1) and `seconds`, greater than 0.",
                "write `Every(steps=100)` or `Every(epochs=1)`.",
            )

    def is_due(self, clock: Clock) -> bool:
        """Tell whether something is due at this clock.

        Epochs count when they have just ended: `clock.batch` is 0 and `clock.epoch` has advanced.

        Args:
            clock: After the steps and epochs that are finished.
        """
        if self.steps is not None:
            return clock.step > 0 and clock.step % self.steps == 0
        if self.epochs is None:  # only a clock on the wall tells
            return False
        return clock.batch == 0 and clock.epoch > 0 and clock.epoch % self.epochs == 0

    def steps_until_due(self, clock: Clock) -> int | None:
        """Return how many steps remain until it is due, at least 1; `None` if steps do not tell.

        Args:
            clock: After the steps that are finished.
        """
        return None if self.steps is None else self.steps - clock.step % self.steps
