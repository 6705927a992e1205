"""Ways of training, to be run one step at a time from a given state."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._errors import ArgumentError
from perigee._execution import Execution, Program, logged_metrics, rows_on_host
from perigee._listening import Call, Talk, listening
from perigee._step.state import INTERNALS, Entry, Holder, preserved, snapshot, track
from perigee._step.step import Step
from perigee._step.updates import inner_of
from perigee._typing import Batch
from perigee.checkpoints import random_state, set_random_state

Array = np.ndarray[Any, Any]

WEIGHTS = ("trainable", "non_trainable", "variable")
_ORDER = (*WEIGHTS, "optimizer", "seed", "metric")
_ROUNDINGS = 4
"""Allowed error of a stored value, in units in the last place."""


class Way(Protocol):
    """One way of training."""

    @property
    def holder(self) -> Holder:
        """The holder of its state."""
        ...

    def prepare(self, batch: Batch) -> None:
        """Build what is not built yet, without training."""
        ...

    def run(self, batch: Batch, is_eager: bool) -> dict[str, float]:
        """Run one step, and return what it logs."""
        ...

    def left_as_it_was(self) -> Any:
        """Return a context that restores everything except variables."""
        ...


Under = Callable[[Way, int], AbstractContextManager[Any]]
"""Returns a context for a way to run in; the first one has the number 0, the second 1."""


class StepWay:
    """A Step."""

    def __init__(self, step: Step) -> None:
        self.holder = self._step = step

    def prepare(self, batch: Batch) -> None:
        """See `Way`: its rehearsal."""
        Program.of(self._step, "train_step", batch, Execution(steps_per_call=1))

    def run(self, batch: Batch, is_eager: bool) -> dict[str, float]:
        """See `Way`."""
        execution = Execution("eager" if is_eager else "auto", steps_per_call=1)
        prepared = Program.of(self._step, "train_step", batch, execution)
        rows = rows_on_host([prepared.run(batch)])[0]
        logs: dict[str, float] = {}
        for column, (mean, count) in zip(prepared.columns, rows, strict=True):
            if count and column.kind == "mean":
                logs[column.name] = logs.get(column.name, 0.0) + float(mean)
        return logs | logged_metrics(prepared.rehearsal)

    @contextmanager
    def left_as_it_was(self) -> Generator[None]:
        """See `Way`."""
        attributes = vars(self._step)
        before, host = dict(attributes), self._step.host_state()
        own = before.get(INTERNALS)
        programs = {} if own is None else dict(own.programs)
        if own is not None:
            own.programs.clear()
        try:
            yield
        finally:
            attributes.clear()
            attributes.update(before)
            if own is not None:
                own.programs.clear()
                own.programs.update(programs)
            self._step.load_host_state(host)


class _Held(Holder):
    """A holder of objects, searched like a Step."""

    def __init__(self, **things: Any) -> None:
        vars(self).update(things)


class ModelWay:
    """A compiled `keras.Model`, trained as its `fit` does."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.holder = _Held(model=model, optimizer=model.optimizer)

    def prepare(self, batch: Batch) -> None:
        """See `Way`: Keras creates its metrics in the first step, which is undone."""
        x, _, _ = keras.utils.unpack_x_y_sample_weight(batch)
        if not self._model.built:
            with suppress(NotImplementedError):  # one that has `train_step` and no `call`
                self._model(_backends.current().tensors(x))
        if not self._model.optimizer.built:
            self._model.optimizer.build(self._model.trainable_variables)
        with preserved(track(self.holder).state, host=False):
            self.run(batch, is_eager=False)
        self._model.reset_metrics()

    def run(self, batch: Batch, is_eager: bool) -> dict[str, float]:
        """See `Way`."""
        model = self._model
        function, was_eager = model.train_function, model.run_eagerly
        if is_eager:
            model.run_eagerly, model.train_function = True, None
        model.reset_metrics()
        x, y, weight = keras.utils.unpack_x_y_sample_weight(batch)
        try:
            logs = model.train_on_batch(x, y, sample_weight=weight, return_dict=True)
        finally:
            if is_eager:
                model.run_eagerly, model.train_function = was_eager, function
        return _scalars(logs)

    @contextmanager
    def left_as_it_was(self) -> Generator[None]:
        """See `Way`."""
        function, self._model.train_function = self._model.train_function, None
        try:
            with listening(self._model, "train_step", _given_as_by_fit):
                yield
        finally:
            self._model.train_function = function


