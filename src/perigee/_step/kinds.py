"""How objects are searched, by their classes."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Mapping
from functools import cache, partial
from types import BuiltinFunctionType, FunctionType, MethodType, MethodWrapperType, ModuleType
from typing import Any, Literal

import keras

from perigee._step.own_code import is_own_class
from perigee._step.state import PLAIN, attributes_of

Kind = Literal[
    "plain",
    "module",
    "class",
    "variable",
    "function",
    "layer",
    "keras",
    "mapping",
    "sequence",
    "own",
    "other",
]


@cache
def kind_of(kind: type) -> Kind:
    """Return how objects of a class are searched."""
    known: list[tuple[Kind, Any]] = [
        ("plain", PLAIN),
        ("module", ModuleType),
        ("class", type),
        ("variable", (keras.Variable, keras.KerasTensor, keras.random.SeedGenerator)),
        ("function", (FunctionType, MethodType, BuiltinFunctionType, MethodWrapperType, partial)),
        ("layer", keras.Layer),
        ("keras", (keras.losses.Loss, keras.Metric, keras.optimizers.Optimizer)),
        ("mapping", dict),
        ("sequence", (list, tuple, deque, set, frozenset)),
    ]
    for name, classes in known:
        if issubclass(kind, classes):
            return name
    if is_own_class(kind):
        return "own"
    # Others may read a file, or make new values each time.
    is_pythons = kind.__module__.partition(".")[0] in sys.stdlib_module_names
    return "mapping" if is_pythons and issubclass(kind, Mapping) else "other"


def members_of(value: Any, kind: Kind) -> list[tuple[Any, Any]]:
    """Return the members of a container or an object, each with its key, place or name."""
    if kind == "sequence":
        return [*enumerate(value)]
    return [*(value if kind == "mapping" else attributes_of(value)).items()]


def lasting(value: Any, kind: Kind) -> list[Any]:
    """Return the members that are not plain values: those may count steps."""
    return [member for _, member in members_of(value, kind) if kind_of(member.__class__) != "plain"]


def is_part_of_layer(member: Any) -> bool:
    """Return whether an attribute of a layer is tracked with it: layers and variables, or lists."""
    kind = kind_of(member.__class__)
    if kind in ("mapping", "sequence"):
        inside = lasting(member, kind)
        return bool(inside) and all(map(is_part_of_layer, inside))
    return kind in ("layer", "variable")


def is_replaceable(name: str, member: Any) -> bool:
    """Return whether users may replace an attribute of an object of a class of Keras."""
    kind = kind_of(member.__class__)
    if name.startswith("_"):
        return kind in ("layer", "keras", "own")
    return member is None or kind not in ("plain", "variable")


def holds_more(items: Any) -> bool:
    """Return whether a container holds anything that is searched."""
    values = items.values() if isinstance(items, Mapping) else items
    return any(kind_of(v.__class__) in ("layer", "keras", "own", "function") for v in values)
