"""The five events that the loop sends to hooks and writers, each a small record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from perigee._events.clock import Clock
from perigee._events.schedule import Every
from perigee._events.stored_shapes import loading

if TYPE_CHECKING:
    from perigee._step.shown import Shown  # needs NumPy


BY_CALLBACK = "asked by a callback"
"""The reason where a Keras callback has set `stop_training`."""
INTERRUPTIONS = ("signal", "deadline")
"""Reasons that suspend training rather than end it; nothing is finalized, so it can be resumed."""


@dataclass(frozen=True, slots=True)
class Started:
    """Training is about to begin.

    Attributes:
        step: The Step that is trained.
        clock: The progress at the start.
        epochs: The number of planned epochs, or `None` if steps are planned.
        steps: The total number of planned steps, or `None`.
        steps_per_epoch: Steps per epoch, or `None` if the data has no known length.
        seconds: Time of the event, in seconds since `fit` was called.
        origin: The checkpoint from which it resumes, or `None`.
    """

    step: Any
    clock: Clock
    epochs: int | None
    steps: int | None
    steps_per_epoch: int | None
    seconds: float
    origin: str | None = None


@dataclass(frozen=True, slots=True)
class StepsDone:
    """Some steps are finished.

    Attributes:
        clock: The progress after these steps.
        count: The number of steps that this event reports.
        read: Returns the exact means of the epoch so far, by name. It waits for the device: call it
            only when the numbers are used.
        stop: Call it with a reason to end the training after this event.
        seconds: Time of the event, in seconds since `fit` was called.
    """

    clock: Clock
    count: int
    read: Callable[[], Mapping[str, float]]
    stop: Callable[[str], None]
    seconds: float


RUNNING = "running/"
"""What precedes the names of values that cover the epoch so far, in records of a window."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """Exact values are known: of an epoch, of a validation, or of a window of steps.

    Attributes:
        clock: The progress after the steps that the values cover.
        scope: `"epoch"` (training values and, if it ended with one, those of the validation,
            prefixed `val_`), `"validation"` (one in mid-epoch, also prefixed) or `"steps"`.
        values: Exact values by name. Those of a window are means over its steps, and beside them
            stand the metrics as `running/accuracy`: their results over the epoch so far, since a
            metric has no value of a few steps. One that was not updated in the epoch is absent.
        stop: Call it with a reason to end the training after this event.
        seconds: Time of the event, in seconds since `fit` was called.
        samples: By name, the images or texts that `pg.sample` logged in the last step, those of a
            validation prefixed `val_`, and histograms requested by a hook; at epochs and
            validations only.
    """

    clock: Clock
    scope: Literal["epoch", "validation", "steps"]
    values: Mapping[str, float]
    stop: Callable[[str], None]
    seconds: float
    samples: Mapping[str, Shown] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Found:
    """A guard, or a check of the trained step, suspects a problem.

    Attributes:
        clock: The progress when it was reported; the finding names the step that it is about.
        finding: A `pg.Finding`.
        seconds: Time of the event, in seconds since `fit` was called.
    """

    clock: Clock
    finding: Any
    seconds: float


@dataclass(frozen=True, slots=True)
class Ended:
    """Training has ended, in whatever way.

    Attributes:
        clock: The progress at the end.
        reason: Why: `"epochs"`, `"steps"`, `"data"`, `"non-finite"`, the reason given by a hook, or
            `"error: ..."`.
        seconds: Time of the event, in seconds since `fit` was called.
        spent: Seconds spent waiting for `"data"`, running steps and waiting for their values
            (`"device"`), in `"validation"`, `"saving"`, and `"compiling"` (rehearsing a step,
            measuring a plan, and calls that compile, including the steps that they run); `"host"`
            is the rest. They sum to `seconds`.
    """

    clock: Clock
    reason: str
    seconds: float
    spent: Mapping[str, float] = field(default_factory=dict)


class Hook:
    """Code that runs during training: override any of the five methods.

    Hooks are called in the order in which they are given, writers after them. An exception ends the
    training and is raised unchanged.

    Attributes:
        every: When `on_steps` is called: at exactly these steps, whatever the size of the blocks in
            which they run (a cadence of epochs never calls it). `None` calls it whenever some steps
            are done, which may be many at once.
        watches: What to compute from the updates within the steps: `"norms"` logs the norms of
            gradients and of updates, `"histograms"` shows the values of both and of the weights, as
            used by `perigee.tools.Norms` and `perigee.tools.Histograms`.
        may_lag: Whether `on_record` and `on_steps` may be called for the middle of a block after
            all of it has run, so that blocks need not end at each record: for hooks that only write
            or show values. `StepsDone.read` may then be some steps ahead of its clock. Blocks of a
            step that updates metrics end at each record anyway.
    """

    every: Every | None = None
    watches: frozenset[str] = frozenset()
    may_lag: bool = False

    def on_start(self, event: Started) -> None:
        """Training is about to begin."""

    def on_steps(self, event: StepsDone) -> None:
        """Some steps are finished; `every` says when this is called."""

    def on_record(self, event: Recorded) -> None:
        """Exact values of an epoch, a validation or a window of steps are known."""

    def on_finding(self, event: Found) -> None:
        """A suspected problem is reported for the first time."""

    def on_end(self, event: Ended) -> None:
        """Training has ended; also called when it ends with an error."""

    def state(self) -> Mapping[str, Any]:
        """Return what must survive a restart: numbers, strings, lists and dicts of them."""
        return {}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Restore what `state` returned, before `on_start`.

        Args:
            state: The state at the checkpoint from which the run resumes.
        """


