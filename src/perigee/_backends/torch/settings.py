# pyright: basic
"""What a program sets in torch's own optimizers, schedulers, gradient scalers and modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from perigee._backends.torch.states import OF_MODULES

_HOW = ("foreach", "fused", "capturable", "differentiable")
"""What decides how an optimizer computes, and not what: it is as the program says at each start."""

_NOT_OF_SCHEDULERS = frozenset(
    {"optimizer", "verbose", "last_epoch", "_step_count", "_last_lr", "_schedulers"}
)
_PLAIN = (bool, int, float, complex, str)


def settings(value: Any) -> Mapping[str, Any] | None:
    """See `Backend.settings`: those of modules are the plain attributes of torch's own classes."""
    if isinstance(value, Optimizer):
        return {
            name: held
            for index, group in enumerate(value.param_groups)
            for name, held in _of_group(f"param_groups[{index}]", group)
        }
    if isinstance(value, LRScheduler):
        held = vars(value).items()
        return {name.lstrip("_"): v for name, v in held if name not in _NOT_OF_SCHEDULERS}
    if isinstance(value, torch.amp.GradScaler):
        said = {name: v for name, v in value.state_dict().items() if name[0] != "_"}
        return {"enabled": value.is_enabled(), **said}
    if not isinstance(value, torch.nn.Module):
        return None
    if type(value).__module__.partition(".")[0] != "torch":
        return {}
    return {
        name: held
        for name, held in vars(value).items()
        if name[0] != "_" and name not in OF_MODULES and name != "training" and _is_plain(held)
    }


def _of_group(path: str, group: Mapping[str, Any]) -> list[tuple[str, Any]]:
    found = [(name, _number(value)) for name, value in group.items() if name not in _HOW]
    found = [(f"{path}.{name}", value) for name, value in found if _is_plain(value)]
    return [(f"{path}.params", len(group["params"])), *found]


def _number(value: Any) -> Any:
    """Return the number of a learning rate that is a tensor."""
    return value.item() if isinstance(value, torch.Tensor) and value.ndim == 0 else value


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, _PLAIN)


def set_settings(value: Any, given: Mapping[str, Any]) -> None:
    """See `Backend.set_settings`.

    A learning rate that a scheduler drives is scaled as its initial value is.
    """
    if isinstance(value, LRScheduler):
        for name in vars(value).keys() - _NOT_OF_SCHEDULERS:
            if name.lstrip("_") in given:
                setattr(value, name, given[name.lstrip("_")])
    elif isinstance(value, Optimizer):
        for index, group in enumerate(value.param_groups):
            path = f"param_groups[{index}]."
            new = {name: given[path + name] for name in group if path + name in given}
            new.pop("params", None)
            if "initial_lr" in group:
                before, after = group["initial_lr"], new.get("initial_lr", group["initial_lr"])
                rate = new.pop("lr", None)
                if before != after:
                    new["lr"] = group["lr"] * (after / before) if before else rate
            for name, setting in new.items():
                _set(group, name, setting)
    elif isinstance(value, torch.amp.GradScaler) and value.is_enabled():
        state = value.state_dict()
        value.load_state_dict(state | {name: given[name] for name in state if name in given})


def _set(group: dict[str, Any], name: str, value: Any) -> None:
    if isinstance(group[name], torch.Tensor):
        group[name].fill_(value)
    else:
        group[name] = value
