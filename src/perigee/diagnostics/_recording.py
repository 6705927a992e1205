"""What a method of a Step did on a batch: calls, values, gradients and changes of state."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import keras
import numpy as np
from keras import layers as kl

from perigee import _backends
from perigee._errors import UnusedVariablesError
from perigee._listening import Call, Listener, Talk, listening
from perigee._rehearsal.discovery import Rehearsal, rehearse
from perigee._rehearsal.recorder import LossCall, Observer
from perigee._step.averages import Average
from perigee._step.frame import Method, current_frame
from perigee._step.gradients import Gradients
from perigee._step.losses import BY_HAND, loss_like
from perigee._step.masks import mask_of
from perigee._step.samples import Sample
from perigee._step.state import Tracked, host_random, snapshot
from perigee._step.step import Step
from perigee._step.updates import inner_of
from perigee._typing import Batch

_SIGNATURES = {name: inspect.signature(getattr(keras.ops, name)) for name in BY_HAND}

_MEANS = ("sum_over_batch_size", "mean")
"""How Keras's losses call the mean over the rows."""

DRAWING = (
    kl.Dropout,
    kl.SpatialDropout1D,
    kl.SpatialDropout2D,
    kl.SpatialDropout3D,
    kl.AlphaDropout,
    kl.GaussianDropout,
    kl.GaussianNoise,
)
"""Layers that change their inputs at random, in training mode only."""

AUGMENTING = tuple(
    kind
    for name, kind in sorted(vars(kl).items())
    if name.startswith("Random") and isinstance(kind, type) and issubclass(kind, keras.Layer)
)
"""Keras's layers for images that do so, such as `RandomFlip`."""


@dataclass(slots=True)
class ModelCall:
    """A call of a layer by the step itself, not by another layer.

    Attributes:
        layer: The layer that was called, usually a model.
        training: The argument `training`; `None` if it was not given.
        args: The positional arguments, tensors on the host; `None` if the values are not known.
        kwargs: The keyword arguments, without `training`, with the mask that the first argument
            carried.
        outputs: What it returned, on the host, flat.
    """

    layer: Any
    training: Any
    args: tuple[Any, ...] | None = None
    kwargs: dict[str, Any] = field(default_factory=dict)
    outputs: list[np.ndarray] = field(default_factory=list)

    @property
    def inputs(self) -> Any:
        """Its first argument; `None` if it is not known, or is not only arrays."""
        if not self.args:
            return None
        flat = keras.tree.flatten(self.args[0])
        return self.args[0] if all(isinstance(leaf, np.ndarray) for leaf in flat) else None


@dataclass(slots=True)
class Compared:
    """Labels and predictions that a loss or a metric was given.

    Attributes:
        by: The loss or the metric; for a function of `keras.ops`, an equal loss object.
        y_true: Labels, on the host.
        y_pred: Predictions, on the host.
        is_by_hand: Whether a function of `keras.ops` was called, which returns one value per
            example.
    """

    by: Any
    y_true: np.ndarray
    y_pred: np.ndarray
    is_by_hand: bool = False


@dataclass(slots=True)
class Update:
    """What an optimizer was given.

    Attributes:
        optimizer: Which one.
        variables: What it updates.
        gradients: One array for each variable, on the host.
        is_conditional: Whether it was applied only under a condition.
        is_altered: Whether the gradients differ from those that were computed.
        unreached: Variables for which it was given no gradient.
        sparse: Variables whose gradients have one slice for each use of a row.
    """

    optimizer: Any
    variables: Sequence[Any]
    gradients: list[np.ndarray] = field(default_factory=list)
    is_conditional: bool = False
    is_altered: bool = False
    unreached: Sequence[Any] = ()
    sparse: Sequence[Any] = ()

    @property
    def inner(self) -> Any:
        """The optimizer without a loss scale."""
        return inner_of(self.optimizer)

    @property
    def pairs(self) -> list[tuple[Any, np.ndarray]]:
        """Each variable with its gradient; empty where the gradients are not known."""
        if len(self.gradients) != len(self.variables):
            return []
        return list(zip(self.variables, self.gradients, strict=True))


