"""What a step that takes gradients itself reaches: its code, parameters and optimizers."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from perigee._step.bytecode import names_in
from perigee._step.frame import Method
from perigee._step.own_code import is_own_class
from perigee._step.reached import Reach
from perigee._step.state import Holder, attributes_of
from perigee._step.step import Step

_TAKING = frozenset({"backward", "grad"})
"""Names by which code takes gradients: `loss.backward()`, `torch.autograd.grad(...)`."""

_UNRECORDED = "does not require grad and does not have a grad_fn"


def takes_gradients(step: Step, method: Method) -> bool:
    """Return whether the code of a method, or of a function that it calls, takes gradients."""
    function = step._function(method)
    if function is None:
        return False
    others = {*get_args(Method)} - {method}
    names = (names_in(each.__code__) for each in Reach([function], others).now().functions)
    return any(_TAKING & (each.attributes | each.outside) for each in names)


def misses_a_graph(error: BaseException) -> bool:
    """Return whether an error says that what was differentiated was not recorded."""
    return isinstance(error, RuntimeError) and _UNRECORDED in str(error)


def held_by(step: Step) -> dict[str, Any]:
    """Return what a Step holds, by attribute path.

    Lists, tuples, dicts, Steps and objects of users' classes are replaced by what is in them.
    """
    found: dict[str, Any] = {}
    seen: set[int] = set()
    waiting: deque[tuple[str, Any]] = deque([("", step)])
    while waiting:
        path, value = waiting.popleft()
        if id(value) in seen:
            continue
        seen.add(id(value))
        members = _members(value)
        if members is None:
            found[path] = value
        else:
            waiting += [(f"{path}/{name}" if path else str(name), each) for name, each in members]
    return found


def _members(value: Any) -> Iterable[tuple[Any, Any]] | None:
    if isinstance(value, Holder):
        return value._held().items()
    if isinstance(value, Mapping):
        return value.items()
    if isinstance(value, list | tuple | deque):
        return enumerate(value)
    is_part = any(hasattr(value, name) for name in ("named_parameters", "param_groups"))
    if is_part or isinstance(value, type) or not is_own_class(value.__class__):
        return None
    return attributes_of(value).items()


def names_of(held: Mapping[str, Any]) -> dict[int, str]:
    """Return the names of a framework's parameters, by id."""
    names: dict[int, str] = {}
    for path, value in held.items():
        has_parameters = hasattr(value, "named_parameters") and not isinstance(value, type)
        found = value.named_parameters() if has_parameters else ()
        for name, parameter in [*found, ("", value)]:
            names.setdefault(id(parameter), f"{path}/{name}" if name else path)
    return names


def with_optimizers(held: Mapping[str, Any]) -> set[int]:
    """Return the parameters that a framework's own optimizers have, by id."""
    groups = [getattr(value, "param_groups", ()) for value in held.values()]
    return {id(p) for each in groups for group in each for p in group["params"]}


def path_in(held: Mapping[str, Any], value: Any) -> str:
    """Return the attribute path of something; the name of its class if it is not held."""
    return next((path for path, each in held.items() if each is value), type(value).__name__)
