"""`alternate`: a step made of phases that alternate at different rates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from typing import Any

import keras
from keras import ops

from perigee import _backends
from perigee._errors import (
    AccumulationError,
    ArgumentError,
    MissingMethodError,
    StepReturnError,
    door,
)
from perigee._step.averages import Average, Term, as_average
from perigee._step.frame import Frame, Recorder, current_frame
from perigee._step.samples import Sample
from perigee._step.state import Holder
from perigee._step.step import Step, check_signature
from perigee._typing import Batch, Tensor

_plain = _backends.current().plain


@door
def alternate(**phases: int) -> Alternation:
    """Return a `train_step` that calls several methods of the Step in turn.

    Each call takes one batch and runs one phase: the first one for its number of steps, then the
    next. The position in the cycle is state of the Step, so it is the same in compiled code, in
    blocks of any size and after a resume, and nothing is recompiled for it.

    >>> class WassersteinGAN(pg.Step):
    ...     train_step = pg.alternate(critic_step=5, generator_step=1)
    ...
    ...     def critic_step(self, batch):
    ...         return {"critic_loss": self.minimize(..., self.critic_optimizer, self.critic)}
    ...
    ...     def generator_step(self, batch):
    ...         return {"generator_loss": self.minimize(...)}

    What a phase returns is logged under its names, as the mean over the steps in which that phase
    ran. A name that several phases use is logged once for each of them, as `{phase}/{name}`.

    Args:
        **phases: Names of methods of the Step, each taking a batch and returning what to log, as
            `train_step` does; with the number of its steps in a cycle, at least 1.

    Returns:
        The value of `train_step` in the body of the class.

    Raises:
        ArgumentError: If there are fewer than two phases, or a count is not a positive integer.
    """
    if len(phases) < 2:
        raise ArgumentError(
            "phases",
            repr(phases),
            "at least two methods, each with its number of steps in a cycle.",
            "write `alternate(critic_step=5, generator_step=1)`.",
        )
    for name, count in phases.items():
        if not _is_count(count):
            raise ArgumentError(
                name,
                repr(count),
                "a positive integer, the steps per cycle.",
                "remove the phase, or give it a step.",
            )
    return Alternation(phases)


class Alternation:
    """A method of a Step that calls several others in turn. Made by `alternate`."""

    def __init__(self, phases: Mapping[str, int]) -> None:
        self.phases: dict[str, int] = dict(phases)
        self._name = "train_step"

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, step: Any, owner: type | None = None) -> Any:
        if step is None:
            return self
        turns = vars(step).get(self._name)
        if turns is None:
            turns = vars(step)[self._name] = _Turns()
        return _plain(lambda batch: self._run(step, turns, batch))

    def __set__(self, step: Any, value: Any) -> None:
        # With it the class attribute takes precedence over the instance's, which only makes the
        # state visible.
        raise AttributeError(f"`{self._name}` alternates; it can be set only in the class.")

    def _run(self, step: Step, turns: _Turns, batch: Batch) -> dict[str, Any]:
        methods = {name: _method(step, name) for name in self.phases}
        place = ops.convert_to_tensor(turns.place)
        frame = current_frame()
        if frame is None:  # called directly: only what runs is known
            index = sum(int(place) >= bound for bound in self._bounds)
            returned = _checked(list(methods)[index], list(methods.values())[index](batch))
        elif frame.recorder is not None:
            returned = self._rehearsed(turns, methods, batch, frame.recorder)
        else:
            returned = self._one_of(turns, methods, batch, frame)
        turns.place.assign((place + 1) % sum(self.phases.values()))
        return returned

    @property
    def _bounds(self) -> list[int]:
        """Positions in the cycle at which another phase begins."""
        return list(accumulate(self.phases.values()))[:-1]

    def _rehearsed(
        self, turns: _Turns, methods: Mapping[str, _Method], batch: Batch, recorder: Recorder
    ) -> dict[str, Any]:
        """Run every phase, so that all are known."""
        logs: dict[str, dict[str, Any]] = {}
        updated: dict[str, dict[int, set[str] | None]] = {}
        for phase, method in methods.items():
            with recorder.metrics_of_phase() as updated[phase]:
                logs[phase] = _checked(phase, method(batch))
        names = [name for phase in logs.values() for name in phase]
        merged: dict[str, Any] = {}
        turns.terms, turns.samples = {}, {}
        for phase, returned in logs.items():
            logged: dict[str, str] = {}
            for name, value in returned.items():
                key = name if names.count(name) == 1 else f"{phase}/{name}"
                if isinstance(value, Sample):
                    turns.samples[f"{phase}/{name}"] = key
                    merged[key] = value
                    continue
                if isinstance(value, Average) or len(getattr(value, "shape", ())) <= 1:
                    turns.terms[f"{phase}/{name}"] = [key, len(as_average(value, None).terms)]
                merged[key] = value  # with a wrong shape, the rehearsal refuses it
                logged[name] = key
            recorder.alternated(updated[phase], logged)
        return merged

    def _one_of(
        self, turns: _Turns, methods: Mapping[str, _Method], batch: Batch, frame: Frame
    ) -> dict[str, Any]:
        """Run the current phase; the values of the others have count 0."""
        if frame.is_accumulating:
            raise AccumulationError(
                "its phases alternate with each micro-batch",
                "give each phase larger batches, or omit `accumulate`.",
            )
        terms = turns.terms

        def branch(phase: str) -> Callable[[], Sequence[Tensor]]:
            def run() -> Sequence[Tensor]:
                with frame.updates_apart() as finite:
                    returned = _checked(phase, methods[phase](batch))
                pairs = {
                    f"{phase}/{name}": as_average(value, frame.examples).pairs(_examples(frame))
                    for name, value in returned.items()
                    if not isinstance(value, Sample)
                }
                for name, value in returned.items():
                    if isinstance(value, Sample) and frame.keep is not None:
                        frame.keep(turns.samples[f"{phase}/{name}"], value)
                nothing = ops.zeros((2,), "float32")
                cells = [
                    ops.stack([ops.cast(part, "float32") for part in pairs[key][index]])
                    if key in pairs
                    else nothing
                    for key, (_, count) in terms.items()
                    for index in range(count)
                ]
                is_finite = ops.convert_to_tensor(True)
                for flag in finite:
                    is_finite = ops.logical_and(is_finite, flag)
                return [ops.stack(cells) if cells else ops.zeros((0, 2)), is_finite]

            return run

        place = ops.convert_to_tensor(turns.place)
        index = ops.cast(place >= self._bounds[0], "int32")
        for bound in self._bounds[1:]:
            index = index + ops.cast(place >= bound, "int32")
        rows, is_finite = _backends.current().switch(index, [branch(name) for name in methods])
        frame.finite.append(is_finite)
        values: dict[str, Any] = {}
        row = 0
        for name, count in terms.values():
            cells = [Term(rows[i, 0], rows[i, 1], True) for i in range(row, row + count)]
            values[name] = _Divided(cells)
            row += count
        return values


_Method = Callable[[Batch], Any]


class _Turns(Holder):
    """The position in a cycle, and what its phases log.

    Attributes:
        place: Finished steps of the cycle.
        terms: For each value as `{phase}/{name}`: the name for logging, and its number of terms.
        samples: For each sample, in the same way, the name for logging.
    """

    def __init__(self) -> None:
        self.place: Any = keras.Variable(
            initializer="zeros", shape=(), dtype="int32", trainable=False, name="place"
        )
        self.terms: dict[str, list[Any]] = {}
        self.samples: dict[str, str] = {}


class _Divided(Average):
    """An average whose terms hold means, already divided, with their counts."""

    __slots__ = ()

    def pairs(self, examples: Tensor) -> list[tuple[Tensor, Tensor]]:
        return [(term.total, term.count) for term in self.terms if term.count is not None]

    # A sum or a product would be an `Average` of undivided totals.
    __add__ = __radd__ = __sub__ = __rsub__ = Average._refuse
    __mul__ = __rmul__ = __truediv__ = __neg__ = Average._refuse


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _examples(frame: Frame) -> Any:
    return 1 if frame.examples is None else frame.examples


def _method(step: Step, name: str) -> _Method:
    method = getattr(step, name, None)
    if not callable(method):
        raise MissingMethodError(type(step).__name__, name)
    check_signature(step, name)
    return _backends.current().user_code(method)


def _checked(phase: str, returned: Any) -> dict[str, Any]:
    if not isinstance(returned, Mapping):
        given = "nothing" if returned is None else f"a {type(returned).__name__}"
        raise StepReturnError(phase, given, '{"loss": loss}')
    return dict(returned)