@dataclass(slots=True)
class Derived:
    """Gradients as they were computed, before any change.

    Attributes:
        variables: What the loss was differentiated for.
        gradients: One array for each variable, on the host.
        rows: The number of rows over which the loss is a mean, if a Keras loss returned the very
            value that was differentiated; else 0.
        loss: The value that was differentiated; `None` if it is not known or is not one number.
    """

    variables: Sequence[Any]
    gradients: list[np.ndarray] = field(default_factory=list)
    rows: int = 0
    loss: float | None = None


@dataclass(frozen=True, slots=True)
class Lookup:
    """The ids that an `Embedding` was given.

    Attributes:
        layer: The layer.
        ids: The ids, on the host.
    """

    layer: Any
    ids: np.ndarray


@dataclass(slots=True)
class Recording:
    """What one method did on a batch.

    Attributes:
        calls: The calls of layers by the step itself, in order.
        losses: The comparisons of Keras losses, in order.
        compared: The comparisons of metrics, in order.
        updates: What optimizers were given.
        derived: Gradients as they were computed, by Perigee or by a gradient tape.
        lookups: The ids given to embeddings. Ids out of range are clipped meanwhile.
        called: Layers that were called, by id, wherever they are.
        strange: Trainable variables of layers inside models that the Step does not hold.
        averaged: Means that took the mean of a batch without its size, by id.
        draws: Random generators on the host that were used, by name.
        drew: Random layers that changed their inputs, by id, wherever they are.
        adds_losses: Whether penalties were added to some loss, by Perigee or by the step itself.
        measured: Metrics that were updated, by id.
        told: What each update of a metric was given by position, if that was tensors alone, by the
            id of the metric, on the host.
        before: Values of all variables before, by id, where known.
        after: Their values afterwards.
        logs: What was returned, on the host; averages divided.
        are_bare: For each term of a returned average, whether it has no count.
        rehearsal: The rehearsal of the method; `None` if it did not finish.
    """

    calls: list[ModelCall] = field(default_factory=list)
    losses: list[Compared] = field(default_factory=list)
    compared: list[Compared] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    derived: list[Derived] = field(default_factory=list)
    lookups: list[Lookup] = field(default_factory=list)
    called: set[int] = field(default_factory=set)
    strange: dict[int, Any] = field(default_factory=dict)
    averaged: dict[int, Any] = field(default_factory=dict)
    draws: list[str] = field(default_factory=list)
    drew: set[int] = field(default_factory=set)
    adds_losses: bool = False
    measured: set[int] = field(default_factory=set)
    told: dict[int, list[list[np.ndarray]]] = field(default_factory=dict)
    before: dict[int, np.ndarray] = field(default_factory=dict)
    after: dict[int, np.ndarray] = field(default_factory=dict)
    logs: dict[str, np.ndarray] = field(default_factory=dict)
    are_bare: dict[str, Sequence[bool]] = field(default_factory=dict)
    rehearsal: Rehearsal | None = None

    def changed(self, variable: Any) -> bool:
        """Return whether the method changed the value of a variable."""
        old, new = self.before.get(id(variable)), self.after.get(id(variable))
        return old is not None and new is not None and old.tobytes() != new.tobytes()


def record(
    step: Step,
    method: Method,
    batch: Batch,
    tracked: Tracked,
    observers: Sequence[Observer],
    computes: bool = True,
) -> Recording:
    """Run a method once, record what it does, and restore everything.

    Args:
        step: The Step, built.
        method: The name of the method.
        batch: Tensors.
        tracked: What the Step holds.
        observers: Called with each call of a loss, also with those of functions of `keras.ops`.
        computes: As in `rehearse`.
    """
    recording = Recording()
    witness = _Listening(step, tracked, recording, observers)
    with witness.on():
        recording.rehearsal = rehearse(
            step, method, batch, observers=observers, computes=computes, witness=witness
        )
    return recording


