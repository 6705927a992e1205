"""How a user asks for steps to be run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from perigee import _backends
from perigee._backends import Mode
from perigee._errors import ArgumentError

Choice = Literal["auto", "eager", "graph", "xla"]


@dataclass(frozen=True, slots=True)
class Execution:
    """How a step runs.

    Neither setting changes what is computed, beyond the order of floating-point operations; on
    TensorFlow, XLA draws other random numbers from the same seed.

    Attributes:
        mode: `"graph"` compiles it, `"xla"` compiles it with XLA, `"eager"` runs it as plain
            Python, for debugging; `"auto"` measures on this machine what is fastest, and takes
            the framework's usual way where the training is too short for measuring to pay.
        steps_per_call: Steps that go into one call at most, from 1 to 256; 1 makes one call for
            each step. `"auto"` makes them as long as about a quarter of a second.
    """

    mode: Choice = "auto"
    steps_per_call: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        known = ("auto", "eager", "graph", "xla")
        if self.mode not in known:
            raise ArgumentError(
                "execution", repr(self.mode), f"one of {', '.join(known)}.", "choose one of them."
            )
        steps: Any = self.steps_per_call
        if steps != "auto" and (
            not isinstance(steps, int)
            or isinstance(steps, bool)
            or not 1 <= steps <= _backends.MOST_STEPS_A_BLOCK
        ):
            raise ArgumentError(
                "steps_per_call",
                repr(steps),
                f'a whole number from 1 to {_backends.MOST_STEPS_A_BLOCK}, or "auto".',
                "leave it out, and it is adapted while the training runs.",
            )

    @property
    def given_mode(self) -> Mode | None:
        """The mode that was asked for; `None` where it is to be chosen.

        Raises:
            ArgumentError: If the framework has no such mode.
        """
        if self.mode == "auto":
            return None
        modes = _backends.current().capabilities.modes
        if self.mode not in modes:
            raise ArgumentError(
                "execution",
                repr(self.mode),
                f"one of auto, {', '.join(modes)} on {_backends.current().name}.",
                "choose one of them.",
            )
        return self.mode

    @property
    def fuses(self) -> bool | None:
        """Whether many steps go into one call; `None` where it is to be chosen."""
        if self.mode == "eager":
            return False
        if self.steps_per_call == "auto":
            return None
        return self.steps_per_call > 1 and _backends.current().capabilities.fuses

    @property
    def most_steps(self) -> int | None:
        """Steps a call at most; `None` where that is to be adapted."""
        return None if self.steps_per_call == "auto" else self.steps_per_call
