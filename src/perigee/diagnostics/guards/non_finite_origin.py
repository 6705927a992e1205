"""PG701, NonFiniteOrigin: where a value that is not finite began.

When a logged value or a variable becomes NaN or infinite, the steps since the last good state are
run again, and the step that produced it is examined layer by layer: its data, its initial weights,
the output of each layer, the gradients, the loss. This needs data that can be replayed from a
position (arrays, a PyDataset; a `tf.data.Dataset` only from its start) and no accumulation;
otherwise PG408 names only the step, or for a variable the steps between two looks at the state.
`nonfinite="skip"` skips such steps without searching for a cause.

How sure: an error, shown by the steps, run again: the place is where the first such value is.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from perigee import _backends
from perigee._events.clock import Clock
from perigee._events.protocols import Feed
from perigee._execution import Program
from perigee._execution.timing import now
from perigee._listening import Talk, listening
from perigee._step.frame import current_frame
from perigee._step.state import Tracked, preserved, restore, snapshot, track
from perigee._step.step import Step
from perigee._typing import Batch
from perigee.diagnostics._finding import Finding
from perigee.diagnostics._recording import look, record

_COST_SHARE = 0.005
"""Share of the time that keeping good states may take."""

_MOST_BYTES = 2**28
"""The most bytes of a state that is kept: a large one would take half as much memory again."""
_MOST_STEPS = 5000
_MOST_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Good:
    """A state in which all was finite; `position` is `None` at the start of the data."""

    clock: Clock
    variables: Sequence[Any]
    values: Sequence[np.ndarray]
    position: Mapping[str, Any] | None


@dataclass(slots=True)
class _Output:
    """Inputs and outputs of a layer."""

    layer: keras.Layer
    inputs: Sequence[np.ndarray] = ()
    outputs: Sequence[np.ndarray] = ()


class Origins:
    """Keeps the last good state on the host, and finds from it where a NaN began.

    Args:
        step: The Step.
        reopen: Opens the data again, as it was when training began.
    """

    def __init__(self, step: Step, reopen: Callable[[], Feed]) -> None:
        self._step, self._reopen = step, reopen
        self._good: _Good | None = None
        self._due = 0.0
        self._excluded: frozenset[int] | None = None  # what was not finite when training began

    def keep(self, feed: Feed, clock: Clock) -> None:
        """Keep the state before the next step, if that is cheap.

        It waits for the device, but so rarely that this takes half a percent of the time.
        """
        began = now()
        if began < self._due:
            return
        is_at_start = feed.position.passes == feed.position.batches == 0
        if feed.resumes == "exactly" and (is_at_start or not feed.is_stream):
            variables = track(self._step).state
            if sum(_size_bytes(v) for v in variables) <= _MOST_BYTES:
                values = snapshot(variables)
                if self._is_good(variables, values):
                    position = None if is_at_start else feed.state()
                    self._good = _Good(clock, variables, values, position)
        done = now()
        self._due = done + (done - began) / _COST_SHARE

    def _is_good(self, variables: Sequence[Any], values: Sequence[np.ndarray]) -> bool:
        """Tell whether all is finite that was so when training began."""
        bad = {id(v) for v, a in zip(variables, values, strict=True) if not _is_finite(a)}
        if self._excluded is None:
            self._excluded = frozenset(bad)
        return bad <= self._excluded

    def find(self, program: Program, name: str, value: float, number: int) -> Finding | None:
        """Replay the steps that led to a value that is not finite, and restore everything.

        Args:
            program: Runs the step.
            name: The name of the logged value.
            value: NaN or an infinity.
            number: The step that logged it.

        Returns:
            Where it began, or `None` if that cannot be found.
        """
        good = self._good
        if good is None or program.accumulates or number - good.clock.step > _MOST_STEPS:
            return None
        tracked = track(self._step)
        with preserved(tracked.state):
            restore(good.variables, good.values)
            with self._opened(good) as feed:
                before = self._run(program, feed, number - 2 - good.clock.step)
                last = _drawn(feed) if before else None
                if last is None:
                    return None
                values = snapshot(tracked.state)
                if number - 1 > good.clock.step:
                    program.run(_backends.current().copied(last))
                    bad = self._bad_variables(tracked)
                    if bad:
                        restore(tracked.state, values)
                        where = self._of_an_update(last, tracked, bad, number - 1)
                        return _finding(name, value, number, where)
                    last = _drawn(feed)
                    if last is None:
                        return None
                where = self._of_a_step(last, tracked, name)
                return _finding(name, value, number, where)

    def of_state(self, program: Program, name: str, value: float, within: range) -> Finding | None:
        """Replay the steps one of which made a variable not finite, and restore everything.

        Args:
            program: Runs the step.
            name: The name of the variable.
            value: NaN or an infinity.
            within: The steps, one of which did.

        Returns:
            Where it began, or `None` if that cannot be found.
        """
        good = self._good
        if good is None or program.accumulates or within[-1] - good.clock.step > _MOST_STEPS:
            return None
        tracked = track(self._step)
        with preserved(tracked.state):
            restore(good.variables, good.values)
            with self._opened(good) as feed:
                number = self._first_bad(program, feed, good.clock.step, within[-1])
            if number is None:
                return None
            restore(good.variables, good.values)
            with self._opened(good) as feed:
                before = self._run(program, feed, number - 1 - good.clock.step)
                batch = _drawn(feed) if before else None
                if batch is None:
                    return None
                values = snapshot(tracked.state)
                program.run(_backends.current().copied(batch))
                bad = self._bad_variables(tracked) or [name]
                restore(tracked.state, values)
                found = _of_data(batch) or self._of_an_update(batch, tracked, bad, number)
        return _finding(name, value, number, found, verb="became")

    def _first_bad(self, program: Program, feed: Feed, start: int, last: int) -> int | None:
        """Run steps again, until one makes the state not finite; return its number."""
        end = now() + _MOST_SECONDS
        for number in range(start + 1, last + 1):
            batch = _drawn(feed)
            if batch is None or now() > end:
                return None
            program.run(batch)
            if program.written.no_longer_finite():
                return number
        return None

    @contextmanager
    def _opened(self, good: _Good) -> Generator[Feed]:
        feed = self._reopen()
        try:
            if good.position is not None:
                feed.load_state(good.position)
            yield feed
        finally:
            feed.close()

    def _run(self, program: Program, feed: Feed, count: int) -> bool:
        """Run `count` steps again; false if that takes too long or the data ends."""
        end = now() + _MOST_SECONDS
        for _ in range(count):
            batch = _drawn(feed)
            if batch is None or now() > end:
                return False
            program.run(batch)
        return True

    def _bad_variables(self, tracked: Tracked) -> list[str]:
        entries = [
            e
            for e in tracked.entries
            if e.kind in ("trainable", "non_trainable")
            and id(e.variable) not in (self._excluded or ())
        ]
        values = snapshot([e.variable for e in entries])
        return [e.name for e, v in zip(entries, values, strict=True) if not _is_finite(v)]

    def _of_a_step(self, batch: Batch, tracked: Tracked, name: str) -> tuple[str, str]:
        """Examine a step that produced a NaN from finite weights."""
        found = _of_data(batch)
        if found is not None:
            return found
        outputs, _ = self._looked_at(batch, tracked)
        for output in outputs:
            if not all(map(_is_finite, output.outputs)):
                kind = type(output.layer).__name__
                return (
                    f"in the output of layer {output.layer.path!r} ({kind}), whose inputs were "
                    f"{_range(output.inputs)}",
                    "check the layer for an exponential, a logarithm of 0 or a division by 0; "
                    "lower the learning rate, or clip the gradients.",
                )
        last = outputs[-1:]
        behind = [f": {o.layer.path!r} returned {_range(o.outputs)}" for o in last]
        return (
            f"after the last layer, in the computation of {name!r}{''.join(behind)}",
            "check for a logarithm of 0, a division by 0 or a root of 0 there; a loss with "
            "`from_logits=True` takes logits and needs no logarithm of a probability.",
        )

    def _of_an_update(
        self, batch: Batch, tracked: Tracked, bad: Sequence[str], number: int
    ) -> tuple[str, str]:
        """Examine a step whose loss was finite but whose update was not."""
        _, gradients = self._looked_at(batch, tracked)
        names = [n for n, g in gradients if not _is_finite(g)]
        if not names:
            return (
                f"in the update of step {number}, whose gradients were finite: {_listed(bad)} "
                "overflowed",
                "lower the learning rate, or clip the gradients.",
            )
        return (
            f"in the gradients of step {number}, whose loss was finite: those of {_listed(names)}",
            "check for operations without a derivative at their value: a root or a norm of 0, "
            "`where` around a division by 0; add a small number under the root.",
        )

    def _looked_at(
        self, batch: Batch, tracked: Tracked
    ) -> tuple[list[_Output], list[tuple[str, np.ndarray]]]:
        outputs: list[_Output] = []

        def listen(original: Any, layer: Any, *args: Any, **kwargs: Any) -> Talk:
            returned = yield
            frame = current_frame()
            if frame is not None and frame.recorder is not None:
                output = _Output(layer)
                outputs.append(output)
                _look(args, partial(_set, output, "inputs"))
                _look(returned, partial(_set, output, "outputs"))

        with listening(keras.Layer, "__call__", listen):
            tensors = _backends.current().tensors(batch)
            recording = record(self._step, "train_step", tensors, tracked, ())
        gradients = [
            (tracked.name_of(variable), gradient)
            for update in recording.updates
            for variable, gradient in zip(update.variables, update.gradients, strict=False)
        ]
        return [o for o in outputs if o.outputs and not _is_of_perigee(o.layer)], gradients


def _is_of_perigee(layer: keras.Layer) -> bool:
    return type(layer).__module__.partition(".")[0] == "perigee"


def _drawn(feed: Feed) -> Batch | None:
    """Return the next batch, from the next pass if one has ended.

    It is a copy: a step may change it in place, and the feed, or the user, may hold it.
    """
    batch = feed.draw()
    batch = feed.draw() if batch is None else batch
    return None if batch is None else _backends.current().copied(batch)


def _look(tree: Any, at: Callable[[Sequence[np.ndarray]], None]) -> None:
    flat = [leaf for leaf in keras.tree.flatten(tree) if _backends.current().is_tensor(leaf)]
    look(flat, lambda *arrays: at(arrays))


def _set(output: _Output, name: str, arrays: Sequence[np.ndarray]) -> None:
    setattr(output, name, arrays)


def _of_data(batch: Batch) -> tuple[str, str] | None:
    host = _backends.current().to_host(_backends.current().tensors(batch))
    for index, leaf in enumerate(keras.tree.flatten(host)):
        array = np.asarray(leaf)
        if not _is_finite(array):
            place = ", ".join(str(int(i)) for i in np.argwhere(~np.isfinite(array))[0])
            return (
                f"in the data: batch[{index}] holds {array[~np.isfinite(array)][0]} at [{place}]",
                "fill or drop the missing values before training.",
            )
    return None


def _is_finite(array: np.ndarray) -> bool:
    if array.dtype.kind in "biuSUO":
        return True
    return bool(np.isfinite(array.astype("float32") if array.dtype.kind == "V" else array).all())


def _size_bytes(variable: Any) -> int:
    return 8 * int(np.prod(variable.shape, dtype=np.int64))


def _range(arrays: Sequence[np.ndarray]) -> str:
    numbers = [array for array in arrays if array.size and array.dtype.kind in "fiu"]
    if not numbers:
        return "no numbers"
    return f"{min(float(a.min()) for a in numbers):.4g}..{max(float(a.max()) for a in numbers):.4g}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more


def _finding(
    name: str, value: float, number: int, origin: tuple[str, str], verb: str = "was"
) -> Finding:
    where, fix = origin
    return Finding(
        code="PG701",
        name="NonFiniteOrigin",
        severity="error",
        happened=f"{name!r} {verb} {value} at step {number}. Replaying from the last good state "
        f"shows that it began {where}.",
        expected="finite values.",
        fix=fix,
    )