class _Listening:
    """Records the observed calls of Keras, and what a recorder sees; see `Witness`."""

    def __init__(
        self, step: Step, tracked: Tracked, recording: Recording, observers: Sequence[Observer]
    ) -> None:
        self._step, self._tracked, self._recording = step, tracked, recording
        self._observers = observers
        self._depth = 0
        self._held: set[int] = set()
        self._hidden: set[int] = set()
        self._host: dict[str, str] = {}
        self._kept: list[Sequence[Any]] = []
        self._means: list[tuple[Any, int]] = []

    @contextmanager
    def on(self) -> Generator[None]:
        recording = self._recording
        entries = self._tracked.entries
        values = snapshot([entry.variable for entry in entries])
        recording.before = {id(e.variable): v for e, v in zip(entries, values, strict=True)}
        self._held = {id(entry.variable) for entry in entries if entry.is_listed}
        hidden = [entry.variable for entry in entries if not entry.is_listed]
        self._hidden = {id(variable) for variable in hidden if variable.trainable}
        self._host = _host_generators(self._step)
        heard: list[tuple[Any, str, Listener]] = [
            (keras.Layer, "__call__", self._layer_call),
            (keras.Layer, "stateless_call", self._stateless_call),
            (keras.losses.Loss, "__call__", self._loss_call),
            (keras.Layer, "losses", self._losses),
            *((keras.ops, name, partial(self._function, name)) for name in BY_HAND),
        ]
        for metric in _all_metrics(self._tracked):
            heard.append((metric, "update_state", partial(self._update, metric)))
        with ExitStack() as stack:
            for owner, name, listener in heard:
                stack.enter_context(listening(owner, name, listener))
            yield

    # What a recorder sees.

    def derived(self, gradients: Gradients, adds_losses: bool) -> None:
        """See `Witness`."""
        self._recording.adds_losses |= adds_losses
        self._kept.append(gradients.values)  # so that their ids are not reused
        pairs = zip(gradients.variables, gradients.values, strict=True)
        derived = Derived([variable for variable, value in pairs if value is not None])
        derived.rows = next((n for mean, n in self._means if mean is gradients.loss), 0)
        self._recording.derived.append(derived)
        known = [value for value in gradients.values if value is not None]
        values = [_backends.current().dense(value) for value in known]
        look(values, lambda *arrays: setattr(derived, "gradients", list(arrays)))
        if _is_tensor(gradients.loss) and len(gradients.loss.shape) == 0:
            look([gradients.loss], lambda value: setattr(derived, "loss", float(value)))

    def applied(self, optimizer: Any, gradients: Gradients, is_conditional: bool) -> None:
        """See `Witness`.

        Raises:
            UnusedVariablesError: If there is no gradient at all.
        """
        if all(value is None for value in gradients.values):
            names = self._tracked.names_of(gradients.variables)
            raise UnusedVariablesError(names, len(names))
        pairs = list(zip(gradients.values, gradients.variables, strict=True))
        self._updates(optimizer, pairs, is_conditional)

    def returned(self, logs: Mapping[str, Any]) -> None:
        """See `Witness`."""
        now = _host_generators(self._step)
        self._recording.draws += [name for name in now if now[name] != self._host[name]]
        variables = self._tracked.variables
        look(
            [keras.ops.convert_to_tensor(v) for v in variables],
            lambda *values: self._recording.after.update(
                {id(v): value for v, value in zip(variables, values, strict=True)}
            ),
        )
        for name, value in logs.items():
            if isinstance(value, Sample):
                continue
            terms = value.terms if isinstance(value, Average) else ()
            parts = [p for t in terms for p in (t.total, t.count) if p is not None]
            if not terms:
                parts = [keras.ops.convert_to_tensor(value)]
            self._recording.are_bare[name] = [t.count is None for t in terms]
            look(parts, partial(self._logged, name))

    def _logged(self, name: str, *parts: np.ndarray) -> None:
        self._recording.logs[name] = divided(parts, self._recording.are_bare[name])

    # Calls of Keras.

    def _layer_call(self, original: Any, layer: Any, *args: Any, **kwargs: Any) -> Talk:
        if not _is_recorded():
            yield
            return
        if isinstance(layer, kl.Embedding) and args and _is_tensor(args[0]):
            args = (self._looked_up(layer, args[0]), *args[1:])
        self._depth += 1
        try:
            outputs = yield Call(original, (layer, *args), kwargs)
        finally:
            self._depth -= 1
        self._recording.called.add(id(layer))
        if self._depth:
            # On JAX, Keras's own steps pass hidden variables as if they were not trained.
            weights = [v for v in layer.trainable_variables if id(v) not in self._held]
            weights += [v for v in layer.variables if id(v) in self._hidden]
            self._recording.strange |= {id(v): v for v in weights}
        self._called(layer, args, kwargs, outputs)
        if (
            isinstance(layer, (*DRAWING, *AUGMENTING))
            and args
            and _is_tensor(args[0])
            and _is_tensor(outputs)
        ):
            look((args[0], outputs), partial(self._drawn, layer))

    def _looked_up(self, layer: Any, ids: Any) -> Any:
        look((ids,), lambda values: self._recording.lookups.append(Lookup(layer, values)))
        return keras.ops.clip(ids, 0, layer.input_dim - 1)

    def _drawn(self, layer: Any, before: np.ndarray, after: np.ndarray) -> None:
        before = before.astype(after.dtype)  # a layer may compute in half precision
        if not np.array_equal(before, after, equal_nan=before.dtype.kind in "fc"):
            self._recording.drew.add(id(layer))

    def _stateless_call(
        self, original: Any, layer: Any, trainable: Any, others: Any, *args: Any, **kwargs: Any
    ) -> Talk:
        if not _is_recorded():
            yield
            return
        self._depth += 1
        try:
            returned = yield
        finally:
            self._depth -= 1
        if kwargs.pop("return_losses", False) and self._depth == 0:
            self._recording.adds_losses = True
        self._called(layer, args, kwargs, returned[0])

    def _called(
        self, layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any], outputs: Any
    ) -> None:
        if self._depth:
            return
        call = ModelCall(layer, _training(layer, args, kwargs))
        self._recording.calls.append(call)
        self._depth += 1  # masks are read by a layer
        try:
            given = _for_inference(layer, args, kwargs)
        finally:
            self._depth -= 1
        if given is not None:
            _look_at_tree(given, lambda tree: _set_given(call, tree))
        flat = [t for t in keras.tree.flatten(outputs) if _is_tensor(t)]
        look(flat, lambda *arrays: setattr(call, "outputs", list(arrays)))

    def _loss_call(
        self, original: Any, loss: Any, y_true: Any, y_pred: Any, *args: Any, **kwargs: Any
    ) -> Talk:
        meant = getattr(loss, "perigee_stands_for", loss)
        if meant is not None and _is_recorded():
            self._compare(self._recording.losses, meant, y_true, y_pred)
        value = yield
        rows = getattr(y_true, "shape", ())[:1]
        if rows and meant is not None and meant.reduction in _MEANS:
            self._means.append((value, rows[0]))

    def _function(self, name: str, original: Any, *args: Any, **kwargs: Any) -> Talk:
        if _is_recorded():
            given = dict(_SIGNATURES[name].bind(*args, **kwargs).arguments)
            like = loss_like(name, given)
            if like is not None:
                target, output = given["target"], given["output"]
                self._compare(self._recording.losses, like, target, output, is_by_hand=True)
                if _is_tensor(target) and _is_tensor(output):
                    for observe in self._observers:
                        observe(LossCall(like, target, output))
        yield

    def _losses(self, original: Any, layer: keras.Layer) -> Talk:
        if self._depth == 0:
            self._recording.adds_losses = True
        yield

    def _updates(
        self, optimizer: Any, pairs: Sequence[tuple[Any, Any]], is_conditional: bool
    ) -> None:
        if not _is_recorded():
            return
        known = [(value, variable) for value, variable in pairs if value is not None]
        computed = {id(value) for values in self._kept for value in values}
        update = Update(
            optimizer,
            [v for _, v in known],
            is_conditional=is_conditional,
            is_altered=any(id(value) not in computed for value, _ in known),
            unreached=[v for value, v in pairs if value is None],
        )
        self._recording.updates.append(update)
        values = [_backends.current().dense(value) for value, _ in known]
        update.sparse = [
            variable
            for (given, variable), value in zip(known, values, strict=True)
            if not _is_tensor(given) and _is_tensor(value)
        ]
        look(values, lambda *arrays: setattr(update, "gradients", list(arrays)))

    def _update(self, metric: Any, original: Any, *args: Any, **kwargs: Any) -> Talk:
        self._recording.measured.add(id(metric))
        if _is_recorded():
            told = self._recording.told.setdefault(id(metric), [])
            if kwargs or not args or not all(map(_is_tensor, args)):
                told.append([])
            else:
                look(args, lambda *arrays: told.append(list(arrays)))
        if _is_recorded() and len(args) >= 2:
            self._compare(self._recording.compared, metric, args[0], args[1])
        value = args[0] if len(args) == 1 else kwargs.get("values")
        is_single = value is not None and len(getattr(value, "shape", ())) == 0
        is_mean = type(metric) is keras.metrics.Mean and kwargs.get("sample_weight") is None
        if is_single and is_mean:
            self._recording.averaged[id(metric)] = metric
        yield

    def _compare(
        self, into: list[Compared], by: Any, y_true: Any, y_pred: Any, is_by_hand: bool = False
    ) -> None:
        if _is_tensor(y_true) and _is_tensor(y_pred):
            look(
                (y_true, y_pred),
                lambda true, pred: into.append(Compared(by, true, pred, is_by_hand)),
            )


