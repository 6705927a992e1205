"""The objects and variables that a Step holds, found and named by attribute path."""

import copy
import dataclasses
import random
import re
from collections import Counter, deque
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterator,
    Mapping,
    MutableMapping,
    Sequence,
)
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import keras
import numpy as np

from perigee import _backends
from perigee._backends import StateObject
from perigee._errors import ForeignKerasError
from perigee._step.own_code import is_own_class

Kind = Literal["trainable", "non_trainable", "metric", "seed", "optimizer", "variable"]

INTERNALS = "_perigee"
"""Attribute for Perigee's own state on a Step; not searched like the others."""


_BESIDE = "perigee/batch_means/"

PLAIN = int | float | str | bytes | bool | type(None) | np.generic
"""Types of plain Python values."""


_MOST_BYTES_COPIED = 2**24
"""The size of an array of NumPy up to which a step that is only tried may write into it."""


class Holder:
    """An object whose attributes are searched for models, optimizers, metrics and variables."""

    def _held(self) -> Mapping[str, Any]:
        """Return what is searched, by name."""
        return vars(self)

    def _names(self) -> MutableMapping[str, Any]:
        """Return where plain values are stored that a step may change: not those of Perigee's."""
        return {} if type(self).__module__.partition(".")[0] == "perigee" else vars(self)


@dataclass(frozen=True, slots=True)
class Entry:
    """One variable of a Step.

    Attributes:
        key: Attribute path of the owner, index among its variables, and the variable's name
            without the numbers that Keras adds (`dense_1`); for an optimizer's slot, only its
            purpose (`momentum`). It is the same for every instance, in every process and on every
            backend, and unique among the entries.
        name: The readable name: the attribute path and the variable's own path in the owner.
        variable: The variable itself.
        kind: Its role.
        is_listed: Whether Keras lists it among the variables of its layer, or the Step itself holds
            it. Keras does not list the states of recurrent layers, nor variables in containers that
            it does not search.
    """

    key: str
    name: str
    variable: Any
    kind: Kind
    is_listed: bool = True


@dataclass(frozen=True, slots=True)
class Tracked:
    """Everything that a Step holds, in the order of its attributes; each object once.

    Attributes:
        entries: Every variable.
        models: Models and layers by attribute path.
        optimizers: Optimizers by attribute path.
        metrics: Metrics by attribute path, including those inside models and layers.
        plain: Python values by attribute path: constants of a compiled step.
        tensors: Tensors held as attributes, by attribute path.
        objects: State outside variables, by attribute path, if steps run as Python code: of
            optimizers and schedulers of the framework, and attributes of objects.
    """

    entries: tuple[Entry, ...]
    models: Mapping[str, keras.Layer]
    optimizers: Mapping[str, keras.optimizers.Optimizer]
    metrics: Mapping[str, keras.Metric]
    plain: Mapping[str, Any]
    tensors: Mapping[str, Any]
    objects: Mapping[str, StateObject]

    @property
    def variables(self) -> list[Any]:
        """Every variable, in order."""
        return [entry.variable for entry in self.entries]

    @property
    def state(self) -> list[Any]:
        """Every variable and the state outside variables, as `snapshot` and `restore` take them."""
        return [*self.variables, *self.objects.values()]

    def of_kind(self, *kinds: Kind) -> list[Any]:
        """Return the variables of these kinds, in order."""
        return [entry.variable for entry in self.entries if entry.kind in kinds]

    def name_of(self, variable: Any) -> str:
        """Return the readable path of a variable; its own path if nothing holds it."""
        for entry in self.entries:
            if entry.variable is variable:
                return entry.name
        return str(getattr(variable, "path", None) or getattr(variable, "name", variable))

    def names_of(self, variables: Sequence[Any]) -> list[str]:
        """Return the readable paths of variables."""
        names = {id(entry.variable): entry.name for entry in self.entries}
        return [names.get(id(v)) or self.name_of(v) for v in variables]

    def path_of(self, thing: Any) -> str:
        """Return the attribute path of an optimizer, model or metric; its own name if not held."""
        for held in (self.optimizers, self.models, self.metrics):
            for path, other in held.items():
                if other is thing:
                    return path
        return str(getattr(thing, "name", thing))


