"""The user's choice of how steps run."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

from perigee import _backends
from perigee._backends import Mode
from perigee._errors import ArgumentError, door

Choice = Literal["auto", "eager", "graph", "xla"]


@door
@dataclass(frozen=True, slots=True)
class Execution:
    """How a step runs.

    Neither setting changes the results, except for the order of floating-point operations; on
    TensorFlow, XLA draws other random numbers from the same seed.

    Attributes:
        mode: `"graph"` compiles it, `"xla"` compiles it with XLA, `"eager"` runs it as plain
            Python, for debugging: from the first call, the rehearsal included, tensors have values.
            Inside an objective on JAX, `jax.grad` hides them from `float()` and NumPy, but `if`,
            `int()` and `.item()` work. `"auto"` measures which is fastest on this machine, and uses
            the framework's default if the training is too short for measuring to pay off.
        steps_per_call: The most steps in one call, from 1 to 256; 1 makes one call per step.
            `"auto"` makes calls of about a quarter of a second.
    """

    mode: Choice = "auto"
    steps_per_call: int | Literal["auto"] = "auto"

    def __post_init__(self) -> None:
        if self.mode not in ("auto", "eager", "graph", "xla"):
            raise ArgumentError(
                "execution",
                repr(self.mode),
                "one of auto, eager, graph, xla.",
                'pass "auto", "eager", "graph" or "xla".',
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
                f'an integer from 1 to {_backends.MOST_STEPS_A_BLOCK}, or "auto".',
                "omit it, and it is adapted during training.",
            )

    @property
    def given_mode(self) -> Mode | None:
        """The requested mode; `None` for an automatic choice.

        Raises:
            ArgumentError: If the framework has no such mode.
        """
        if self.mode == "auto":
            return None
        modes = _backends.current().capabilities.modes
        if self.mode not in modes:
            offered = ", ".join(("auto", *modes))
            raise ArgumentError(
                "execution",
                repr(self.mode),
                f"one of {offered} on {_backends.current().name}.",
                f"pass one of {offered}.",
            )
        return self.mode

    @property
    def fuses(self) -> bool | None:
        """Whether many steps go into one call; `None` for an automatic choice."""
        if self.mode == "eager":
            return False
        if self.steps_per_call == "auto":
            return None
        return self.steps_per_call > 1 and _backends.current().capabilities.fuses

    @property
    def most_steps(self) -> int | None:
        """The most steps per call; `None` to adapt it."""
        return None if self.steps_per_call == "auto" else self.steps_per_call


def preparing(execution: Execution) -> AbstractContextManager[None]:
    """Open while a step is prepared: an eager one is not traced before it runs, either."""
    return _backends.current().eagerly() if execution.mode == "eager" else nullcontext()
