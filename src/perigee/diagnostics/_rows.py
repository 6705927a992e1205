"""Whether the rows of a batch meet: whether a sum over a batch is the sum over its parts.

A part of a batch, as a micro-batch or a replica sees it, lacks the other rows. That makes no
difference to a sum of one value for each row. For such a sum `f`, of rows in two groups with
contents `a` and `b`, or `c` and `d`, `f(a, b) + f(c, d) = f(a, d) + f(c, b)`; where that does not
hold, rows of one group meet rows of the other. The contents are rows of the batch itself, moved to
other places. The batch size stays, so that what is drawn for a place is always the same.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._backends import Mode
from perigee._listening import Call, Talk, listening
from perigee._rehearsal.discovery import Rehearsal, undone
from perigee._step.averages import as_average
from perigee._step.frame import current_frame
from perigee._step.frame import rehearsal as being_rehearsed
from perigee._step.gradients import Gradients
from perigee._step.samples import Sample
from perigee._step.state import attributes_preserved, restore, snapshot
from perigee._step.step import Step, call, layers_of
from perigee._step.updates import in_scope
from perigee._typing import Batch

_MOST_ROWS = 16
"""Rows that a step is run on: few make it quick, and each counts for more."""

_MET, _MET_BY_FEW = 1e-5, 1e-6
"""The part of a sum above which what should be 0 is no rounding; the same where few rows change."""

_TIMES_NOISE, _TIMES_NOISE_BY_FEW = 30.0, 5.0
"""The same as a multiple of the noise: see `_Run.noise` and `_rounding`."""

_NUDGE, _NUDGE_IN_HALF = 2.0**-21, 2.0**-9
"""The relative change of weights that changes all roundings, in float32 and in half precision."""

_LEAST = 1e-9
"""What is less is no more than rounding, where values cancel."""

_BLOCKS = 8

Kind = Literal["objective", "log", "metric"]


@dataclass(frozen=True, slots=True)
class Sum:
    """Something that a step sums over its batch.

    Attributes:
        kind: An objective that it minimizes, a value that it returns, or a metric.
        name: The name of the value or the metric.
        part: The number of the term, and of its total and count.
    """

    kind: Kind
    name: str
    part: int


@dataclass(frozen=True, slots=True)
class Exchange:
    """A sum over the rows of two groups: before, with one group changed, the other, and both.

    Attributes:
        before: The sum before.
        one: With one group changed.
        other: With the other group changed.
        both: With both changed.
        noise: How far rounding may move a sum.
    """

    before: float
    one: float
    other: float
    both: float
    noise: float

    @property
    def rest(self) -> float:
        """What the changes of the two groups do together, beyond what each does alone."""
        return self.before + self.both - self.one - self.other

    @property
    def size(self) -> float:
        """The largest of the values."""
        return max(abs(v) for v in (self.before, self.one, self.other, self.both))

    @property
    def is_more(self) -> bool:
        """Whether the rest is more than rounding; not if a value is not finite."""
        return abs(self.rest) > max(_MET * self.size, _TIMES_NOISE * self.noise, _LEAST)

    @property
    def is_more_of_few(self) -> bool:
        """The same where few rows change, of a sum in which some rows meet."""
        least = max(_MET_BY_FEW * self.size, _TIMES_NOISE_BY_FEW * self.noise, _LEAST)
        return abs(self.rest) > least


def _grain(value: float) -> float:
    """Return the last binary digit of a value; 0 for an integer, which shows nothing."""
    if not np.isfinite(value) or value == int(value):
        return 0.0
    above, below = value.as_integer_ratio()
    return (above & -above) / below


def _rounding(values: Sequence[float], grains: Sequence[float]) -> float:
    """Return how exact values are, by their last digits.

    A difference of large numbers has no digits beyond theirs, and one in half precision few.
    """
    known = [(abs(v), grain) for v, grain in zip(values, grains, strict=True) if grain]
    if not known:
        return 0.0
    part = min(grain / size for size, grain in known)
    return max(part * max(abs(v) for v in values), min(grain for _, grain in known))


@contextmanager
def exchanging(
    step: Step, rehearsal: Rehearsal, batch: Batch, accumulate: int, is_split: bool
) -> Generator[Rows]:
    """Yield what becomes of a training step when rows of its batch are exchanged.

    Args:
        step: The Step. All is undone at the end; after each run, only what steps write.
        rehearsal: The rehearsal of its `train_step`.
        batch: Tensors.
        accumulate: Micro-batches an update.
        is_split: Whether a batch is split over several replicas.
    """
    with in_scope(step), undone(rehearsal.tracked.state):
        yield Rows(step, rehearsal, batch, accumulate, is_split)


class Rows:
    """What becomes of a training step when rows of its batch are exchanged; see `exchanging`."""

    def __init__(
        self, step: Step, rehearsal: Rehearsal, batch: Batch, accumulate: int, is_split: bool
    ) -> None:
        self.step: Step = step
        self.accumulate: int = accumulate
        self.is_split: bool = is_split
        self._rehearsal, self._batch = rehearsal, batch
        layers = list(layers_of(rehearsal.tracked))
        halves = {"float16", "bfloat16"}
        in_half = any(getattr(layer, "compute_dtype", None) in halves for layer in layers)
        self._nudge = _NUDGE_IN_HALF if in_half else _NUDGE
        self._normal = [one for one in layers if isinstance(one, keras.layers.BatchNormalization)]
        # Replicas share these statistics themselves.
        self._shared = [] if accumulate > 1 else [one for one in self._normal if one.synchronized]

    @property
    def parts(self) -> str:
        """What a batch is divided into."""
        kinds = ["micro-batch"] if self.accumulate > 1 else []
        return " or ".join([*kinds, *(["replica's share"] if self.is_split else [])])

    @cached_property
    def meeting(self) -> Mapping[Sum, Exchange]:
        """The sums in which rows meet, other than through `BatchNormalization`."""
        if not self._all or not self._normal:
            return self._all
        return _met(self._still)

    @cached_property
    def normalized(self) -> Mapping[Sum, Exchange]:
        """The sums in which rows meet through `BatchNormalization`."""
        if not self._all or len(self._shared) == len(self._normal):
            return {}
        run, still = self._run, self._still
        assert run is not None

        def is_other(key: Sum) -> bool:
            """Return whether they meet otherwise without it."""
            pairs = zip(run.exchanges(key), still.exchanges(key), strict=False)
            return any(abs(a.rest - b.rest) > 1e-3 * a.size for a, b in pairs)

        return {
            key: exchange
            for key, exchange in self._all.items()
            if key not in self.meeting or is_other(key)
        }

    @property
    def layers(self) -> list[str]:
        """The names of the layers of `BatchNormalization` that use statistics of a batch."""
        run = self._run
        assert run is not None
        return [layer.name for layer in self._normal if id(layer) in run.normalizing]

    def is_of_all(self, key: Sum) -> bool:
        """Return whether each row of an objective meets most others, not only a few."""
        run = self._still if self._normal else self._run
        assert run is not None
        order, size = run.order, run.size
        for turn in range(min(3, size)):
            first, *others = np.roll(order, -turn)
            blocks = np.array_split(np.asarray(others), min(_BLOCKS, len(others)))
            found = 0
            for block in blocks:
                one, other = run.apart(first, block), run.apart(others[-1], block)
                exchange = run.exchange(key, [first], block, one, other)
                found += exchange.is_more_of_few
            if found >= max(3, len(blocks) / 2):
                return True
        return False

    @cached_property
    def remembered(self) -> list[str]:
        """The names of variables that carry rows of one batch to the objective of the next."""
        run = self._run
        if run is None or not run.kept:
            return []
        base = run.all_from(run.places)
        moved = run.all_from(run.repeated)
        after = base.kept
        changed = [
            index
            for index, (one, other) in enumerate(zip(after, moved.kept, strict=True))
            if not np.array_equal(one, other, equal_nan=True)
        ]
        return [
            self._rehearsal.tracked.name_of(run.kept[index])
            for index in changed
            if self._depends(run, base, index, after[index])
        ]

    def _depends(self, run: _Run, base: _Values, index: int, value: np.ndarray) -> bool:
        later = run(run.places, ([run.kept[index]], [value]))
        return any(
            abs(later.sums[key] - old) > max(_MET * abs(old), _TIMES_NOISE * run.noise[key], _LEAST)
            for key, old in base.sums.items()
            if key.kind == "objective"
        )

    @cached_property
    def _run(self) -> _Run | None:
        """The step, to be run on moved rows; `None` where that cannot be done."""
        return self._made(self._shared)

    @cached_property
    def _still(self) -> _Run:
        """The same with each `BatchNormalization` in inference mode."""
        made = self._made(self._normal)
        assert made is not None
        return made

    @cached_property
    def _all(self) -> Mapping[Sum, Exchange]:
        run = self._run
        if run is None or (run.has_inner and self.accumulate == 1):
            return {}  # replicas combine the gradients of inner steps themselves
        return _met(run)

    def _made(self, still: Sequence[Any]) -> _Run | None:
        """Return the step on few rows, or on all if it takes no others."""
        leaves = [leaf for leaf in keras.tree.flatten(self._batch) if leaf is not None]
        sizes = {tuple(getattr(leaf, "shape", ()))[:1] for leaf in leaves}
        if len(sizes) != 1 or sizes & {(), (0,)}:
            return None
        size = int(leaves[0].shape[0])
        try:
            host = _backends.current().to_host(self._batch)
        except Exception:  # it lies on devices of other processes
            return None
        if size == 1:
            host, size = keras.tree.map_structure(_and_another, host), 2
        few = np.unique(np.linspace(0, size - 1, _MOST_ROWS).astype(int))
        for places in [few] if len(few) == size else [few, np.arange(size)]:
            part = _taken(host, places)
            run = _Run(self.step, self._rehearsal, part, len(places), still, self._nudge)
            try:
                run.all_from(run.places)
            except Exception:  # it takes no batch of that size, or runs only compiled
                continue
            return run
        return None


def _met(run: _Run) -> Mapping[Sum, Exchange]:
    """Return an exchange of rows for each sum in which they meet."""
    found: dict[Sum, Exchange] = {}
    for key in run.noise:
        more = [exchange for exchange in run.exchanges(key) if exchange.is_more]
        if more:
            found[key] = more[0]
    return found


def _and_another(leaf: Any) -> Any:
    """Return a single row with another one, in which floats differ."""
    if leaf is None:
        return None
    row = np.asarray(leaf)
    other = (1.5 * row + 0.5).astype(row.dtype) if row.dtype.kind == "f" else row
    return np.concatenate([row, other])


def _taken(batch: Batch, places: np.ndarray) -> Batch:
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else np.asarray(leaf)[places], batch
    )


@dataclass(frozen=True, slots=True)
class _Values:
    """What a step sums over a batch, the last digits of that, and the variables that it writes."""

    sums: Mapping[Sum, float]
    grains: Mapping[Sum, float]
    kept: Sequence[np.ndarray]


class _Run:
    """A step on a batch whose rows are moved, each time from the same state.

    Attributes:
        size: Rows.
        places: All rows at their places.
        order: All rows in a fixed random order.
        half: One half of the rows, spread over the batch.
        repeated: The places with copies of two rows.
        kept: Variables that the step itself writes, to read them later.
        normalizing: Ids of layers of `BatchNormalization` that use statistics of the batch.
        has_inner: Whether an objective differentiates another one for variables.
    """

    def __init__(
        self,
        step: Step,
        rehearsal: Rehearsal,
        batch: Batch,
        size: int,
        still: Sequence[Any],
        nudge: float,
    ) -> None:
        self.size = size
        self.places: np.ndarray = np.arange(size)
        self.order: np.ndarray = np.random.default_rng(0).permutation(size)
        self.half: np.ndarray = self.order[: size // 2]
        self.repeated: np.ndarray = np.where(
            np.isin(self.places, self.half), self.order[0], self.order[-1]
        )
        self.kept: list[Any] = _kept(rehearsal)
        self.normalizing: set[int] = set()
        self.has_inner = False
        self._step, self._rehearsal, self._batch = step, rehearsal, batch
        self._still, self._nudge = {id(layer) for layer in still}, nudge
        self._known: dict[bytes, _Values] = {}
        self._keys: list[Sum] = []
        self._counts: list[int | None] = []
        backend = _backends.current()
        mode: Mode = "graph" if backend.capabilities.compiles_operations else "eager"
        self._run = backend.compile(self._tensors, rehearsal.tracked.variables, mode, is_probe=True)

    def exchanges(self, key: Sum) -> list[Exchange]:
        """Return exchanges of the two halves of the rows.

        Each half becomes copies of one row, which changes what they have in common most. Where a
        value is not finite then, as a loss of rows without a negative, the rows of each half become
        each other.
        """
        order, rest = self.order, self.order[self.size // 2 :]
        copies = (rest[0], self.half[0]), (rest[-1], self.half[-1])
        found = [self.exchange(key, self.half, rest, *rows) for rows in copies]
        if not all(np.isfinite(exchange.rest) for exchange in found):
            around = np.empty_like(order)
            around[order] = np.roll(order, 1)
            found.append(self.exchange(key, self.half, rest, around[self.half], around[rest]))
        return found

    def exchange(self, key: Sum, group: Any, others: Any, one: Any, other: Any) -> Exchange:
        """Exchange the contents of two groups of rows.

        Args:
            key: The sum.
            group: The places of the rows of one group.
            others: Those of the other group.
            one: The rows that the first group becomes.
            other: The rows that the other group becomes.
        """
        first, second, both = self.places.copy(), self.places.copy(), self.places.copy()
        first[group] = both[group] = one
        second[others] = both[others] = other
        runs = [self.all_from(rows) for rows in (self.places, first, second, both)]
        values = [run.sums[key] for run in runs]
        grains = [run.grains[key] for run in runs]
        return Exchange(*values, noise=max(self.noise[key], _rounding(values, grains)))

    def apart(self, row: int, block: np.ndarray) -> int:
        """Return a row that is neither a given one nor in a block."""
        free = [r for r in self.order if r != row and r not in block]
        return free[len(free) // 2] if free else self.order[0]

    @cached_property
    def noise(self) -> Mapping[Sum, float]:
        """How much each sum changes with weights that are nearly the same.

        So much is rounding, of values that may be far larger than their sum. Where a step draws
        other numbers each time, it is as much as these make.
        """
        weights = self._rehearsal.tracked.of_kind("trainable")
        values, draw = snapshot(weights), np.random.default_rng(1)
        first = self.all_from(self.places).sums
        found = dict.fromkeys(first, 0.0)
        for _ in range(2):  # by chance, one may be rounded alike
            signs = [draw.choice([-self._nudge, self._nudge], value.shape) for value in values]
            near = [
                (value * (1.0 + sign)).astype(value.dtype)
                for value, sign in zip(values, signs, strict=True)
            ]
            again = self(self.places, (weights, near)).sums
            found = {key: max(old, abs(again[key] - first[key])) for key, old in found.items()}
        return found

    def all_from(self, rows: np.ndarray) -> _Values:
        """Return what the step makes of these rows; each is run once."""
        key = rows.tobytes()
        if key not in self._known:
            self._known[key] = self(rows)
        return self._known[key]

    def __call__(
        self, rows: np.ndarray, state: tuple[Sequence[Any], Sequence[np.ndarray]] = ((), ())
    ) -> _Values:
        """Run the step and undo its effects.

        Args:
            rows: The row that stands at each place.
            state: Variables, and the values with which they begin.
        """
        backend = _backends.current()
        batch = backend.tensors(_taken(self._batch, rows))
        changed = [*self._rehearsal.written, *state[0]]
        with attributes_preserved(self._step, keeps_new=True), undone(changed):
            restore(*state)
            with being_rehearsed():
                sums, kept = backend.to_host(self._run(batch))
                kept = [np.array(value) for value in kept]  # not the memory of the variables
        values = [float(np.asarray(value, "float64")) for value in sums]
        if not self._known:
            self._base = values
        # A total and its count, over the count at first: each is about as large as a mean.
        divisors = [1.0 if c is None else max(abs(self._base[c]), 1.0) for c in self._counts]
        pairs = list(zip(self._keys, values, divisors, strict=True))
        scaled = {key: value / divisor for key, value, divisor in pairs}
        return _Values(scaled, {key: _grain(value) / d for key, value, d in pairs}, kept)

    def _tensors(self, batch: Batch) -> tuple[list[Any], list[Any]]:
        objectives = _Objectives()
        with ExitStack() as stack:
            stack.enter_context(listening(keras.Layer, "__call__", self._layer_call))
            # A later value must not follow from these rows through an update.
            stack.enter_context(listening(keras.optimizers.Optimizer, "apply", _not_applied))
            returned, examples = call(
                self._step,
                "train_step",
                _backends.current().copied(batch),
                recorder=objectives,
                is_probed=True,
            )
        self.has_inner = objectives.has_inner
        self._keys.clear()
        self._counts.clear()
        sums: list[Any] = []

        def add(kind: Kind, name: str, value: Any) -> None:
            for term in as_average(value, examples).terms:
                place = None if term.count is None else len(sums) + 1
                for part in (term.total, term.count):
                    if part is not None:
                        self._keys.append(Sum(kind, name, len(sums)))
                        self._counts.append(place)
                        sums.append(part)

        for value in objectives.values:
            add("objective", "", value)
        for name, value in returned.items() if isinstance(returned, Mapping) else ():
            if not isinstance(value, Sample) and self._rehearsal.kinds.get(name) == "mean":
                add("log", name, value)
        for name, metric in self._rehearsal.metrics.items():
            if isinstance(metric, keras.metrics.Mean | keras.metrics.Sum):
                for variable in metric.variables:
                    add("metric", name, ops.sum(ops.convert_to_tensor(variable)))
        return sums, [ops.convert_to_tensor(variable) for variable in self.kept]

    def _layer_call(self, original: Any, layer: Any, *args: Any, **kwargs: Any) -> Talk:
        if id(layer) not in self._still:
            if isinstance(layer, keras.layers.BatchNormalization):
                self.normalizing.add(id(layer))
            yield
            return
        yield Call(original, (layer, *args[:1]), {**kwargs, "training": False})


def _not_applied(original: Any, optimizer: Any, *args: Any, **kwargs: Any) -> Talk:
    yield Call(lambda: None, (), {})


def _kept(rehearsal: Rehearsal) -> list[Any]:
    """Return the variables that a step writes and that no optimizer updates.

    Metrics, seeds, slots and the statistics of `BatchNormalization` are no such state.
    """
    tracked = rehearsal.tracked
    updated = {id(v) for variables in rehearsal.updated.values() for v in variables}
    normal = {
        id(v)
        for layer in layers_of(tracked)
        if isinstance(layer, keras.layers.BatchNormalization)
        for v in layer.variables
    }
    written = {id(v) for v in rehearsal.written} - updated - normal
    return [
        entry.variable
        for entry in tracked.entries
        if id(entry.variable) in written
        and entry.kind not in ("metric", "seed", "optimizer")
        and not entry.key.startswith("perigee/")
    ]


class _Objectives:
    """Keeps the objectives that a step minimizes. See `_step.frame.Recorder`."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.has_inner = False

    def derived(self, gradients: Gradients, adds_losses: bool) -> None:
        returned = gradients.returned
        self.values.append(returned[0] if isinstance(returned, tuple) else returned)

    def differentiated(self, read: Sequence[Any]) -> None:
        frame = current_frame()
        self.has_inner |= frame is not None and frame.depth > 0

    def applied(self, optimizer: Any, gradients: Gradients, is_conditional: bool) -> None: ...

    def leaves_out(
        self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> bool:
        return False

    def measured(self, terms: Sequence[Any], adds: bool) -> None: ...

    def metric_of(self, returned: Any) -> str | None: ...

    def names(self, metric: keras.Metric, name: str) -> None: ...

    @contextmanager
    def metrics_of_phase(self) -> Generator[dict[int, set[str] | None]]:
        yield {}

    def alternated(self, updated: Any, names: Mapping[str, str]) -> None: ...
