"""What a program says of a training, as plain values by path, which are the same at each start.

Nothing here depends on the machine, on addresses, on names that Keras generates, or on the order
of sets. What has no such form is left out.
"""

from __future__ import annotations

import dataclasses
import dis
import enum
import functools
import inspect
import platform
import re
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import PurePath
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import keras
import numpy as np

from perigee import _backends
from perigee._events.events import Hook
from perigee._execution import constant_rate
from perigee._runs.data_values import Sample, sample_of
from perigee._step.bytecode import names_in
from perigee._step.code_digest import code_digests
from perigee._step.own_code import functions_of, is_own_class, leads_home
from perigee._step.reached import Reach
from perigee._step.state import INTERNALS, PLAIN, Holder, attributes_of, nested_layers, track
from perigee._step.step import Step
from perigee.steps.function_step import FunctionStep
from perigee.steps.keras_step import KerasStep

Value = bool | int | float | str | Sample
"""What a record holds by path."""

_MOST_LEVELS = 12
_MOST_ITEMS = 64
"""Longer lists are compared by some of their items."""
_MOST_SAMPLED = 2**24
_MOST_TEXT = 200

_NOT_COMPARED = re.compile(
    r"_.*|seed|.*_seed|seed_.*|build_config|module|registered_name|shared_object_id"
    r"|verbose|debug|display|progress|logger|log_every|print_every|plot_every"
    r"|workers|num_workers|use_multiprocessing|max_queue_size"
)
"""Names of values that say how loudly a program runs, on what, and from which seeds.

Seeds are left out because the state of generators is in the checkpoint, and continues.
"""
_NAMES_TEXT = re.compile(r"(.*_)?(name|id|path|dir|directory|folder|file|filename|filepath|url)")
_PLACE = re.compile(r"\S*[/\\]\S*|[~.]*")
"""Text that is a name or a place: of such attributes, and of such a form."""

_BUILDERS = ("__init__", "__post_init__", "__new__", "build", "get_config", "from_config")
_WITH_CONFIG = (
    keras.losses.Loss,
    keras.Metric,
    keras.optimizers.Optimizer,
    keras.optimizers.schedules.LearningRateSchedule,
    keras.regularizers.Regularizer,
    keras.initializers.Initializer,
    keras.constraints.Constraint,
)
_PACKAGES = frozenset({"keras", "tensorflow", "jax", "torch", "numpy", "perigee"})

_ONLY_SAYS = (
    *("ModelCheckpoint", "BackupAndRestore", "CSVLogger", "TensorBoard", "ProgbarLogger"),
    *("RemoteMonitor", "History", "LambdaCallback", "CallbackList"),
)
"""Keras's callbacks that save, log or display, or are made of functions."""


@dataclasses.dataclass(frozen=True, slots=True)
class Program:
    """What a program says of a training.

    Attributes:
        compared: Values by path, such as `step.optimizer.learning_rate`; a difference is a change
            of the training.
        named: Values whose difference may change the training: code and callbacks of the user's.
        not_compared: What could not be looked at, and why.
        versions: The version of the framework, where its own objects are compared.
    """

    compared: dict[str, Value] = dataclasses.field(default_factory=dict[str, Value])
    named: dict[str, Value] = dataclasses.field(default_factory=dict[str, Value])
    not_compared: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    versions: dict[str, str] = dataclasses.field(default_factory=dict[str, str])

    @contextmanager
    def outside(self, what: str) -> Generator[None]:
        """Note an exception, which code of the user's may raise: a comparison ends nothing."""
        try:
            yield
        except Exception as error:
            self.not_compared[what] = f"{type(error).__name__}: {error}"[:_MOST_TEXT]


def program_of(step: Step, callbacks: Iterable[Any] = ()) -> Program:
    """Return what a program says of a Step and its callbacks; both must be built.

    Args:
        step: The Step.
        callbacks: Keras callbacks and hooks.
    """
    found = Program()
    functions: Sequence[FunctionType] = ()
    objects = objects_of_framework(step)
    with found.outside("the code of the step"):
        functions = _functions(step)
        _add_code([*functions, *_functions_set(objects)], found)
    with found.outside("what the step holds"):
        walk = _Walk(found.compared, _read_by(step, functions))
        walk.holder(step, "step")
        for path, (value, settings) in objects.items():
            walk.object_of_framework(value, settings, path)
    if objects:
        framework = keras.backend.backend()
        found.versions[framework] = str(sys.modules[framework].__version__)
    for callback in callbacks:
        with found.outside(f"the callback {type(callback).__name__}"):
            _add_callback(callback, found)
    return found


