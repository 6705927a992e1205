"""The context of a running step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import keras
from keras import ops

from perigee._step.averages import Term
from perigee._step.gradients import Gradients
from perigee._step.samples import Sample
from perigee._step.state import Holder

Method = Literal["train_step", "test_step", "predict_step"]


class Recorder(Protocol):
    """Receives what a step does while it is rehearsed."""

    def differentiated(self, read: Sequence[Any]) -> None:
        """Gradients were taken; `read` are raw variables of the framework that were read."""
        ...

    def derived(self, gradients: Gradients, adds_losses: bool) -> None:
        """`gradients` were taken outside any other objective, with losses added or not."""
        ...

    def applied(self, optimizer: Any, gradients: Gradients, is_conditional: bool) -> None:
        """An optimizer is to apply `gradients`, under a condition or not."""
        ...

    def leaves_out(
        self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> bool:
        """Tell whether an update is not made; what it would write then counts as written."""
        ...

    def measured(self, terms: Sequence[Term], adds: bool) -> None:
        """A loss of `terms` was measured, to which layers add others or not."""
        ...

    def metric_of(self, returned: Any) -> str | None:
        """Return the path of the metric whose result an objective returned as its loss, if any."""
        ...

    def names(self, metric: keras.Metric, name: str) -> None:
        """A metric that the step updates is to be logged as `name`, not under its own name."""
        ...

    def metrics_of_phase(self) -> AbstractContextManager[dict[int, set[str] | None]]:
        """Return a context for a phase that only some steps run: it collects what that updates."""
        ...

    def alternated(self, updated: dict[int, set[str] | None], names: Mapping[str, str]) -> None:
        """Receive what a phase updated, and by returned name the name under which it is logged."""
        ...


class Watch(Protocol):
    """Receives the updates of a step while it runs."""

    def values(self, variables: Sequence[Any]) -> Sequence[Any]:
        """Return the values of variables, before they are updated."""
        ...

    def updated(
        self,
        optimizer: Any,
        gradients: Sequence[Any],
        variables: Sequence[Any],
        before: Sequence[Any],
        when: Any = None,
        after: Sequence[Any] | None = None,
    ) -> None:
        """Receive an update that was made, if `when` is not false.

        `after` are the new values, if the variables do not hold them yet.
        """
        ...


@dataclass(slots=True)
class Frame:
    """A call of a step that is running.

    Attributes:
        step: The Step whose method runs.
        method: The name of the method.
        examples: Number of examples of the batch, shape `()`, or `None` if unknown.
        recorder: The recorder, during a rehearsal.
        is_accumulating: Whether `apply` collects gradients for a later update.
        depth: The number of nested objectives around the running code.
        adds_losses: Whether losses are added to the innermost of them automatically.
        finite: For each update so far, whether its gradients were finite, under a loss scale.
        all_examples: Number of examples of the whole batch, shape `()`; `None` unless this replica
            has only a share of it.
        all_rows: The same for rows.
        is_probed: Whether the step runs only for its result, and updates nothing.
        is_applying: Whether an optimizer is being applied by `Step.apply`.
        keep: Stores a sample under its name for the host; `None` during a rehearsal.
        watch: Receives each update; `None` if not needed.
    """

    step: Holder
    method: Method
    examples: Any
    recorder: Recorder | None = None
    is_accumulating: bool = False
    depth: int = 0
    adds_losses: bool = False
    finite: list[Any] = field(default_factory=list)
    all_examples: Any = None
    all_rows: Any = None
    is_probed: bool = False
    is_applying: bool = False
    keep: Callable[[str, Sample], None] | None = None
    watch: Watch | None = None

    @property
    def share(self) -> Any:
        """The share of the batch's examples on this replica, shape `()`, float32."""
        return ops.cast(self.examples, "float32") / ops.maximum(self.all_examples, 1.0)

    @contextmanager
    def updates_apart(self) -> Generator[list[Any]]:
        """Collect in a list of its own whether the updates within are finite."""
        outer, self.finite = self.finite, []
        try:
            yield self.finite
        finally:
            self.finite = outer


under_way: ContextVar[Frame | None] = ContextVar("perigee_frame", default=None)
"""The running call of a step, or `None` outside any."""


_is_rehearsal: ContextVar[bool] = ContextVar("perigee_is_rehearsal", default=False)


@contextmanager
def rehearsal() -> Generator[None]:
    """Let steps see that they run only to be observed: all that they do within is undone."""
    token = _is_rehearsal.set(True)
    try:
        yield
    finally:
        _is_rehearsal.reset(token)


def is_rehearsal() -> bool:
    """Return whether steps run only to be observed."""
    return _is_rehearsal.get()


def current_frame() -> Frame | None:
    """Return the running call of a step, or `None` outside any."""
    return under_way.get()


def ignored_codes() -> Collection[str]:
    """Return the codes that the running Step ignores; none outside any."""
    frame = current_frame()
    return () if frame is None else getattr(frame.step, "ignore_findings", ())