def track(root: Holder, as_python: bool = False) -> Tracked:
    """Find everything that `root` holds.

    Attributes are searched in the order in which they were set, including lists, tuples, dicts,
    objects of users' own classes and other Steps. An object reached twice belongs to the first
    path. State of layers that Keras does not list comes last, so that it does not claim an object
    of another path.

    Args:
        root: The Step.
        as_python: Whether its attributes are state although its steps are compiled.

    Raises:
        ForeignKerasError: If it holds an object of Keras 2.
    """
    search = _searched(root, as_python)
    return Tracked(
        tuple(_with_stable_keys(search.entries)),
        search.models,
        search.optimizers,
        search.metrics,
        search.plain,
        search.tensors,
        search.objects,
    )


def fingerprint(root: Holder) -> tuple[Any, ...]:
    """Return what a compiled step depends on: it must be recompiled when this changes.

    It is compared in every epoch, so it makes no names.
    """
    search = _searched(root)
    variables = [
        (e.key, id(e.variable), bool(e.variable.trainable), e.kind)
        for e in search.entries
        if not e.key.startswith(_BESIDE)  # those of one method do not change another
    ]
    optimizers = [(path, id(optimizer)) for path, optimizer in search.optimizers.items()]
    optimizers += [(path, id(found)) for path, found in search.objects.items()]
    return tuple(variables), tuple(optimizers), tuple(search.plain.items())


