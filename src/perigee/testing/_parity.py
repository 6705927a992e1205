"""Compares two ways of training: whether they agree, and where and why they differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np

from perigee import _backends
from perigee._errors import ArgumentError, door
from perigee._step.state import preserved, track
from perigee._step.step import Step
from perigee._typing import Batch
from perigee.checkpoints import random_state, set_random_state
from perigee.data import open_feed
from perigee.testing._causes import Cause, cause_of
from perigee.testing._ways import FunctionWay, ModelWay, Pair, StepWay, Way

_TOLERANCE = 1e-4


@dataclass(frozen=True, slots=True)
class Parting:
    """The first difference of two trainings.

    Attributes:
        step: The step, from 0.
        name: The variable, by its path in the Step; or the name of the logged value.
        element: The index of the element with the largest difference.
        values: Its value in the Step, and in the other way.
        cause: The likely cause.
        evidence: What was tried, and its result.
    """

    step: int
    name: str
    element: tuple[int, ...]
    values: tuple[float, float]
    cause: Cause
    evidence: str


@dataclass(frozen=True, slots=True)
class ParityReport:
    """The result of a comparison; true if the two are equal.

    Attributes:
        result: `"equal"` bit for bit, `"within tolerance"`, or `"parted"`.
        steps: The number of compared steps.
        variables: Names of the compared variables.
        left_out: Names of variables that only one of the two has.
        furthest: The largest difference in a step's update of a variable, relative to the update.
        parting: The first difference, or `None`.
    """

    result: Literal["equal", "within tolerance", "parted"]
    steps: int
    variables: tuple[str, ...]
    left_out: tuple[str, ...]
    furthest: float
    parting: Parting | None

    def __bool__(self) -> bool:
        return self.parting is None

    def __str__(self) -> str:
        compared = f"{self.steps} steps, {len(self.variables)} variables"
        if self.parting is None:
            if self.result == "equal":
                return f"Equal, bit for bit: {compared}."
            return f"Equal within tolerance ({self.furthest:.1e} of an update): {compared}."
        found = self.parting
        place = f"[{', '.join(map(str, found.element))}]" if found.element else ""
        return "\n".join(
            [
                f"They differ at step {found.step}: {found.name}{place}",
                f"  here    {found.values[0]:.9g}",
                f"  against {found.values[1]:.9g}",
                f"Likely cause: {found.cause}.",
                f"  {found.evidence}",
            ]
        )


@door
def parity(
    step: Step,
    against: Any,
    data: Any,
    steps: int = 20,
    *,
    batch_size: int | None = None,
    holds: Any = None,
    tolerance: float = _TOLERANCE,
) -> ParityReport:
    """Compare two ways of training from the same state, on the same batches, step by step.

    Each step begins with both in the same state, so a difference belongs to the step in which it
    occurs, and rounding errors do not accumulate. If the two differ, the step is repeated under
    changed conditions to find out why.

    >>> report = parity(step, compiled_model, (x, y), batch_size=32)
    >>> assert report, report

    Args:
        step: The Step.
        against: Another Step; a compiled `keras.Model`, trained as `fit` does; or a function of a
            batch (as tensors) that does one training step and may return a dict of scalars to
            compare as well.
        data: Data as for `fit`; arrays are drawn in order, over as many passes as needed.
        steps: The number of steps.
        batch_size: Rows per batch, 32 by default; for arrays only.
        holds: For a function: the objects that it uses (models, optimizers, metrics, variables;
            one, or a tree of them), built, in the same order as in the Step. `None` if they are the
            Step's own.
        tolerance: The largest allowed difference in the updates of a variable, relative to the
            update.

    Returns:
        A report that is true if the two are equal. Variables, seeds, random generators and settings
        are restored.

    Raises:
        ArgumentError: If `against` is none of these, or the two have different variables.
    """
    _check(step, steps)
    before = random_state()
    batches = _drawn(data, steps, batch_size)
    ways = first, second = StepWay(step), _way(step, against, holds)
    try:
        with first.left_as_it_was(), second.left_as_it_was():
            for way in ways:
                set_random_state(before)
                way.prepare(batches[0])
            with preserved([v for w in ways for v in track(w.holder).state], host=False):
                set_random_state(before)
                return _compare(Pair(first, second, before), batches, tolerance)
    finally:
        set_random_state(before)


def _check(step: Any, steps: Any) -> None:
    if not isinstance(step, Step):
        raise ArgumentError("step", type(step).__name__, "a `pg.Step`.", "pass the Step first.")
    if not isinstance(steps, int) or steps < 1:
        raise ArgumentError("steps", repr(steps), "a positive integer.", "omit it.")


def _way(step: Step, against: Any, holds: Any) -> Way:
    if holds is not None and (isinstance(against, Step | keras.Model) or not callable(against)):
        raise ArgumentError("holds", "<things>", "it only with a function.", "omit it.")
    if isinstance(against, Step):
        return StepWay(against)
    if isinstance(against, keras.Model):
        model: Any = against
        if not model.compiled:
            raise ArgumentError(
                "against", f"<{model.name}>", "a compiled model.", "call `compile` first."
            )
        return ModelWay(model)
    if callable(against):
        return FunctionWay(against, step, holds)
    raise ArgumentError(
        "against",
        type(against).__name__,
        "a Step, a compiled `keras.Model`, or a function of a batch.",
        "pass a Step, a compiled model or a function.",
    )


def _drawn(data: Any, steps: int, batch_size: int | None) -> list[Batch]:
    feed = open_feed(data, batch_size=batch_size)
    batches: list[Batch] = []
    try:
        feed.peek()  # raises if there is none
        while len(batches) < steps:
            batch = feed.draw()
            if batch is not None:
                host = _backends.current().to_host(batch)
                batches.append(keras.tree.map_structure(_copied, host))
    finally:
        feed.close()
    return batches


def _copied(leaf: Any) -> Any:
    return leaf.copy() if isinstance(leaf, np.ndarray) else leaf


def _compare(pair: Pair, batches: Sequence[Batch], tolerance: float) -> ParityReport:
    furthest, is_exact = 0.0, True
    parting = None
    done = 0
    for index, batch in enumerate(batches):
        ours, theirs = pair.run(batch)
        done += 1
        apart = pair.apart(ours, theirs)
        found = [each for each in apart if not each.relative <= tolerance]
        furthest = max([furthest, *(each.relative for each in apart)])
        is_exact = is_exact and pair.are_identical(ours, theirs)
        if found:
            # Compiled code rounds in another order. If the gradient of a variable is only rounding
            # errors, the difference is as large as the update: it vanishes op by op.
            eager = pair.run(batch, observed=True)
            if pair.differences(*eager, tolerance):
                first = found[0]
                cause, evidence = cause_of(pair, batches, index, tolerance)
                parting = Parting(index, first.name, first.element, first.values, cause, evidence)
                break
        pair.advance(ours, theirs)
    result = "parted" if parting else "equal" if is_exact else "within tolerance"
    return ParityReport(result, done, pair.names, pair.left_out, furthest, parting)