def _given_as_by_fit(original: Any, *arguments: Any) -> Talk:
    """Call a `train_step` with the batch alone, which `train_on_batch` fills up with `None`."""
    *state, (*parts, last) = arguments
    while last is None and parts:
        last = parts.pop()
    yield Call(original, (*state, (*parts, last)), {})


class FunctionWay:
    """A function that does one step of training."""

    def __init__(self, function: Callable[[Batch], Any], step: Step, holds: Any) -> None:
        self._function = function
        self.holder: Holder = step if holds is None else _Held(holds=holds)

    def prepare(self, batch: Batch) -> None:
        """See `Way`: its objects are already built, except one optimizer of one model."""
        found = track(self.holder)
        for optimizer in found.optimizers.values():
            if not optimizer.built and len(found.optimizers) == 1:
                optimizer.build(found.of_kind("trainable"))

    def run(self, batch: Batch, is_eager: bool) -> dict[str, float]:
        """See `Way`."""
        returned = self._function(_backends.current().tensors(batch))
        return _scalars(returned) if isinstance(returned, Mapping) else {}

    @contextmanager
    def left_as_it_was(self) -> Generator[None]:
        """See `Way`."""
        yield


def _scalars(logs: Mapping[str, Any]) -> dict[str, float]:
    host = {name: _host(value) for name, value in logs.items()}
    return {name: float(v) for name, v in host.items() if v is not None and v.size == 1}


def _host(tensor: Any) -> Array | None:
    """Return a tensor as an array; `None` if it has no value yet."""
    try:
        dense = _backends.current().dense(tensor) if hasattr(tensor, "dtype") else tensor
        return np.array(ops.convert_to_numpy(dense))
    except Exception:  # a symbolic tensor; each framework raises its own type
        return None


@dataclass(slots=True)
class Outcome:
    """The outcome of one step.

    Attributes:
        values: The value of each variable of the way, afterwards.
        logs: What it logged.
        gradients: Gradients as passed to optimizers, by id of the variable.
        rates: The learning rate at each update.
    """

    values: dict[int, Array] = field(default_factory=dict)
    logs: dict[str, float] = field(default_factory=dict)
    gradients: dict[int, Array] = field(default_factory=dict)
    rates: list[float] = field(default_factory=list)

    @contextmanager
    def observing(self) -> Generator[None]:
        """Keep what is passed to optimizers while the context is open."""

        def apply(original: Any, optimizer: Any, gradients: Any, variables: Any = None) -> Talk:
            gradients = list(gradients)
            known = getattr(optimizer, "_trainable_variables", ())
            targets = known if variables is None else variables
            rate = _host(optimizer.learning_rate)
            if rate is not None:
                self.rates.append(float(rate))
            for gradient, variable in zip(gradients, targets, strict=True):
                value = None if gradient is None else _host(gradient)
                if value is not None:
                    self.gradients[id(variable)] = value.astype("float64")
            yield Call(original, (optimizer, gradients, variables), {})

        with listening(keras.optimizers.Optimizer, "apply", apply):
            yield


@dataclass(frozen=True, slots=True)
class Apart:
    """The difference between two values.

    Attributes:
        name: The name of the variable or logged value.
        kind: The kind of the variable; `"log"` for a logged value.
        relative: The difference, relative to the update.
        element: The index of the largest difference.
        values: The values there on each side.
    """

    name: str
    kind: str
    relative: float
    element: tuple[int, ...]
    values: tuple[float, float]