@dataclass(slots=True)
class _Search:
    runs_as_python: bool
    entries: list[Entry] = field(default_factory=list)
    models: dict[str, Any] = field(default_factory=dict)
    optimizers: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, keras.losses.Loss] = field(default_factory=dict)
    holders: list[Any] = field(default_factory=list)
    objects: dict[str, StateObject] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)

    def holder(self, holder: Holder, path: str) -> None:
        if id(holder) in self._seen:
            return
        self._seen.add(id(holder))
        self.holders.append(holder)
        self._attributes(holder, path, type(holder)._names)
        for name, value in holder._held().items():
            if name == INTERNALS:
                for key, variable in value.variables.items():
                    self._variable(variable, f"perigee/{_join(path, key)}", 0, "variable")
            else:
                self.value(value, _join(path, name))

    def value(self, value: Any, path: str) -> None:
        if isinstance(value, Holder):
            self.holder(value, path)
        elif isinstance(value, keras.Layer):
            self._layer(value, path)
        elif isinstance(value, keras.losses.Loss):
            self.losses[path] = value
            self.plain[path] = id(value)
        elif isinstance(value, keras.optimizers.Optimizer):
            self._optimizer(value, path)
        elif isinstance(value, keras.Metric):
            self._metric(value, path)
        elif isinstance(value, keras.random.SeedGenerator):
            self._variable(value.state, path, 0, "seed")
        elif isinstance(value, keras.Variable):
            self._variable(value, path, 0, "trainable" if value.trainable else "variable")
        elif (adapted := _backends.current().as_keras_variable(value)) is not None:
            self._variable(adapted, path, 0, adapted.kind)
        elif isinstance(value, Mapping):
            for index, (key, item) in enumerate(value.items()):
                self.value(item, _join(path, _key_name(key, index)))
        elif isinstance(value, list | tuple | deque):
            for index, item in enumerate(value):
                self.value(item, _join(path, str(index)))
        elif isinstance(value, PLAIN):
            self.plain[path] = value
        else:
            _refuse_keras_2(value, path)
            if _backends.current().is_tensor(value):
                self.tensors[path] = value
            self.plain[path] = id(value)
            state = _backends.current().state_object(value) if self.runs_as_python else None
            if state is not None and all(state is not o for o in self.objects.values()):
                self.objects[path] = state
            if _holding(value.__class__) in ("dataclass", "object"):
                self._object(value, path, has_state=state is not None)
            else:
                for name, tensor in _backends.current().tensors_in(value).items():
                    self.tensors[_join(path, name)] = tensor

    def _object(self, value: Any, path: str, has_state: bool) -> None:
        """Search an object of a user's class for what the Step holds through it.

        Its plain values may be no business of the step, such as those of an environment.
        """
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        if hasattr(value, "__dict__"):
            self.holders.append(value)
            if not has_state:
                self._attributes(value, path, vars)
        plain, self.plain = self.plain, {}
        for name, member in attributes_of(value).items():
            self.value(member, _join(path, name))
        self.plain = plain

    def _attributes(
        self, owner: Any, path: str, names: Callable[[Any], MutableMapping[str, Any]]
    ) -> None:
        if self.runs_as_python:
            self.objects[path] = _backends.current().attributes(owner, names)

    def _layer(self, layer: keras.Layer, path: str) -> None:
        if id(layer) in self._seen:
            return
        self._seen.add(id(layer))
        self.models[path] = layer
        trainable = {id(v) for v in _backends.current().unfrozen(layer.trainable_variables)}
        weights = {id(v) for v in layer.weights}
        for index, variable in enumerate(layer.variables):
            kind: Kind = (
                "trainable"
                if id(variable) in trainable
                else "non_trainable"
                if id(variable) in weights
                else "seed"
            )
            self._variable(variable, path, index, kind, within=layer.name)
        for index, metric in enumerate(layer.metrics):
            # The place, since the name may be one that Keras generated.
            self._metric(metric, _join(path, metric.name), place=_join(path, f"metrics/{index}"))

    def unlisted(self) -> None:
        """Add the state inside layers and losses that Keras does not list."""
        for path, owner in {**self.models, **self.losses}.items():
            layers: list[keras.Layer] = []
            for index, (_, variable, kind) in enumerate(_unlisted(owner, layers)):
                place = _join(path, "unlisted")
                self._variable(variable, path, index, kind, owner.name, place, is_listed=False)
            for index, layer in enumerate(filter(_is_adapted, layers)):
                # Tensors, which are constants of a compiled step: `adapt` replaces them.
                self.plain[_join(path, f"adapted/{index}")] = _Same(getattr(layer, "mean", None))

    def _optimizer(self, optimizer: Any, path: str) -> None:
        if id(optimizer) in self._seen:
            return
        self._seen.add(id(optimizer))
        self.optimizers[path] = optimizer
        for index, variable in enumerate(optimizer.variables):
            self._variable(variable, path, index, "optimizer", within=optimizer.name)

    def _metric(self, metric: keras.Metric, path: str, place: str | None = None) -> None:
        if id(metric) in self._seen:
            return
        self._seen.add(id(metric))
        self.metrics[path] = metric
        for index, variable in enumerate(metric.variables):
            self._variable(variable, path, index, "metric", metric.name, place)

    def _variable(
        self,
        variable: Any,
        path: str,
        index: int,
        kind: Kind,
        within: str = "",
        place: str | None = None,
        is_listed: bool = True,
    ) -> None:
        if id(variable) in self._seen:
            return
        self._seen.add(id(variable))
        own = variable.path.removeprefix(f"{within}/") if within else variable.name
        name = _join(path, own) if within else path
        # The name is set last, when it is known which variables slots may belong to.
        self.entries.append(Entry(f"{place or path}/{index}", name, variable, kind, is_listed))

    def beside(self) -> None:
        """Add what objects with a state of their own change, and nothing else holds."""
        searched: set[int] = set()
        while waiting := {p: o for p, o in self.objects.items() if id(o) not in searched}:
            for path, found in waiting.items():
                searched.add(id(found))
                for name, value in _backends.current().objects_in(found.owner).items():
                    self.value(value, _join(path, name))
        known = {
            id(e.variable.value) for e in self.entries if isinstance(e.variable, keras.Variable)
        }
        self.entries = [
            entry
            for entry in self.entries
            if isinstance(entry.variable, keras.Variable) or id(entry.variable.value) not in known
        ]


