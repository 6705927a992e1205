"""The plan that was chosen for a step, and the alternatives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from perigee import _backends
from perigee._backends import Mode

Origin = Literal["usual", "requested", "measured", "remembered"]


@dataclass(frozen=True, slots=True)
class Trial:
    """One execution mode that was considered.

    Attributes:
        mode: `"graph"`, `"xla"` or `"eager"`.
        is_fused: Whether many steps go into one call.
        microseconds: Time per step, the best of a few measurements; `None` if not measured.
        compile_seconds: Time until the first call was done; `None` if not measured.
        note: Why it was skipped, or what it changes; empty otherwise.
        is_for_longer: Whether it was skipped only because the training is short.
    """

    mode: Mode
    is_fused: bool
    microseconds: float | None = None
    compile_seconds: float | None = None
    note: str = ""
    is_for_longer: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """How a step runs. Printing it shows what was tried, what each cost and what was chosen.

    The number of steps per call is not part of it, since it affects no result.

    Attributes:
        mode: `"graph"`, `"xla"` or `"eager"`.
        is_fused: Whether many steps go into one call, where the data allows it.
        origin: `"usual"` (too short for measuring to pay, or nothing to choose from),
            `"requested"`, `"measured"`, or `"remembered"` from an earlier measurement.
        trials: What was considered.
        steps: For a training of how many steps; 0 where nothing was considered.
    """

    mode: Mode
    is_fused: bool
    origin: Origin
    trials: tuple[Trial, ...] = ()
    steps: int = 0

    @classmethod
    def usual(
        cls, loops_well: bool, mode: Mode | None = None, is_fused: bool | None = None
    ) -> Plan:
        """Return the plan for the requested settings, with the framework's defaults for the rest.

        Args:
            loops_well: Whether many of the steps may go into one call by default.
            mode: What was requested, or `None`.
            is_fused: What was requested, or `None`.
        """
        usual_mode, usually_fused = _backends.current().capabilities.plans[0]
        origin = "usual" if mode is None and is_fused is None else "requested"
        if is_fused is None:
            is_fused = usually_fused and loops_well
        return cls(mode or usual_mode, is_fused and mode != "eager", origin)

    def __str__(self) -> str:
        lines = [f"{_name(self)} ({self.origin})"]
        for trial in self.trials:
            cost = (
                "not measured"
                if trial.microseconds is None
                else f"{trial.microseconds:.0f} us per step"
            )
            compiling = (
                ""
                if trial.compile_seconds is None
                else f", ready after {trial.compile_seconds:.1f} s"
            )
            note = f"; {trial.note}" if trial.note else ""
            lines.append(f"  {_name(trial)}: {cost}{compiling}{note}")
        return "\n".join(lines)

    def holds_for(self, steps: int) -> bool:
        """Return whether the plan would be the same for a training of `steps` steps."""
        if self.origin in ("measured", "remembered"):
            return steps <= self.steps or not any(t.is_for_longer for t in self.trials)
        return self.origin == "requested"

    def facts(self) -> dict[str, Any]:
        """Return the plan as plain values, for a file."""
        return {
            "mode": self.mode,
            "is_fused": self.is_fused,
            "origin": self.origin,
            "trials": [asdict(trial) for trial in self.trials],
            "steps": self.steps,
        }

    @classmethod
    def remembered(cls, facts: Mapping[str, Any]) -> Plan | None:
        """Return the plan that `facts` describe, or `None` if they describe none."""
        try:
            mode, is_fused = facts["mode"], facts["is_fused"]
            trials = tuple(Trial(**trial) for trial in facts.get("trials", ()))
            steps = int(facts.get("steps", 0))
        except (KeyError, TypeError, ValueError):
            return None
        if mode not in ("eager", "graph", "xla") or not isinstance(is_fused, bool):
            return None
        return cls(mode, is_fused, "remembered", trials, steps)


def _name(choice: Plan | Trial) -> str:
    return f"{choice.mode}, {'many steps per call' if choice.is_fused else 'one step per call'}"
