"""What hooks see of updates within compiled steps: norms, and the tensors themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from perigee import _backends
from perigee._rehearsal.discovery import Rehearsal
from perigee._step.averages import Column
from perigee._step.shown import Histograms, Shown
from perigee._typing import Tensor

WATCHES = ("norms", "histograms")


class Watching:
    """Stores norms and tensors of each update in its own variables.

    Not in tensors: an update may be inside a branch, which no tensor can leave. They are not state
    of the Step, since nothing depends on them.

    Args:
        rehearsal: The rehearsal of the step.
        watches: The requested `WATCHES`.

    Attributes:
        variables: The variables that compiled code writes.
    """

    def __init__(self, rehearsal: Rehearsal, watches: frozenset[str]) -> None:
        tracked = rehearsal.tracked
        self._paths = {id(tracked.optimizers[p]): p for p in rehearsal.updated}
        self._norms: dict[str, Any] = {}
        self._tensors: dict[int, tuple[str, Any, Any, Any]] = {}
        if "norms" in watches:
            self._norms = {path: _variable((3,)) for path in rehearsal.updated}
        if "histograms" in watches:
            names = {id(entry.variable): entry.name for entry in tracked.entries}
            updated = [v for variables in rehearsal.updated.values() for v in variables]
            self._tensors = {
                id(v): (names[id(v)], v, _variable(tuple(v.shape)), _variable(tuple(v.shape)))
                for v in updated
            }
        self.variables = [
            *self._norms.values(),
            *(slot for _, _, *slots in self._tensors.values() for slot in slots),
        ]

    def begin(self) -> None:
        """A step begins: no update was made in it yet."""
        for norms in self._norms.values():
            norms.assign(ops.zeros((3,)))

    def values(self, variables: Sequence[Any]) -> list[Tensor]:
        """See `Watch.values`: copied, since some frameworks update in place."""
        return [ops.copy(ops.convert_to_tensor(variable)) for variable in variables]

    def updated(
        self,
        optimizer: Any,
        gradients: Sequence[Any],
        variables: Sequence[Any],
        before: Sequence[Any],
        when: Any = None,
        after: Sequence[Any] | None = None,
    ) -> None:
        """See `Watch.updated`: keeps the last of several updates by one optimizer in a step."""
        dense = _backends.current().dense
        seen = [
            (variable, ops.cast(dense(gradient), "float32"), _change(old, new))
            for variable, gradient, old, new in zip(
                variables, gradients, before, after or variables, strict=True
            )
            if gradient is not None
        ]
        norms = self._norms.get(self._paths.get(id(optimizer), ""))
        if norms is not None:
            sizes = _norm([g for _, g, _ in seen]), _norm([change for *_, change in seen])
            found = ops.stack([*sizes, ops.ones(())])
            norms.assign(found if when is None else ops.where(when, found, ops.zeros((3,))))
        for variable, gradient, change in seen:
            if id(variable) in self._tensors:
                _, _, of_gradient, of_change = self._tensors[id(variable)]
                of_gradient.assign(gradient)
                of_change.assign(change)

    def cells(self) -> tuple[list[Column], list[Tensor]]:
        """Return norms as columns of a row: means over the steps that updated."""
        columns: list[Column] = []
        cells: list[Tensor] = []
        for path, norms in self._norms.items():
            values = ops.convert_to_tensor(norms)
            before = "" if len(self._norms) == 1 else f"{path}/"
            for index, name in enumerate(("gradient_norm", "update_norm")):
                columns.append(Column(f"{before}{name}", "mean"))
                cells.append(ops.stack([values[index], values[2]]))
        return columns, cells

    def shown(self) -> Mapping[str, Shown]:
        """Return histograms of the last updates and of the weights. It waits for the device."""
        if not self._tensors:
            return {}
        read = _backends.current().read
        found: dict[str, dict[str, np.ndarray]] = {"weights": {}, "gradients": {}, "updates": {}}
        for name, *variables in self._tensors.values():
            for part, variable in zip(found.values(), variables, strict=True):
                part[name] = np.asarray(read(variable), "float32")
        return {name: Histograms.of(tensors) for name, tensors in found.items()}


def _change(old: Any, new: Any) -> Tensor:
    return ops.cast(ops.convert_to_tensor(new), "float32") - ops.cast(old, "float32")


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    return ops.sqrt(sum((ops.sum(ops.square(tensor)) for tensor in tensors), start=0.0))


def _variable(shape: tuple[int, ...]) -> Any:
    return keras.Variable(
        np.zeros(shape, "float32"), dtype="float32", trainable=False, autocast=False, name="watched"
    )