def runs_as_python(root: Holder) -> bool:
    """Return whether the steps of `root` run as Python code, and not compiled."""
    own = vars(root).get(INTERNALS)
    is_asked = own is not None and own.runs_as_python
    return is_asked or _backends.current().capabilities.modes[0] == "eager"


def _searched(root: Holder, as_python: bool = False) -> _Search:
    search = _Search(as_python or runs_as_python(root))
    search.holder(root, "")
    search.unlisted()
    if search.objects:
        search.beside()
    return search


def _with_stable_keys(entries: Sequence[Entry]) -> Iterator[Entry]:
    owners = {entry.variable.path.replace("/", "_") for entry in entries}
    taken: Counter[str] = Counter()
    for entry in entries:
        slots_of = owners if entry.kind == "optimizer" else ()
        key = f"{entry.key}/{_stable_name(entry.variable.name, slots_of)}"
        taken[key] += 1  # repeated only if dict keys contain slashes, or are equal as text
        yield replace(entry, key=key if taken[key] == 1 else f"{key}~{taken[key]}")


def _stable_name(name: str, slots_of: Collection[str]) -> str:
    """Return a variable's name without what differs between two instances.

    Keras names a slot `{path of its variable}_{purpose}`, with `_` for `/` in the path.
    """
    end = len(name)
    while (end := name.rfind("_", 0, end)) > 0:
        if name[:end] in slots_of:
            return name[end + 1 :]
    return re.sub(r"_\d+(?=[_/]|$)", "", name)


def _key_name(key: Any, index: int) -> str:
    """Return the name of a key of a dict: its place, if its text may differ in the next process."""
    plain = PLAIN | Enum | Path | np.dtype
    parts: Sequence[Any] = key if isinstance(key, tuple) else [key]
    return str(key) if all(isinstance(part, plain) for part in parts) else str(index)


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if path else name


def _refuse_keras_2(value: Any, path: str) -> None:
    for base in type(value).__mro__:
        if base.__module__.partition(".")[0] == "tf_keras":
            raise ForeignKerasError(path, type(value).__name__)


def snapshot(variables: Sequence[Any]) -> list[np.ndarray]:
    """Copy the values of variables to the host. It waits for the device."""
    return [_host_copy(variable) for variable in variables]


def hold(variables: Sequence[Any]) -> list[Any]:
    """Return the values of variables as `Backend.hold` does; copies on the host where it cannot."""
    values = [(variable, _backends.current().hold(variable)) for variable in variables]
    return [_host_copy(variable) if value is None else value for variable, value in values]


def _host_copy(variable: Any) -> np.ndarray:
    value = _backends.current().read(variable)
    if not any(part.any() for part in _bits(value)):
        return np.zeros(value.shape, value.dtype)  # it takes no memory: fresh slots are such
    if value.flags.owndata and value.flags.writeable and value.flags.c_contiguous:
        return value
    # It may share memory with the framework, and would change with the variable.
    return np.array(value, copy=True, order="C")