class Pair:
    """Two ways of training that start each step in the same state.

    Attributes:
        ours: The first way.
        theirs: The second.
        matched: The variables that correspond.
        left_out: Names of those that do not.
    """

    def __init__(self, ours: Way, theirs: Way, random: Mapping[str, Any]) -> None:
        self.ours, self.theirs = ours, theirs
        self._random = random
        self._our_entries = track(ours.holder).entries
        self._their_entries = track(theirs.holder).entries
        self.matched, self.left_out = _match(_state_of(ours), _state_of(theirs))
        self._compares_metrics = not isinstance(theirs, ModelWay)
        self._our_values = _values(self._our_entries)
        self._their_values = _values(self._their_entries) | self._as_theirs(self._our_values)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables that are compared."""
        return tuple(a.name for a, _ in self._compared())

    def run(
        self,
        batch: Batch,
        *,
        observed: bool = False,
        under: Under | None = None,
    ) -> tuple[Outcome, Outcome]:
        """Run both ways on a batch, from the state at the start of this step.

        Args:
            batch: Arrays.
            observed: Whether to run op by op and to observe.
            under: Returns a context for a way to run in.
        """
        outcomes: list[Outcome] = []
        sides = (
            (self.ours, self._our_entries, self._our_values),
            (self.theirs, self._their_entries, self._their_values),
        )
        for side, (way, entries, values) in enumerate(sides):
            for entry in entries:
                entry.variable.assign(values[id(entry.variable)])
            set_random_state(self._random)
            if not self._compares_metrics:
                for metric in track(way.holder).metrics.values():
                    metric.reset_state()
            outcome = Outcome()
            with ExitStack() as stack:
                if under is not None:
                    stack.enter_context(under(way, side))
                if observed:
                    stack.enter_context(outcome.observing())
                outcome.logs = way.run(batch, is_eager=observed)
            outcome.values = _values(entries)
            if way is self.ours:
                self._random_after = random_state()
            outcomes.append(outcome)
        return outcomes[0], outcomes[1]

    def advance(self, ours: Outcome, theirs: Outcome) -> None:
        """Start the next step from the state of the first way."""
        self._our_values = ours.values
        self._their_values = theirs.values | self._as_theirs(ours.values)
        self._random = self._random_after

    def before(self, entry: Entry) -> Array:
        """Return the value of one of our variables at the start of the step."""
        return self._our_values[id(entry.variable)]

    def apart(self, ours: Outcome, theirs: Outcome) -> list[Apart]:
        """Return the difference of each variable and logged value, weights first."""
        found = [
            _apart(a, self.before(a), ours.values[id(a.variable)], theirs.values[id(b.variable)])
            for a, b in self._compared()
        ]
        found.sort(key=lambda each: _ORDER.index(each.kind))
        for name, value in ours.logs.items():
            if name in theirs.logs:
                other = theirs.logs[name]
                scale = max(abs(value), abs(other), 1e-2)
                relative = 0.0 if _same(value, other) else abs(value - other) / scale
                found.append(Apart(f"log {name!r}", "log", relative, (), (value, other)))
        return found

    def differences(self, ours: Outcome, theirs: Outcome, tolerance: float) -> list[Apart]:
        """Return differences above the tolerance, weights first."""
        return [each for each in self.apart(ours, theirs) if not each.relative <= tolerance]

    def are_identical(self, ours: Outcome, theirs: Outcome) -> bool:
        """Return whether all variables are equal, bit for bit."""
        return all(
            ours.values[id(a.variable)].tobytes() == theirs.values[id(b.variable)].tobytes()
            for a, b in self._compared()
        )

    def _compared(self) -> list[tuple[Entry, Entry]]:
        return [p for p in self.matched if self._compares_metrics or p[0].kind != "metric"]

    def _as_theirs(self, values: Mapping[int, Array]) -> dict[int, Array]:
        return {id(b.variable): values[id(a.variable)] for a, b in self.matched}


def _state_of(way: Way) -> list[Entry]:
    """Return all variables except learning rates: they are settings, which each way keeps."""
    tracked = track(way.holder)
    inner = [inner_of(o) for o in tracked.optimizers.values()]
    rates = {id(optimizer.learning_rate) for optimizer in inner}
    return [entry for entry in tracked.entries if id(entry.variable) not in rates]


def _values(entries: Sequence[Entry]) -> dict[int, Array]:
    variables = [entry.variable for entry in entries]
    return {id(v): a for v, a in zip(variables, snapshot(variables), strict=True)}


def _same(a: float, b: float) -> bool:
    return a == b or (np.isnan(a) and np.isnan(b))


def _apart(entry: Entry, before: Array, ours: Array, theirs: Array) -> Apart:
    if ours.tobytes() == theirs.tobytes():
        return Apart(entry.name, entry.kind, 0.0, (), (0.0, 0.0))
    a, b, start = (np.asarray(each, "float64") for each in (ours, theirs, before))
    both_nan = np.isnan(a) & np.isnan(b)
    distance = np.where(both_nan, 0.0, np.abs(a - b))
    element = tuple(int(i) for i in np.unravel_index(np.argmax(distance), a.shape))
    values = float(a[element]), float(b[element])
    if "float" not in str(ours.dtype):
        return Apart(entry.name, entry.kind, float("inf"), element, values)
    largest = np.where(both_nan, 0.0, np.maximum(abs(a), abs(b)))
    rounding = _ROUNDINGS * _epsilon(ours.dtype) * np.linalg.norm(largest)
    update = max(np.linalg.norm(a - start), np.linalg.norm(b - start), 1e-30)
    off = max(np.linalg.norm(distance) - rounding, 0.0)
    return Apart(entry.name, entry.kind, float(off / update), element, values)


def _epsilon(dtype: Any) -> float:
    return {"float64": 2.3e-16, "float32": 1.2e-7, "float16": 1e-3}.get(str(dtype), 8e-3)


def _match(
    ours: Sequence[Entry], theirs: Sequence[Entry]
) -> tuple[list[tuple[Entry, Entry]], tuple[str, ...]]:
    """Match corresponding variables: by identity, by key, else in order among equal shapes.

    Raises:
        ArgumentError: If a trainable variable has no counterpart.
    """
    pairs: list[tuple[Entry, Entry]] = []
    rest, others = list(ours), list(theirs)

    def take(test: Callable[[Entry, Entry], bool]) -> None:
        for a in list(rest):
            for b in others:
                if tuple(a.variable.shape) == tuple(b.variable.shape) and test(a, b):
                    pairs.append((a, b))
                    rest.remove(a)
                    others.remove(b)
                    break

    take(lambda a, b: a.variable is b.variable)
    take(lambda a, b: a.key == b.key)
    take(lambda a, b: _like(a) == _like(b) and a.kind != "metric")
    lost = [e for e in (*rest, *others) if e.kind == "trainable"]
    if lost:
        raise ArgumentError(
            "against",
            "<another model>",
            "both to hold the same variables, in the same order; these have no counterpart: "
            + ", ".join(f"{e.name} {tuple(e.variable.shape)}" for e in lost[:5])
            + ".",
            "build both models alike, and pass `holds=` if a function uses its own objects.",
        )
    order = {id(e.variable): i for i, e in enumerate(ours)}
    pairs.sort(key=lambda pair: order[id(pair[0].variable)])
    return pairs, tuple(e.name for e in (*rest, *others))


def _like(entry: Entry) -> tuple[str, str]:
    kind = "weight" if entry.kind in WEIGHTS else entry.kind
    return kind, entry.key.rpartition("/")[2]