def _alone(hook: Hook, event: StepsDone) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass(slots=True)
class Hooks:
    """Several hooks as one: each event is sent to each of them in order.

    Attributes:
        hooks: The hooks.
        during: Entered around each call of `on_steps`.
    """

    hooks: list[Hook] = field(default_factory=list)
    during: Callable[[Hook, StepsDone], AbstractContextManager[None]] = _alone

    def start(self, event: Started) -> None:
        for hook in self.hooks:
            hook.on_start(event)

    def steps(self, event: StepsDone) -> bool:
        """Notify each hook that is due; return whether one of them is not Perigee's own."""
        is_others = False
        for hook in self.hooks:
            if hook.every is None or hook.every.is_due(event.clock):
                with self.during(hook, event):
                    hook.on_steps(event)
                is_others = is_others or not type(hook).on_steps.__module__.startswith("perigee.")
        return is_others

    @property
    def may_lag(self) -> bool:
        """Whether none of them must receive a record before the next step runs."""
        return not any(map(_keeps_up, self.hooks))

    def steps_until_due(self, clock: Clock) -> int | None:
        """Return how many steps remain until `on_steps` of one of them is due; `None` if never."""
        ends = [hook.every.steps_until_due(clock) for hook in self.hooks if hook.every]
        return min((end for end in ends if end is not None), default=None)

    def state(self) -> list[Any]:
        """Return the state of each hook, with the name of its class."""
        return [[type(hook).__qualname__, dict(hook.state())] for hook in self.hooks]

    def load_state(self, states: Sequence[Any]) -> None:
        """Restore the state of each hook, matched by class and by order within the class.

        A hook that has no saved state starts from scratch.
        """
        saved: dict[str, list[Any]] = {}
        for name, state in states:
            saved.setdefault(name, []).append(state)
        for hook in self.hooks:
            own = saved.get(type(hook).__qualname__)
            if own:
                with loading(f"{type(hook).__qualname__}.load_state"):
                    hook.load_state(own.pop(0))

    def record(self, event: Recorded) -> None:
        for hook in self.hooks:
            hook.on_record(event)

    def finding(self, event: Found) -> None:
        for hook in self.hooks:
            hook.on_finding(event)

    def end(self, event: Ended) -> None:
        """Notify each hook that training has ended, even if one raises; raise the first error."""
        raised: Exception | None = None
        for hook in self.hooks:
            try:
                hook.on_end(event)
            except Exception as error:  # each hook must be notified of the end
                raised = raised or error
        if raised is not None:
            raise raised


def _keeps_up(hook: Hook) -> bool:
    if hook.may_lag:
        return False
    is_told_of_blocks = hook.every is None and type(hook).on_steps is not Hook.on_steps
    return is_told_of_blocks or type(hook).on_record is not Hook.on_record