def are_same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Return whether arrays hold the same bits; it takes little memory of its own."""
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    return all(map(np.array_equal, _bits(a), _bits(b)))


def _bits(value: np.ndarray, count: int = 1 << 20) -> Iterator[np.ndarray]:
    """Yield the bytes of an array, so many at once: views, if it is contiguous."""
    flat = np.ascontiguousarray(value).reshape(-1)
    bits = flat if flat.dtype.hasobject else flat.view(np.uint8)
    for start in range(0, bits.size, count):
        yield bits[start : start + count]


def restore(variables: Sequence[Any], values: Sequence[Any]) -> None:
    """Restore the values that `snapshot` or `hold` returned."""
    for variable, value in zip(variables, values, strict=True):
        if variable.value is not value:  # JAX assigns by another array
            _backends.current().write(variable, value)


def host_random() -> Any:
    """Return the states of Python's and NumPy's global generators."""
    return random.getstate(), np.random.get_state()


def set_host_random(state: Any) -> None:
    """Restore the states that `host_random` returned."""
    random.setstate(state[0])
    np.random.set_state(state[1])


@contextmanager
def preserved(
    variables: Sequence[Any],
    host: bool = True,
    take: Callable[[Sequence[Any]], list[Any]] = snapshot,
) -> Generator[list[Any]]:
    """Restore variables, gradients in them and the framework's random state; yields the values.

    The list is empty at the end: whoever still has it keeps no copy of the state.

    Args:
        variables: The variables. It waits for them.
        host: Whether to restore Python's and NumPy's global generators too.
        take: Returns their values: `snapshot`, or `hold` where no compiled code reuses their
            memory.
    """
    backend = _backends.current()
    here, framework = host_random(), backend.random_state()
    values = take(variables)
    try:
        with backend.gradients_restored(variables):
            yield values
    finally:
        restore(variables, values)
        values.clear()
        backend.set_random_state(framework)
        if host:
            set_host_random(here)


@contextmanager
def attributes_preserved(root: Holder, keeps_new: bool = False) -> Generator[list[str]]:
    """Restore plain attributes of `root` at the end: numbers, strings, host generators.

    Lists, dicts and sets of plain values are included. Objects built meanwhile stay. It yields a
    list, in which the names of those that have changed are found afterwards.

    Args:
        root: The Step.
        keeps_new: Whether what was absent or `None` keeps its value, as what is built does; and
            every attribute of an object in which something was built.
    """
    held = [(holder, dict(vars(holder))) for holder in _searched(root).holders]
    values = dict(root._held())
    for holder, known in held:
        if holder is not root:
            values |= {f"{type(holder).__name__}.{name}": value for name, value in known.items()}
    inside = [(name, value, copy.copy(_host_state(value))) for name, value in values.items()]
    changed: list[str] = []
    try:
        yield changed
    finally:
        for holder, known in held:
            now = vars(holder)
            if keeps_new and _has_built(known, now):
                continue
            for name in [name for name, value in now.items() if isinstance(value, PLAIN)]:
                of_class = getattr(type(holder), name, None)  # `count = 0` in the class
                before = known.get(name, of_class if isinstance(of_class, PLAIN) else None)
                if keeps_new and before is None:
                    if type(now[name]) in (int, float):  # as of `getattr(self, "count", 0) + 1`
                        changed.append(name)
                    continue
                if before is not None and before != now[name]:
                    prefix = "" if holder is root else f"{type(holder).__name__}."
                    changed.append(f"{prefix}{name}")
                if name not in known:
                    del now[name]
                elif isinstance(known[name], PLAIN):
                    now[name] = known[name]
        for name, value, state in inside:
            if not _is_same(_host_state(value), state):
                changed.append(name)
            _set_host_state(value, state)


def _has_built(before: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether an attribute holds another object than before."""
    return any(
        before.get(name) is not value
        for name, value in now.items()
        if not isinstance(value, PLAIN) and name != INTERNALS
    )


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray) and isinstance(other, np.ndarray):
        return one.tobytes() == other.tobytes()
    if isinstance(one, dict) and "bit_generator" in one:
        return repr(one) == repr(other)  # with arrays in it
    return one == other


def _host_state(value: Any) -> Any:
    """Return the content of a generator, an array or a container of plain values; else `None`."""
    if isinstance(value, np.ndarray) and value.nbytes <= _MOST_BYTES_COPIED:
        return value
    if isinstance(value, np.random.Generator):
        return value.bit_generator.state
    if type(value) is random.Random:
        return value.getstate()
    items = value.values() if isinstance(value, dict) else value
    if isinstance(value, list | dict | set) and all(isinstance(item, PLAIN) for item in items):
        return value
    return None