def values_of(values: Mapping[str, Any], path: str) -> dict[str, Value]:
    """Return plain values by path, without what a Step would not be compared by either."""
    found: dict[str, Value] = {}
    for name, value in values.items():
        _Walk(found, None).value(value, f"{path}.{name}")
    return found


def objects_of_framework(step: Step) -> dict[str, tuple[Any, Mapping[str, Any]]]:
    """Return the framework's own optimizers, schedulers and modules, with what they are set to.

    Args:
        step: The Step.

    Returns:
        By their paths in a record.
    """
    backend = _backends.current()
    tracked = track(step)
    found = {path: state.owner for path, state in tracked.objects.items()}
    for path, layer in tracked.models.items():
        # By their order, since Keras generates the names of layers.
        for index, module in enumerate(backend.modules(nested_layers(layer))):
            for name, part in module.named_modules():
                found[f"{path}/modules/{index}/{name.replace('.', '/')}".rstrip("/")] = part
    settings = ((path, owner, backend.settings(owner)) for path, owner in found.items())
    return {in_record(path): (o, held) for path, o, held in settings if held is not None}


def in_record(path: str) -> str:
    """Return the path in a record for a path in a Step."""
    first, *names = path.removeprefix("parts/").split("/")
    if path.startswith("parts/"):  # those of a compiled model
        first, names = "model", [first, *names]
    below = (f"[{name}]" if name.isdigit() else f".{name}" for name in names)
    return f"step.{first}" + "".join(below)


# The code of a Step.


def _functions_set(objects: Mapping[str, tuple[Any, Mapping[str, Any]]]) -> list[FunctionType]:
    """Return the user's functions in settings, such as those of a scheduler."""
    held = [value for _, settings in objects.values() for value in settings.values()]
    flat = [item for value in held for item in (value if isinstance(value, list) else [value])]
    return [item for item in flat if isinstance(item, FunctionType) and leads_home(item)]


def _read_by(step: Step, functions: Iterable[FunctionType]) -> frozenset[str] | None:
    """Return the attributes that the user's own code may read when a step runs; `None` for all."""
    if not is_own_class(type(step)):
        return None
    codes = [function.__code__ for function in functions if function.__name__ not in _BUILDERS]
    return frozenset[str]().union(*(names_in(code).attributes for code in codes))


def _functions(step: Step) -> Sequence[FunctionType]:
    """Return the user's own functions that may run with a step, each once."""
    if isinstance(step, FunctionStep):
        return step._reach.now().functions
    methods = [m for m in (step._function("train_step"), step._function("test_step")) if m]
    owners = [step, *([step.model] if isinstance(step, KerasStep) else [])]
    own = [function for owner in owners for function in _methods(type(owner))]
    return list(dict.fromkeys([*Reach(methods).now().functions, *own]))


def _add_code(functions: Iterable[FunctionType], found: Program) -> None:
    version = ".".join(platform.python_version_tuple()[:2])
    running = (function for function in functions if function.__name__ not in _BUILDERS)
    for name, digest in code_digests(running).items():
        found.named[f"code of {name}"] = f"{digest} (Python {version})"


def _methods(kind: type) -> Iterator[FunctionType]:
    for base in kind.__mro__:
        if is_own_class(base):
            for member in vars(base).values():
                yield from (function for function, _ in functions_of(member))


@functools.cache
def _assigned(kind: type) -> frozenset[str]:
    """Return the attributes that methods of a class assign after it was made: its state."""
    return frozenset(
        str(instruction.argval)
        for function in _methods(kind)
        if function.__name__ not in _BUILDERS
        for instruction in dis.get_instructions(function.__code__)
        if instruction.opname == "STORE_ATTR"
    )


@functools.cache
def _names_of_layers() -> frozenset[str]:
    return frozenset(vars(keras.Layer()))


# The values that a Step holds.


def _is_data(value: Any) -> bool:
    """Tell whether a value matters only to code that reads it, as a number or an array does."""
    return isinstance(
        value, PLAIN | np.ndarray | list | tuple | set | frozenset | Mapping
    ) or _backends.current().is_tensor(value)


