"""The arguments of a training as plain values, for the file of a run and for its report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from perigee._events.protocols import Source
from perigee._rehearsal.discovery import Rehearsal
from perigee._runs.program import config_of
from perigee._step.step import Step

_LONGEST_TEXT = 200


def configuration(
    step: Step, rehearsal: Rehearsal, asked: Mapping[str, Any], data: Mapping[str, Source]
) -> dict[str, Any]:
    """Return the arguments of a training, and what its Step holds: numbers, models, optimizers.

    Args:
        step: The Step.
        rehearsal: The rehearsal of its `train_step`, so that all is built.
        asked: Arguments by name; those that are `None` are left out.
        data: Feeds by the name of the argument that they come from.
    """
    tracked = rehearsal.tracked
    return {
        "step": type(step).__name__,
        "attributes": {
            name: _plain(value) for name, value in step._held().items() if _tells(value)
        },
        "models": {
            path: {
                "class": type(model).__name__,
                "trainable": _parameters(model.trainable_variables),
                "not_trainable": _parameters(model.non_trainable_variables),
            }
            for path, model in tracked.models.items()
        },
        "optimizers": {
            path: {
                "class": type(optimizer).__name__,
                **{
                    name: _plain(value)
                    for name, value in (config_of(optimizer) or {}).items()
                    if name != "name" and _tells(value)
                },
            }
            for path, optimizer in tracked.optimizers.items()
        },
        "data": {
            name: {"kind": feed.kind, "batches": getattr(feed, "length", None)}
            for name, feed in data.items()
        },
        "arguments": {name: _plain(v) for name, v in asked.items() if v is not None},
    }


def _parameters(variables: Any) -> int:
    return sum(math.prod(variable.shape) for variable in variables)


def _tells(value: Any) -> bool:
    """Tell whether a value says something to people; others are there by their identity."""
    return isinstance(value, bool | int | float | str) and value != ""


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    return str(value)[:_LONGEST_TEXT]
