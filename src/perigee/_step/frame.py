"""What a running step knows about its surroundings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
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
    """Somebody who learns what a step does while it is rehearsed."""

    def differentiated(self, read: Sequence[Any]) -> None:
        """Gradients were taken; `read` are raw variables of the framework that were read."""
        ...

    def derived(self, gradients: Gradients, adds_losses: bool) -> None:
        """`gradients` were taken outside any other objective, with losses added or not."""
        ...

    def applied(self, optimizer: Any, gradients: Gradients, is_conditional: bool) -> None:
        """An optimizer is asked to apply `gradients`, under a condition or not."""
        ...

    def measured(self, terms: Sequence[Term]) -> None:
        """A loss of `terms` was measured."""
        ...

    def names(self, metric: keras.Metric, name: str) -> None:
        """A metric that the step updates is to be logged as `name`, not under its own name."""
        ...


class Watch(Protocol):
    """Somebody who looks at the updates of a step while it runs."""

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
        """Take note of an update that was made, if `when` is not false.

        `after` are the new values, where the variables do not have them yet.
        """
        ...


@dataclass(slots=True)
class Frame:
    """The call of a step under way.

    Attributes:
        step: The Step whose method runs.
        method: Which method.
        examples: Number of examples of the batch, shape `()`, or `None` where it is not known.
        recorder: Who listens, during a rehearsal.
        is_accumulating: Whether `apply` collects gradients for a later update.
        depth: How many objectives are being differentiated around the code that runs.
        adds_losses: Whether the innermost of them has losses added by itself.
        finite: Whether the gradients of each update so far were finite, under a loss scale.
        all_examples: Number of examples of the batch of which this replica has a share, shape
            `()`; `None` where it has the whole batch.
        all_rows: Likewise, of rows.
        is_probed: Whether the step runs for what it returns, and updates nothing.
        is_applying: Whether an optimizer is being applied by `Step.apply`.
        keep: Leaves a sample under its name for the host; `None` during a rehearsal.
        watch: Is shown each update; `None` where nobody looks.
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

    @property
    def share(self) -> Any:
        """Which part of the examples of the batch this replica has, shape `()`, float32."""
        return ops.cast(self.examples, "float32") / ops.maximum(self.all_examples, 1.0)

    keep: Callable[[str, Sample], None] | None = None
    watch: Watch | None = None


under_way: ContextVar[Frame | None] = ContextVar("perigee_frame", default=None)
"""The call of a step under way, or `None` outside any."""


def current_frame() -> Frame | None:
    """Return the call of a step under way, or `None` outside any."""
    return under_way.get()


def ignored_codes() -> Collection[str]:
    """Return the codes of what is meant in the Step whose method runs; none outside any."""
    frame = current_frame()
    return () if frame is None else getattr(frame.step, "ignore_findings", ())