class _Walk:
    """Takes plain values out of objects.

    Args:
        found: Gets them by path.
        read: Attributes of the user's objects that matter; `None` for all.
    """

    def __init__(self, found: dict[str, Value], read: frozenset[str] | None) -> None:
        self._found, self._read = found, read
        self._seen: set[int] = set()

    def holder(self, holder: Holder, path: str) -> None:
        self._seen.add(id(holder))
        assigned = _assigned(type(holder))
        for name, value in holder._held().items():
            if name == INTERNALS or name in assigned or name == "ignore_findings":
                continue
            if _is_data(value) and not self._matters(holder, name):
                continue
            if name.startswith("_") and not is_own_class(type(holder)):
                continue
            # The parts of a compiled model are its own in the user's words.
            is_part = isinstance(holder, KerasStep) and name == "parts"
            self.value(value, _member(path, "model" if is_part else name))
        if isinstance(holder, KerasStep):
            with_compile = getattr(holder.model, "get_compile_config", dict)() or {}
            for name in ("loss", "loss_weights"):
                self.value(with_compile.get(name), f"{path}.model.{name}")

    def value(self, value: Any, path: str, level: int = 0) -> None:
        if value is None or level > _MOST_LEVELS or self._is_left_out(path):
            return
        if isinstance(value, enum.Enum):
            self._found[path] = value.name
        elif isinstance(value, PLAIN):
            self._plain(value, path)
        elif isinstance(value, Holder):
            if id(value) not in self._seen:
                self.holder(value, path)
        elif isinstance(value, keras.Layer):
            self.layer(value, path)
        elif isinstance(value, keras.DTypePolicy):
            self._found[path] = value.name
        elif isinstance(value, _WITH_CONFIG):
            self._configured(value, path, level)
        elif isinstance(value, keras.Variable | keras.random.SeedGenerator | PurePath | type):
            return  # their state is in the checkpoint
        elif _backends.current().as_keras_variable(value) is not None:
            return
        elif isinstance(value, np.dtype):
            self._found[path] = str(value)
        elif isinstance(value, Mapping):
            self._mapping(value, path, level)
        elif isinstance(value, set | frozenset):
            items = [item for item in value if isinstance(item, PLAIN)]
            if len(items) == len(value):
                self._found[path] = ", ".join(sorted(map(repr, items)))[:_MOST_TEXT]
        elif isinstance(value, list | tuple):
            self._sequence(value, path, level)
        elif isinstance(value, np.ndarray) or _backends.current().is_tensor(value):
            if np.prod(value.shape) <= _MOST_SAMPLED:
                self._found[path] = sample_of(_backends.current().to_host(value))
        elif isinstance(value, FunctionType | BuiltinFunctionType):
            if str(value.__module__).partition(".")[0] in _PACKAGES:
                self._found[path] = value.__name__
        elif isinstance(value, functools.partial):
            self.value(value.func, path, level + 1)
            self._mapping(value.keywords, path, level)
        elif is_own_class(type(value)) and not isinstance(value, MethodType | Hook):
            self._object(value, path, level)

    def _matters(self, owner: Any, name: str) -> bool:
        own = is_own_class(type(owner))
        return not own or self._read is None or name in self._read

    def _is_left_out(self, path: str) -> bool:
        return "." in path and bool(_NOT_COMPARED.fullmatch(_last_name(path)))

    def _plain(self, value: Any, path: str) -> None:
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, bytes):
            value = value.hex()
        if isinstance(value, str):
            named = _NAMES_TEXT.fullmatch(_last_name(path))
            if not named and not _PLACE.fullmatch(value):
                self._found[path] = value[:_MOST_TEXT]
        elif isinstance(value, bool | int):
            self._found[path] = value if abs(value) < 2**63 else str(value)
        elif isinstance(value, float):
            self._found[path] = value if np.isfinite(value) else str(value)

    def _mapping(self, value: Mapping[Any, Any], path: str, level: int) -> None:
        if "class_name" in value and ("config" in value or "items" in value):
            self._serialized(value, path, level)
            return
        for key, item in value.items():
            if isinstance(key, PLAIN):
                is_name = isinstance(key, str) and key.isidentifier()
                inner = _member(path, key) if is_name else f"{path}[{key!r}]"
                self.value(item, inner, level + 1)

    def _serialized(self, value: Mapping[str, Any], path: str, level: int) -> None:
        """Take what Keras has made of an object for a file."""
        name, config = str(value["class_name"]), value.get("config", value.get("items"))
        if name == "function" and isinstance(config, str):
            if str(value.get("module")).partition(".")[0] in _PACKAGES:
                self._found[path] = config
        elif name.startswith("DTypePolicy") and isinstance(config, Mapping):
            self.value(config.get("name") or config.get("default_policy"), path)
            if isinstance(config.get("name"), str):
                self._found[path] = config["name"]
        elif name == "__numpy__" and isinstance(config, Mapping):
            self._found[path] = sample_of(np.asarray(config.get("value")))
        elif name.startswith("__"):
            if name == "__tuple__":
                self.value(config, path, level + 1)
        else:
            self._found[path] = name
            if isinstance(config, Mapping):
                self._mapping(config, path, level + 1)

    def _sequence(self, value: Sequence[Any], path: str, level: int) -> None:
        if len(value) > _MOST_ITEMS and all(isinstance(item, PLAIN) for item in value):
            items = [str(i) if isinstance(i, str | bytes | None) else i for i in value]
            self._found[path] = [len(items), *sample_of(np.asarray(items))]
            return
        for index, item in enumerate(value):
            self.value(item, f"{path}[{index}]", level + 1)

    def _object(self, value: Any, path: str, level: int) -> None:
        """Take the settings of an object of a user's class."""
        if id(value) in self._seen:
            return
        self._seen.add(id(value))
        assigned = _assigned(type(value))
        for name, member in attributes_of(value).items():
            if name not in assigned and (self._read is None or name in self._read):
                self.value(member, _member(path, name), level + 1)

    def _configured(self, value: Any, path: str, level: int) -> None:
        """Take the class and the configuration of an object of Keras's."""
        self._found[path] = type(value).__name__
        inner = getattr(value, "inner_optimizer", None)
        config = config_of(value)
        if config is None:
            config = {k: v for k, v in vars(value).items() if isinstance(v, PLAIN)}
            if isinstance(value, keras.optimizers.Optimizer):
                config = {k: v for k, v in config.items() if k != "built"}
                config["learning_rate"] = _rate_of(value)
        if isinstance(value, keras.Metric | keras.losses.Loss):
            config = {k: v for k, v in config.items() if k != "dtype"}
        if inner is not None:
            config = {**config, "inner_optimizer": None}
            self.value(inner, f"{path}.inner_optimizer", level + 1)
        if isinstance(value, keras.Metric | keras.losses.Loss):
            self._wrapped(value, path, level)
        if isinstance(value, keras.Metric):
            self._found[f"{path}.name"] = re.sub(r"_\d+$", "", value.name)
        self._mapping(config, path, level)
        if is_own_class(type(value)):
            self._own_attributes(value, path, config)

    def object_of_framework(self, value: Any, settings: Mapping[str, Any], path: str) -> None:
        """Take the class of an object of the framework, and what it is set to.

        What is set in a user's class is what its methods read.
        """
        kind = type(value)
        self._found[path] = kind.__name__
        assigned = _assigned(kind)
        for name, held in settings.items():
            if name not in assigned:
                self.value(held, f"{path}.{name}", 1)
        if is_own_class(kind):
            self._own_attributes(value, path, settings)

    def _wrapped(self, value: Any, path: str, level: int) -> None:
        """Take the function that a loss or a metric wraps, with its arguments.

        A configuration has neither where the class is that of the function, such as `Huber`.
        """
        for name, held in list(vars(value).items()):
            if isinstance(held, FunctionType):
                self.value(held, f"{path}.{name.lstrip('_')}", level + 1)
            elif isinstance(held, dict):
                self._mapping(held, path, level + 1)

    def _own_attributes(self, value: Any, path: str, config: Mapping[str, Any]) -> None:
        """Take what the methods of a user's class read, and a configuration leaves out."""
        kind = type(value)
        read = {
            name
            for function in _methods(kind)
            if function.__name__ not in _BUILDERS
            for name in names_in(function.__code__).attributes
        }
        left_out = _assigned(kind) | _names_of_layers() | config.keys()
        for name, member in list(vars(value).items()):
            if name in read - left_out and not isinstance(member, keras.Layer):
                self.value(member, _member(path, name), 1)

    # Models.

    def layer(self, layer: keras.Layer, path: str, config: Mapping[str, Any] | None = None) -> None:
        """Take what a layer is made of, and the layers in it.

        Args:
            layer: The layer.
            path: Its path.
            config: Its configuration, where its model has told it already.
        """
        if id(layer) in self._seen:
            return
        self._seen.add(id(layer))
        self._found[path] = type(layer).__name__
        config = config or config_of(layer) or {}
        inner, told = list(_layers_in(layer)), dict[str, Mapping[str, Any]]()
        if isinstance(layer, keras.Model) and isinstance(config.get("layers"), list):
            self._wired(config, path)
            told = {str(one["config"].get("name")): one["config"] for one in config["layers"]}
        else:
            held = {name for name, _ in inner}
            own = {k: v for k, v in config.items() if k not in held}
            self._mapping(own, path, 0)
        self.value(layer.trainable, f"{path}.trainable")
        if is_own_class(type(layer)):
            self._own_attributes(layer, path, config)
        for name, one in inner:
            self.layer(one, _member(path, name), told.get(one.name))

    def _wired(self, config: Mapping[str, Any], path: str) -> None:
        """Take from where each layer of a functional model gets its inputs."""
        numbers: dict[str, str] = {}
        for index, one in enumerate(config["layers"]):
            name = one.get("name") or one.get("config", {}).get("name")
            numbers[str(name)] = f"#{index} {one.get('class_name')}"
        for index, one in enumerate(config["layers"]):
            said = list(_said_of_inputs(one.get("inbound_nodes", []), numbers))
            if said:
                self._found[f"{path}.inputs_of[{index}]"] = ", ".join(said)[:_MOST_TEXT]
        for name in ("input_layers", "output_layers"):
            if name in config:
                said = list(_said_of_inputs(config[name], numbers))
                self._found[f"{path}.{name}"] = ", ".join(said)[:_MOST_TEXT]


