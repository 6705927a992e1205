"""The evidence that rules examine: each piece computed once, when a rule first needs it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import keras
import numpy as np

from perigee import _backends
from perigee._backends import Compiled, Mode
from perigee._listening import Talk, listening
from perigee._rehearsal.discovery import Probe, Rehearsal, rehearse
from perigee._step.state import Tracked, nested_layers, preserved, restore, snapshot, track
from perigee._step.step import Step
from perigee._step.updates import internals
from perigee._typing import Batch
from perigee.diagnostics._recording import ModelCall, Recording, divided, record, takes_training
from perigee.diagnostics.fence import guarded
from perigee.diagnostics.rules import labels

T = TypeVar("T")

_DRAWS = 4
"""Other draws of the weights, where a size is compared with a limit."""


@dataclass(frozen=True, slots=True)
class Length:
    """How long a training is.

    Attributes:
        steps: How many steps it has.
        steps_per_pass: How many batches the data has; `None` if that is not known.
    """

    steps: int
    steps_per_pass: int | None


@dataclass(frozen=True, slots=True)
class Inner:
    """A layer inside a model, called in inference mode.

    Attributes:
        layer: The layer.
        inputs: Its first argument, on the host, flat.
        outputs: What it returned, on the host, flat.
    """

    layer: Any
    inputs: Sequence[np.ndarray]
    outputs: Sequence[np.ndarray]


class Evidence:
    """A Step and some of its data, and facts derived from them.

    The Step never changes: variables and generators are restored.

    Attributes:
        step: The Step, built.
        batches: Some batches, on the host, including the first; all have its structure.
        columns: All known rows of each leaf of a batch, on the host; none for a leaf that has no
            rows or is not an array.
        validation: The same for the validation data, or `None`.
        is_of_keras: Whether a compiled model runs its own steps.
        is_of_arrays: Whether the data is arrays, which `fit` shuffles.
        length: How long the training is; `None` if that is not known.
        training: What `train_step` does on the first batch.
        numbers: Numeric attributes that it changes, by path.
        rehearsals: Rehearsals of `train_step`, one for each batch structure.
        is_eager: Whether the step can only run eagerly.
    """

    def __init__(
        self,
        step: Step,
        batches: Sequence[Batch],
        columns: Sequence[np.ndarray],
        validation: Sequence[np.ndarray] | None,
        is_of_keras: bool,
        is_of_arrays: bool = True,
        redraw: Callable[[], Sequence[Batch]] | None = None,
        redraw_validation: Callable[..., Sequence[np.ndarray]] | None = None,
        evaluated: Batch | None = None,
        others: Sequence[Batch] = (),
        length: Length | None = None,
    ) -> None:
        self.step = step
        self.batches = batches
        self.columns = columns
        self.validation = validation
        self.is_of_keras = is_of_keras
        self.is_of_arrays = is_of_arrays
        self.length = length
        self._redraw, self._redraw_validation = redraw, redraw_validation
        self._evaluated = evaluated
        self.batch: Batch = _backends.current().tensors(batches[0])
        self.training: Recording = Recording()
        self.numbers: set[str] = set()
        self.is_eager: bool = False
        self.rehearsals: list[Rehearsal] = []
        self._others = others
        self._inferences: dict[tuple[int, str], _Inference] = {}
        self._traces: dict[int, tuple[list[Inner], list[np.ndarray]]] = {}
        self._redrawn: dict[int, Recording] = {}
        self._made: dict[Any, Any] = {}
        self._checks = labels.LossChecks()

    @contextmanager
    def eagerly(self) -> Generator[None]:
        """Run the step op by op for as long as the context is open: it needs values."""
        self.is_eager, own = True, internals(self.step)
        had_run = own.runs_as_python
        own.run_as_python()
        try:
            with _backends.current().eagerly():
                yield
        finally:
            own.run_as_python(had_run)

    def rehearse(self) -> None:
        """Run `train_step` twice: the first run builds what is not built yet.

        Raises:
            PerigeeError: For an error that is certain.
        """
        observers = (guarded(self._checks),)
        record(self.step, "train_step", self.batch, self.tracked, observers, computes=False)
        self.training = record(self.step, "train_step", self.batch, self.tracked, observers)
        rehearsal = self.training.rehearsal
        if rehearsal is not None:
            self.rehearsals = [rehearsal]
            plain = self.tracked.plain
            self.numbers = {p for p in rehearsal.volatile if isinstance(plain.get(p), int | float)}
        self.rehearsals += [self._rehearsed(batch) for batch in self._others]

    def is_right(self, loss: Any) -> bool:
        """Return whether a loss got probabilities instead of logits, and is right nonetheless."""
        return id(loss) in self._checks.right

    def rehearse_alone(self) -> None:
        """Run `train_step` without recording it."""
        for batch in (self.batches[0], *self._others):
            self._rehearsed(batch)

    def _rehearsed(self, batch: Batch) -> Rehearsal:
        return rehearse(self.step, "train_step", _backends.current().tensors(batch))

    def once(self, make: Callable[[Evidence], T]) -> T:
        """Return what a function makes of the evidence; it is called once."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]

    @property
    def tracked(self) -> Tracked:
        """What the Step holds."""
        return track(self.step)

    @cached_property
    def testing(self) -> Recording | None:
        """The recording of `test_step` on the first batch; `None` if there is no `test_step`.

        Without validation data, `test_step` may rightly fail on the training batch.
        """
        method = type(self.step).test_step
        if method is Step.test_step:
            return None
        if self._evaluated is not None:
            batch = _backends.current().tensors(self._evaluated)
            return record(self.step, "test_step", batch, self.tracked, ())
        try:
            return record(self.step, "test_step", self.batch, self.tracked, ())
        except Exception:
            return None

    @cached_property
    def leaves(self) -> list[np.ndarray]:
        """Leaves of the first batch; an empty array in place of one that is not an array."""
        return [rows_of(leaf) for leaf in keras.tree.flatten(self.batches[0])]

    @cached_property
    def answers(self) -> np.ndarray | None:
        """All known rows of the labels, if they are one array after the inputs.

        What comes after them, if anything, is weights: transitions and triplets have no labels.
        """
        batch = self.batches[0]
        if not isinstance(batch, tuple) or not 2 <= len(batch) <= 3:
            return None
        if keras.tree.is_nested(batch[1]) or (len(batch) == 3 and not _may_weigh(*batch[1:])):
            return None
        index = len(keras.tree.flatten(batch[0]))
        return self.columns[index] if index < len(self.columns) else None

    @cached_property
    def size(self) -> int:
        """Rows of the first batch; 0 unless it is arrays with a common first axis."""
        leaves = keras.tree.flatten(self.batches[0])
        if not all(isinstance(leaf, np.ndarray) for leaf in leaves):
            return 0
        sizes = {leaf.shape[:1] for leaf in leaves}
        return next(iter(sizes))[0] if len(sizes) == 1 and sizes != {()} else 0

    @cached_property
    def batches_again(self) -> Sequence[Batch]:
        """The batches of another pass; none where the data is arrays."""
        return [] if self._redraw is None or self.is_of_arrays else self._redraw()

    def validation_again(self, most: int | None = None) -> Sequence[np.ndarray]:
        """Return `validation` from another pass.

        Args:
            most: All of its batches instead, if there are no more than these, else nothing.
        """
        if self._redraw_validation is None:
            return []
        return self._redraw_validation() if most is None else self._redraw_validation(most)

    @cached_property
    def penalty(self) -> float:
        """The sum of the weight penalties in the loss, before the step."""
        if not self.training.adds_losses:
            return 0.0
        variables = {id(v): v for call in self.trained for v in call.layer.trainable_variables}
        terms = [v.regularizer(v) for v in variables.values() if getattr(v, "regularizer", None)]
        return float(sum(np.sum(keras.ops.convert_to_numpy(term)) for term in terms))

    @cached_property
    def trained_layers(self) -> list[Any]:
        """All layers inside models that are trained, each once."""
        found = {id(layer): layer for call in self.trained for layer in nested_layers(call.layer)}
        return list(found.values())

    @cached_property
    def hidden(self) -> list[Inner]:
        """Calls of the layers inside models that are trained, in inference mode."""
        first = {id(call.layer): call for call in reversed(self.trained) if call.inputs is not None}
        return [inner for call in first.values() for inner in self.inside(call)]

    @cached_property
    def updated(self) -> set[int]:
        """Ids of the variables that optimizers were given to update."""
        return {id(v) for update in self.training.updates for v in update.variables}

    @cached_property
    def trained(self) -> list[ModelCall]:
        """Calls, in the training step, of models that optimizers update parts of."""
        return [c for c in self.training.calls if self.is_updated(c.layer)]

    def is_updated(self, layer: Any) -> bool:
        """Return whether an optimizer updates variables of a layer."""
        return any(id(v) in self.updated for v in layer.variables)

    @property
    def labels(self) -> list[tuple[int, np.ndarray]]:
        """All known rows of every leaf of the batches except the first, with its index."""
        return list(enumerate(self.columns))[1:]

    @cached_property
    def probe(self) -> Probe:
        """The rehearsed training step, to be run repeatedly from the same state."""
        assert self.training.rehearsal is not None
        return Probe(self.step, "train_step", self.training.rehearsal.tracked)

    @contextmanager
    def redrawn(self, turn: int) -> Generator[None]:
        """Exchange the values of each weight at random, as another draw of its initializer would.

        What only these weights show, others do not. Vectors stay: biases are set on purpose.
        """
        draw = np.random.default_rng(turn)
        weights = [v for v in self.tracked.of_kind("trainable") if len(v.shape) > 1]
        with preserved(self.tracked.state):
            restore(weights, [_redrawn(draw, value) for value in snapshot(weights)])
            yield

    def inside_redrawn(self, call: ModelCall, turn: int) -> list[Inner]:
        """Return what each layer inside a model returns with other weights; see `redrawn`."""
        with self.redrawn(turn):
            return self._inference(call, call.inputs)[0]

    def outputs_drawn(self, call: ModelCall, size: float, turn: int) -> list[np.ndarray]:
        """Run a model in inference mode with other weights, drawn at random, biases too.

        Args:
            call: The call that gives the arguments.
            size: The standard deviation of the weights.
            turn: Which draw.
        """
        draw = np.random.default_rng(turn)
        weights = self.tracked.of_kind("trainable")
        with preserved(self.tracked.state):
            drawn = [draw.normal(0.0, size, v.shape).astype(v.dtype) for v in snapshot(weights)]
            restore(weights, drawn)
            return self.outputs_now(call)

    def training_redrawn(self, turn: int) -> Recording:
        """Return what `train_step` does with other weights; see `redrawn`."""
        if turn not in self._redrawn:
            with self.redrawn(turn):
                self._redrawn[turn] = self.training_now()
        return self._redrawn[turn]

    def training_now(self) -> Recording:
        """Return what `train_step` does with the weights as they are now."""
        return record(self.step, "train_step", self.batch, self.tracked, ())

    def training_on(self, batch: Batch) -> Recording | None:
        """Return what `train_step` does with another batch now; `None` if it rejects it."""
        try:
            tensors = _backends.current().tensors(batch)
            return record(self.step, "train_step", tensors, self.tracked, ())
        except Exception:
            return None

    def is_by_chance(self, shows: Callable[[Recording], bool]) -> bool:
        """Return whether most other draws of the weights do not show what these weights do.

        Args:
            shows: Whether a recording of `train_step` shows it.
        """
        return not self.is_of_most_draws(lambda turn: shows(self.training_redrawn(turn)))

    def is_of_most_draws(self, shows: Callable[[int], Any]) -> bool:
        """Return whether at least half of some other draws of the weights show something.

        Args:
            shows: Whether a draw does, given its number, which is the `turn` of `redrawn`.
        """
        return sum(bool(shows(turn)) for turn in range(_DRAWS)) >= _DRAWS / 2

    def loss(
        self, batch: Batch, times: int | None = None, change_weights: bool = False
    ) -> float | None:
        """Return the mean loss of a training step on another batch, from the same state.

        Args:
            batch: Arrays.
            times: How often the batch holds each example. With `None` the default applies: twice
                where each size is compiled separately, so that one size serves all rules.
            change_weights: Whether the weights have other values, the same in each call.

        Returns:
            The value logged as `loss`; `None` if there is none, or if the step rejects a batch with
            other data or another size.
        """
        rehearsal = self.training.rehearsal
        if rehearsal is None or "loss" not in rehearsal.kinds:
            return None
        times = times or self._times
        held = batch if times == 1 else repeated(batch, times)
        try:
            tensors = _backends.current().tensors(held)
            parts = self.probe(tensors, change_weights=change_weights)["loss"]
        except Exception:
            if batch is self.batches[0] and times == 1:
                raise
            return None
        return float(np.mean(divided(parts, self.training.are_bare["loss"])))

    @cached_property
    def _times(self) -> int:
        if not _backends.current().capabilities.compiles_operations or not self.size:
            return 1
        return 1 if self.loss(self.batches[0], 2) is None else 2

    @cached_property
    def is_repeatable(self) -> bool:
        """Whether two equal training steps have one loss."""
        first = self.loss(self.batches[0])
        return first is not None and np.isfinite(first) and first == self.loss(self.batches[0])

    def outputs(self, call: ModelCall, inputs: Any) -> list[np.ndarray]:
        """Run a model in inference mode on inputs like those of a call, on the host.

        Args:
            call: The call that gives all arguments except the first.
            inputs: The first argument.

        Returns:
            Nothing if the model rejects other inputs than those of the call.
        """
        return self._traced(call)[1] if inputs is call.inputs else self._on(call, inputs)[1]

    def outputs_now(self, call: ModelCall) -> list[np.ndarray]:
        """Run a model in inference mode on the inputs of a call, with its current weights."""
        return self._inference(call, call.inputs)[1]

    def inside_on(self, call: ModelCall, inputs: Any) -> list[Inner]:
        """Return what each layer inside returns on other inputs; nothing if they are rejected."""
        return self._on(call, inputs)[0]

    def inside(self, call: ModelCall) -> list[Inner]:
        """Run a model in inference mode, and return what each layer inside it returned."""
        return self._traced(call)[0]

    def _on(self, call: ModelCall, inputs: Any) -> tuple[list[Inner], list[np.ndarray]]:
        try:
            return self._inference(call, inputs)
        except Exception:  # numbers may be ids, or places
            return [], []

    def _traced(self, call: ModelCall) -> tuple[list[Inner], list[np.ndarray]]:
        if id(call) not in self._traces:
            self._traces[id(call)] = self._inference(call, call.inputs)
        return self._traces[id(call)]

    def _inference(self, call: ModelCall, inputs: Any) -> tuple[list[Inner], list[np.ndarray]]:
        assert call.args is not None
        arguments = _Arguments((inputs, *call.args[1:]), call.kwargs)
        key = id(call.layer), arguments.like
        known = self._inferences.get(key)
        if known is None:
            known = self._inferences[key] = _Inference(call.layer, self.tracked, arguments)
        return known(arguments.arrays)