def divided(parts: Sequence[Any], are_bare: Sequence[bool]) -> np.ndarray:
    """Return the value of an average from its parts; other values are returned unchanged."""
    if not are_bare:
        return np.asarray(parts[0], "float64")
    waiting = list(parts)
    total = np.zeros((), "float64")
    for is_bare in are_bare:
        value = np.asarray(waiting.pop(0), "float64")
        count = 1.0 if is_bare else np.asarray(waiting.pop(0), "float64")
        total = total + (value / count if np.any(count) else 0.0)
    return total


def look(tensors: Sequence[Any], at: Callable[..., None]) -> None:
    """Call `at` with values on the host, during a rehearsal; see `Backend.observe`."""
    _backends.current().observe(tuple(tensors), at)


def _look_at_tree(tree: Any, at: Callable[[Any], None]) -> None:
    """Call `at` with a tree whose tensors are arrays on the host; other leaves stay."""
    flat = keras.tree.flatten(tree)
    places = [index for index, leaf in enumerate(flat) if _is_tensor(leaf)]

    def pack(*arrays: np.ndarray) -> None:
        known = dict(zip(places, arrays, strict=True))
        leaves = [known.get(index, leaf) for index, leaf in enumerate(flat)]
        at(keras.tree.pack_sequence_as(tree, leaves))

    look([flat[index] for index in places], pack)