def _said_of_inputs(value: Any, numbers: Mapping[str, str]) -> Iterator[str]:
    if isinstance(value, Mapping):
        if value.get("class_name") == "__keras_tensor__":
            yield from _said_of_inputs(value.get("config", {}).get("keras_history"), numbers)
            return
        for key, item in sorted(value.items(), key=lambda pair: str(pair[0])):
            if item is not None:
                yield from (f"{key}: {said}" for said in _said_of_inputs(item, numbers))
    elif isinstance(value, list | tuple):
        if len(value) == 3 and isinstance(value[0], str) and value[0] in numbers:
            call = "" if value[1:] == [0, 0] else f" {list(value[1:])}"
            yield numbers[value[0]] + call
            return
        for item in value:
            yield from _said_of_inputs(item, numbers)
    elif isinstance(value, PLAIN):
        yield str(value)


def _layers_in(layer: keras.Layer) -> Iterator[tuple[str, keras.Layer]]:
    """Yield the layers that a layer holds, by their attributes; those of a model by their place."""
    if isinstance(layer, keras.Model):
        yield from ((f"layers[{index}]", one) for index, one in enumerate(layer.layers))
        return
    own = list(vars(layer).items())
    for name, value in sorted(own, key=lambda pair: (pair[0].startswith("_"), pair[0])):
        if isinstance(value, keras.Layer):
            yield name, value
        elif isinstance(value, Mapping):
            yield from ((f"{name}[{k!r}]", v) for k, v in value.items() if _is_layer(v))
        elif isinstance(value, list | tuple):
            yield from ((f"{name}[{i}]", v) for i, v in enumerate(value) if _is_layer(v))


