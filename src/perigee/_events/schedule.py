"""Cadences: when saving, validating or logging is due."""

from dataclasses import dataclass

from perigee._errors import ArgumentError, door
from perigee._events.clock import Clock


@door
@dataclass(frozen=True, slots=True)
class Every:
    """A cadence: every `steps` steps, every `epochs` epochs, or every `seconds` seconds.

    >>> Every(steps=100).is_due(Clock(step=200))
    True

    Args:
        steps: Due when the clock's step is a multiple of it, at least 1.
        epochs: Due at the end of an epoch whose number is a multiple of it, at least 1.
        seconds: Due when this much time has passed, greater than 0; for saving only, since training
            and logs must not depend on time.

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
        """Return whether it is due at this clock.

        Epochs count when they have just ended: `clock.batch` is 0 and `clock.epoch` has advanced.

        Args:
            clock: The progress after the finished steps and epochs.
        """
        if self.steps is not None:
            return clock.step > 0 and clock.step % self.steps == 0
        if self.epochs is None:  # it depends on time alone
            return False
        return clock.batch == 0 and clock.epoch > 0 and clock.epoch % self.epochs == 0

    def steps_until_due(self, clock: Clock) -> int | None:
        """Return how many steps remain until it is due, at least 1; `None` if not counted in steps.

        Args:
            clock: The progress after the finished steps.
        """
        return None if self.steps is None else self.steps - clock.step % self.steps