class _Arguments:
    """The arguments of a layer's call: arrays, and their places among the rest.

    Attributes:
        arrays: The arrays, in order.
        like: A text that is equal for arguments with the same structure and the same other values.
    """

    def __init__(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._tree = args, kwargs
        self._flat: list[Any] = keras.tree.flatten(self._tree)
        self._places = [i for i, leaf in enumerate(self._flat) if isinstance(leaf, np.ndarray)]
        self.arrays: list[np.ndarray] = [self._flat[index] for index in self._places]
        rest = ["array" if i in self._places else repr(x) for i, x in enumerate(self._flat)]
        empty = keras.tree.map_structure(lambda _: None, self._tree)
        self.like: str = repr((empty, rest))

    def packed(self, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments with these tensors in place of the arrays."""
        known = dict(zip(self._places, tensors, strict=True))
        leaves = [known.get(index, leaf) for index, leaf in enumerate(self._flat)]
        return keras.tree.pack_sequence_as(self._tree, leaves)


_LOOPS = (keras.layers.RNN, keras.layers.TimeDistributed)
"""Layers that call an inner layer once for each position of a sequence."""


class _Inference:
    """A model in inference mode, and what each layer inside it returns.

    Layers called in a loop are skipped: no tensor can leave a compiled loop.
    """

    def __init__(self, layer: Any, tracked: Tracked, arguments: _Arguments) -> None:
        self._layer, self._tracked, self._arguments = layer, tracked, arguments
        self._inside: list[Any] = []
        self._looks_inside, self._loops = True, 0
        self._run = self._compiled()

    def _compiled(self) -> Compiled:
        backend = _backends.current()
        mode: Mode = "graph" if backend.capabilities.compiles_operations else "eager"
        return backend.compile(self._tensors, self._tracked.variables, mode, is_probe=True)

    def __call__(self, arrays: Sequence[np.ndarray]) -> tuple[list[Inner], list[np.ndarray]]:
        """Run it on arrays in place of those that it was called with; restore everything."""
        tensors = _backends.current().tensors(list(arrays))
        with preserved(self._tracked.state):
            try:
                inside, outputs = self._run(tensors)
            except Exception:
                if not self._inside:
                    raise
                # Perhaps because of listening inside: a user's layer may have its own loop.
                self._looks_inside, self._run = False, self._compiled()
                inside, outputs = self._run(tensors)
            found = zip(self._inside, inside, strict=True)
            inner = [Inner(layer, _arrays(given), _arrays(made)) for layer, (given, made) in found]
            return inner, _arrays(outputs)

    def _tensors(self, tensors: Sequence[Any]) -> Any:
        inside: list[Any] = []
        self._inside.clear()

        def listen(original: Any, layer: Any, *args: Any, **kwargs: Any) -> Talk:
            is_loop = isinstance(layer, _LOOPS)
            self._loops += is_loop
            try:
                returned = yield
            finally:
                self._loops -= is_loop
            if layer is not self._layer and not self._loops and self._looks_inside:
                self._inside.append(layer)
                inside.append((_tensors(args[:1]), _tensors(returned)))

        with listening(keras.Layer, "__call__", listen):
            args, kwargs = self._arguments.packed(tensors)
            mode = {"training": False} if takes_training(self._layer) else {}
            returned = self._layer(*args, **kwargs, **mode)
        return inside, _tensors(returned)


def _redrawn(draw: np.random.Generator, value: np.ndarray) -> np.ndarray:
    """Return the values of a weight in another order, and with other signs if it has both."""
    other = draw.permutation(value.reshape(-1)).reshape(value.shape)
    if not value.size or not value.min() < 0 < value.max():
        return other
    return other * draw.choice([-1, 1], value.shape).astype(value.dtype)


def _may_weigh(labels: Any, weights: Any) -> bool:
    """Return whether a third part of a batch may be weights: none, or one for each label or row."""
    if weights is None or keras.tree.is_nested(weights):
        return weights is None
    shape = np.shape(weights)
    is_of_rows = len(shape) < 2 or (len(shape) == 2 and shape[1] == 1)
    return is_of_rows or shape == np.shape(labels)[: len(shape)]


def rows_of(leaf: Any) -> np.ndarray:
    """Return a leaf that is an array or a number; an empty array for others."""
    known = isinstance(leaf, np.ndarray | np.generic | int | float | bool | complex)
    return np.asarray(leaf) if known else np.empty(0, "object")


def repeated(batch: Batch, times: int) -> Batch:
    """Return a batch that holds each example `times` times."""
    return keras.tree.map_structure(lambda leaf: np.concatenate([np.asarray(leaf)] * times), batch)


def _tensors(tree: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(tree) if _backends.current().is_tensor(leaf)]


def _arrays(tensors: Sequence[Any]) -> list[np.ndarray]:
    return [np.asarray(keras.ops.convert_to_numpy(tensor)) for tensor in tensors]