def _is_layer(value: Any) -> bool:
    return isinstance(value, keras.Layer)


def config_of(value: Any) -> Mapping[str, Any] | None:
    """Return what Keras says of an object of its own or of a user's class; `None` if nothing."""
    try:
        config = value.get_config()
    except Exception:  # of a user's class it may raise anything
        return None
    return config if isinstance(config, Mapping) else None


def _rate_of(optimizer: Any) -> Any:
    """Return the learning rate of an optimizer without a configuration, or its schedule."""
    schedules = keras.optimizers.schedules.LearningRateSchedule
    held = next((v for v in vars(optimizer).values() if isinstance(v, schedules)), None)
    return constant_rate(optimizer) if held is None else held


def _member(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _last_name(path: str) -> str:
    return re.split(r"[.\[]", path)[-1]


# Callbacks.


def _add_callback(callback: Any, found: Program) -> None:
    """Add the class and the arguments of a callback, unless it only says, logs or saves."""
    kind = type(callback)
    package = kind.__module__.partition(".")[0]
    if package == "perigee" or (package == "keras" and kind.__name__ in _ONLY_SAYS):
        return
    if package != "keras" and not _reaches_training(kind):
        return
    into = found.compared if package == "keras" else found.named
    base, number = f"callbacks.{kind.__name__}", 1
    path = base
    while path in into:
        path, number = f"{base}[{number}]", number + 1
    into[path] = "present"
    walk = _Walk(into, None)
    for name in inspect.signature(kind).parameters:
        value = vars(callback).get(name)
        if isinstance(value, PLAIN):
            walk.value(value, f"{path}.{name}")
        elif isinstance(value, FunctionType):
            _add_code([value], found)


@functools.cache
def _reaches_training(kind: type) -> bool:
    """Tell whether the methods of a callback read what leads to what is trained."""
    return any(_LEVERS & names_in(function.__code__).attributes for function in _methods(kind))


_LEVERS = frozenset({"model", "optimizer", "assign", "set_weights"})