def _for_inference(
    layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the arguments of a call, changed to inference mode.

    Without `training`, with the first one by position, and with the mask that it carries. `None` if
    they do not fit the layer's `call`.
    """
    signature = inspect.signature(layer.call)
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return None
    names, given, named = list(signature.parameters), list(args), dict(kwargs)
    named.pop("training", None)
    if not given and names and names[0] in named:
        given = [named.pop(names[0])]
    if "mask" in signature.parameters and named.get("mask") is None and given:
        mask = mask_of(given[0]) if _is_tensor(given[0]) else None
        named |= {} if mask is None else {"mask": mask}
    return tuple(given), named


def _set_given(call: ModelCall, given: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    call.args, call.kwargs = given


def _is_tensor(value: Any) -> bool:
    return _backends.current().is_tensor(value)


def _is_recorded() -> bool:
    frame = current_frame()
    return frame is not None and frame.recorder is not None


def _host_generators(step: Step) -> dict[str, str]:
    """Return the states of the generators on the host, as text: global ones and the Step's own."""
    python, numpy = host_random()
    states = {"random": repr(python), "numpy.random": f"{numpy[1].tobytes()} {numpy[2:]}"}
    for name, value in step._held().items():
        if isinstance(value, np.random.Generator):
            states[f"self.{name}"] = repr(value.bit_generator.state)
    return states


def _training(layer: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    if "training" in kwargs:
        return kwargs["training"]
    try:
        return inspect.signature(layer.call).bind(*args, **kwargs).arguments.get("training")
    except TypeError:
        return None


def takes_training(layer: Any) -> bool:
    """Return whether a layer's `call` has an argument `training`."""
    return "training" in inspect.signature(layer.call).parameters


def _all_metrics(tracked: Tracked) -> list[Any]:
    """Return the metrics of a Step, including those inside Keras's own containers."""
    found: dict[int, Any] = {}
    for metric in tracked.metrics.values():
        for one in (metric, *(getattr(metric, "metrics", None) or ())):
            found[id(one)] = one
    return list(found.values())
