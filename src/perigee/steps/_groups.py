"""Groups of variables, one for each optimizer of a model."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import keras

from perigee._errors import ArgumentError, OptimizerGroupsError


class Groups:
    """Groups of the variables of one model.

    Args:
        groups: For each optimizer a layer, a model, a (nested) list of layers and variables, or a
            regular expression that is searched in the paths of the variables.

    Raises:
        ArgumentError: If a group is none of these.
    """

    def __init__(self, groups: Sequence[Any]) -> None:
        self._groups = list(groups)
        for group in self._groups:
            for item in [] if isinstance(group, str) else keras.tree.flatten(group):
                if not isinstance(item, keras.Layer | keras.Variable):
                    raise ArgumentError(
                        "optimizer",
                        f"<a group that holds a {type(item).__name__}>",
                        "groups that are layers, models, lists of variables, or regular "
                        "expressions.",
                        "pass pairs such as `(keras.optimizers.Adam(), model.head)`.",
                    )

    def of(self, model: keras.Layer) -> list[list[Any]]:
        """Return the trainable variables of each group; a frozen group has none.

        Raises:
            OptimizerGroupsError: If a trainable variable of the model is in no group, or in
                several.
            ArgumentError: If a group matches nothing in the model.
        """
        trainable = {id(v): v for v in model.trainable_variables}
        known = {id(v) for v in model.variables}
        times = dict.fromkeys(trainable, 0)
        parts: list[list[Any]] = []
        for group in self._groups:
            found = _variables(group, model)
            if not found or not set(found) <= known:
                raise _foreign(group, [v for key, v in found.items() if key not in known])
            parts.append([v for key, v in trainable.items() if key in found])
            for variable in parts[-1]:
                times[id(variable)] += 1
        missing = [v.path for key, v in trainable.items() if times[key] == 0]
        doubled = [v.path for key, v in trainable.items() if times[key] > 1]
        if missing or doubled:
            raise OptimizerGroupsError(missing, doubled)
        return parts


def _variables(group: Any, model: keras.Layer) -> dict[int, Any]:
    if isinstance(group, str):
        return {id(v): v for v in model.variables if re.search(group, v.path)}
    found: dict[int, Any] = {}
    for item in keras.tree.flatten(group):
        variables = item.variables if isinstance(item, keras.Layer) else [item]
        found |= {id(v): v for v in variables}
    return found


def _foreign(group: Any, foreign: Sequence[Any]) -> ArgumentError:
    name = repr(group) if isinstance(group, str) else str(getattr(group, "name", "a list"))
    outside = ", ".join(v.path for v in foreign[:3])
    return ArgumentError(
        "optimizer",
        f"<the group {name}, " + (f"with {outside}>" if foreign else "which holds no variable>"),
        "groups of variables of the model.",
        "pass a layer of the model, or match a path in `[v.path for v in model.variables]`.",
    )