def _set_host_state(value: Any, state: Any) -> None:
    if isinstance(value, np.random.Generator):
        value.bit_generator.state = state
    elif isinstance(value, np.ndarray):
        if state is not None and value.flags.writeable:
            value[...] = state
    elif type(value) is random.Random:
        value.setstate(state)
    elif state is not None and _host_state(value) is not None and value != state:
        value.clear()
        (value.extend if isinstance(value, list) else value.update)(state)


def rewind_seeds(tracked: Tracked) -> None:
    """Set every seed generator to its first draw: Keras keeps (seed, number of draws)."""
    for variable in tracked.of_kind("seed"):
        state = _host_copy(variable)
        state[1:] = 0
        variable.assign(state)


def branch_seeds(tracked: Tracked, key: int, is_seed: bool) -> None:
    """Set every seed generator to the first draw of a stream of its own.

    Args:
        tracked: What holds them.
        key: Which stream.
        is_seed: Whether the stream depends on the key alone, and not also on where they stand.
    """
    for index, variable in enumerate(tracked.of_kind("seed")):
        state = _host_copy(variable)
        words = [index, key] if is_seed else [*map(int, state), key]
        # Keras's seeds are of 31 bits.
        state[0] = np.random.SeedSequence(words).generate_state(1)[0] >> 1
        state[1:] = 0
        variable.assign(state)


def nested_layers(layer: keras.Layer) -> Iterator[keras.Layer]:
    """Yield a layer and all layers inside it, without using private attributes of Keras."""
    seen: set[int] = set()
    waiting: deque[Any] = deque([layer])
    while waiting:
        value = waiting.popleft()
        if isinstance(value, keras.Layer):
            if id(value) in seen:
                continue
            seen.add(id(value))
            yield value
            waiting.extend(getattr(value, "layers", ()))
            waiting.extend(v for v in vars(value).values() if _may_hold_layers(v))
        elif isinstance(value, Mapping):
            waiting.extend(value.values())
        elif isinstance(value, list | tuple):
            waiting.extend(value)


def _may_hold_layers(value: Any) -> bool:
    return isinstance(value, keras.Layer | list | tuple | dict)


def unlisted_state(layer: keras.Layer) -> dict[int, list[Any]]:
    """Return the state inside a layer that Keras does not list, by the `id` of its holder."""
    found: dict[int, list[Any]] = {}
    for owner, variable, _ in _unlisted(layer):
        found.setdefault(id(owner), []).append(variable)
    return found


def _is_adapted(layer: keras.Layer) -> bool:
    """Return whether a layer computes with tensors that it derived from its variables."""
    return isinstance(layer, keras.layers.Normalization)


@dataclass(frozen=True, slots=True, eq=False)
class _Same:
    """A value that equals only itself."""

    value: Any

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.value is other.value

    def __hash__(self) -> int:
        return id(self.value)


def readapt(tracked: Tracked) -> None:
    """Let layers that compute with tensors derived from their variables derive them again."""
    for model in tracked.models.values():
        for layer in filter(_is_adapted, nested_layers(model)):
            layer.finalize_state()


def variables_of(layer: keras.Layer) -> list[Any]:
    """Return all variables of a layer, unlisted ones last."""
    return [*layer.variables, *(variable for _, variable, _ in _unlisted(layer))]


def _unlisted(
    owner: keras.Layer | keras.losses.Loss, layers: list[keras.Layer] | None = None
) -> list[tuple[Any, Any, Kind]]:
    """Return what `_state_inside` finds but Keras does not list, in a stable order."""
    listed = {id(variable) for variable in getattr(owner, "variables", ())}
    inside = [*_state_inside(owner, [] if layers is None else layers)]
    if not all(isinstance(variable, keras.Variable) for _, variable, _ in inside):
        # What Keras's own variables are made of is no other state.
        listed |= {id(variable.value) for variable in getattr(owner, "variables", ())}
        return [f for f in inside if not {id(f[1]), id(f[1].value)} & listed]
    return [found for found in inside if id(found[1]) not in listed]


