"""How far a training has come and why it stops: one value, saved and restored whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from perigee._events.clock import Clock
from perigee._events.events import BY_CALLBACK, INTERRUPTIONS
from perigee._step.averages import Tally

Stage = Literal["between epochs", "steps", "end"]
"""What a training does next: begin an epoch, train its steps, or what follows the last of them."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands between two steps.

    Its methods return the next value and change nothing; the totals alone collect in place.

    Attributes:
        clock: Finished steps and epochs, and the steps of the current epoch.
        epoch: Totals of what the current epoch has logged.
        window: Totals since the last record of a window of steps.
        validated: The step after which it was validated last, and the result.
        stop: Why training stops; `None` while it continues.
        stage: What it does next.
    """

    clock: Clock = field(default_factory=Clock)
    epoch: Tally = field(default_factory=Tally)
    window: Tally = field(default_factory=Tally)
    validated: tuple[int, Mapping[str, float]] = (-1, {})
    stop: str | None = None
    stage: Stage = "between epochs"

    def after_steps(self, count: int) -> Self:
        """Return the progress `count` steps later in the same epoch."""
        # Once per step, where `replace` would cost three times as much.
        clock = self.clock.after_steps(count)
        return type(self)(clock, self.epoch, self.window, self.validated, self.stop, self.stage)

    def after_last_step(self) -> Self:
        """Return the progress with all steps of the epoch done; what ends it comes next."""
        return replace(self, stage="end")

    def after_epoch(self) -> Self:
        """Return the progress with the current epoch finished."""
        return replace(self, clock=self.clock.after_epoch(), stage="between epochs")

    def with_new_epoch(self) -> Self:
        """Return the progress where an epoch begins, with no totals of it yet."""
        return replace(self, epoch=Tally(), stage="steps")

    def with_new_window(self) -> Self:
        """Return the progress with no totals of the window yet."""
        return replace(self, window=Tally())

    def with_validation(self, values: Mapping[str, float]) -> Self:
        """Return the progress with a validation after the last step."""
        return replace(self, validated=(self.clock.step, values))

    def stopping(self, reason: str | None) -> Self:
        """Return the progress with a reason to stop.

        The first reason that ends training stays; one that suspends it gives way to any other.
        """
        return self if reason is None or self.finished else replace(self, stop=reason)

    @property
    def finished(self) -> str | None:
        """Why there is nothing left to train; `None` where training continues or can be resumed."""
        return None if self.is_suspended else self.stop

    @property
    def is_suspended(self) -> bool:
        """Whether training stops only to be resumed later."""
        return self.stop in INTERRUPTIONS

    @property
    def place(self) -> str:
        """Where training stands, for people; what ends an epoch belongs to it."""
        step, epoch, batch = self.clock.step, self.clock.epoch, self.clock.batch
        if self.stage == "end" or (self.stage == "between epochs" and epoch):
            return f"after step {step}, at the end of epoch {epoch + (self.stage == 'end')}"
        return f"after step {step}, epoch {epoch + 1}, batch {batch + 1} of the epoch"

    def state(self) -> dict[str, Any]:
        """Return the rest as plain values; clock and reason stand in a checkpoint anyway."""
        step, values = self.validated
        return {
            "epoch": self.epoch.state(),
            "window": self.window.state(),
            "validated": {"step": step, "values": dict(values)},
            "stage": self.stage,
        }

    @classmethod
    def from_state(cls, clock: Clock, state: Mapping[str, Any], finished: str | None) -> Self:
        """Return the progress that a checkpoint holds.

        Args:
            clock: Where training stood.
            state: What `state` returned.
            finished: Why nothing was left to train, or `None`. That there were enough steps or
                epochs is decided again, as there may be more to train now.
        """
        validated = state.get("validated", {"step": -1, "values": {}})
        return cls(
            clock,
            Tally.from_state(state["epoch"]),
            Tally.from_state(state["window"]),
            (validated["step"], validated["values"]),
            None if finished in ("epochs", "steps") else finished,
            state.get("stage", "steps" if clock.batch else "between epochs"),  # of version 0.1
        )


def reason_to_stop(
    clock: Clock,
    epochs: int | None,
    steps: int | None,
    *,
    is_stopped_by_callback: bool = False,
    interruption: str | None = None,
) -> str | None:
    """Decide at a step boundary whether training stops, and why.

    Args:
        clock: Where training stands.
        epochs: Epochs to train, or `None`.
        steps: Steps to train, or `None`.
        is_stopped_by_callback: Whether a Keras callback has set `stop_training`.
        interruption: One of `INTERRUPTIONS`, or `None`.

    Returns:
        The reason that counts most: one that ends training comes before one that suspends it,
        unless just the last step was made.
    """
    if is_stopped_by_callback:
        return BY_CALLBACK
    if interruption is not None:
        return interruption
    if steps is not None and clock.step >= steps:
        return "steps"
    if epochs is not None and clock.epoch >= epochs:
        return "epochs"
    return None