def _state_inside(
    root: keras.Layer | keras.losses.Loss, layers: list[keras.Layer]
) -> Iterator[tuple[Any, Any, Kind]]:
    """Yield each variable in the attributes of a layer and the layers inside, with its layer.

    Attributes are visited in the order of their names, which is the same on every framework,
    including containers, dataclasses and objects of user classes. Metrics and optimizers are found
    elsewhere, or do not belong to the layer. Visited layers are added to `layers`.
    """
    as_keras_variable = _backends.current().as_keras_variable
    seen: set[int] = set()
    waiting: list[tuple[Any, Any]] = [(root, root)]
    while waiting:
        owner, value = waiting.pop()
        # The class that an object reports: TensorFlow wraps containers.
        holding = _holding(value.__class__)
        if holding == "nothing" or id(value) in seen:
            continue
        seen.add(id(value))
        if holding == "variable":
            yield owner, value, "variable"
        elif holding == "seed":
            seen.add(id(value.state))
            yield owner, value.state, "seed"
        elif holding == "framework":
            if (adapted := as_keras_variable(value)) is not None:
                yield owner, adapted, adapted.kind
        else:
            if holding == "layer":
                owner = value
                layers.append(value)
            waiting += [(owner, member) for member in reversed(_members(value, holding))]


_Holding = Literal[
    "variable",
    "seed",
    "layer",
    "mapping",
    "sequence",
    "dataclass",
    "object",
    "framework",
    "nothing",
]


@cache
def _holding(kind: type) -> _Holding:
    """Return how an object of a class holds values that may be state of a layer or a Step."""
    if issubclass(kind, (*PLAIN.__args__, Holder, keras.Metric, keras.optimizers.Optimizer, type)):
        return "nothing"
    known: list[tuple[_Holding, Any]] = [
        ("variable", keras.Variable),
        ("seed", keras.random.SeedGenerator),
        ("layer", keras.Layer),
        ("mapping", Mapping),
        ("sequence", (list, tuple, deque)),
        ("object", (keras.losses.Loss, SimpleNamespace)),
    ]
    for holding, classes in known:
        if issubclass(kind, classes):
            return holding
    if _backends.current().is_container(kind):
        return "object"
    # Buffers of modules come as what stands for them, which is Perigee's.
    if kind.__module__.partition(".")[0] in (keras.backend.backend(), "perigee"):
        return "framework"
    if not is_own_class(kind):
        return "nothing"
    return "dataclass" if dataclasses.is_dataclass(kind) else "object"


def _members(value: Any, holding: _Holding) -> list[Any]:
    """Return what a layer, a container or an object of a user's class holds, in order."""
    if holding == "mapping":
        return list(value.values())
    if holding == "sequence":
        return list(value)
    held = attributes_of(value)
    return [held[name] for name in (held if holding == "dataclass" else sorted(held))]


def attributes_of(value: Any) -> Mapping[str, Any]:
    """Return the attributes that an object itself holds, without running code."""
    held: Mapping[str, Any] = getattr(value, "__dict__", {})
    declared = _declared(value.__class__)
    if _backends.current().is_container(value.__class__):
        held = _backends.current().content(value)
    if not declared:
        return held
    known = {name: getattr(value, name, _MISSING) for name in declared}
    return {**{name: v for name, v in known.items() if v is not _MISSING}, **held}


_MISSING = object()


@cache
def _declared(kind: type) -> tuple[str, ...]:
    """Return the fields of a dataclass and the slots of a class."""
    fields = [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []
    return (*fields, *(name for base in kind.__mro__ for name in _slots_of(base)))


def _slots_of(kind: type) -> Sequence[str]:
    own = vars(kind).get("__slots__", ()) if is_own_class(kind) else ()
    return [own] if isinstance(own, str) else [n for n in own if not n.startswith("__")]
