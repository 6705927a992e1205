"""The outputs of a model by name, and the arguments given for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from perigee._errors import ArgumentError, OutputsError
from perigee._typing import Tensor, Tree


@dataclass(frozen=True, slots=True)
class Outputs:
    """The outputs of a model, in its order.

    Attributes:
        names: The names of the outputs: the keys of a dict, else the model's `output_names`, else
            `output_0`, `output_1`, ...
        tensors: The outputs.
        is_ordered: Whether a list can refer to them. The keys of a dict have two orders, as written
            and sorted, and Keras uses both (losses one, metrics the other), so a list is accepted
            only if the two are the same.
    """

    names: tuple[str, ...]
    tensors: tuple[Tensor, ...]
    is_ordered: bool = True

    @classmethod
    def of(cls, model: Any, returned: Tree) -> Outputs:
        """Name the outputs of `model`.

        Raises:
            ArgumentError: If it is neither one tensor nor a flat list, tuple or dict of them.
        """
        if isinstance(returned, Mapping):
            names = tuple(str(key) for key in returned)
            tensors = tuple(returned.values())
            is_ordered = list(names) == sorted(names)
        else:
            tensors = tuple(returned) if isinstance(returned, list | tuple) else (returned,)
            given = getattr(model, "output_names", None) or ()
            numbered = [f"output_{index}" for index in range(len(tensors))]
            names = tuple(given if len(set(given)) == len(tensors) else numbered)
            is_ordered = True
        if any(keras.tree.is_nested(tensor) for tensor in tensors):
            raise ArgumentError(
                "model",
                f"<a model with nested outputs {list(names)}>",
                "a model that returns a tensor, or a flat list, tuple or dict of tensors.",
                "return a flat structure.",
            )
        return cls(names, tensors, is_ordered)

    def each(self, what: str, given: Any, wanted: Sequence[bool] = ()) -> list[Any]:
        """Return one entry for each output, `None` if there is none.

        Args:
            what: The name of the argument, for errors.
            given: A dict by name, in which outputs may be missing; or a list.
            wanted: Which outputs need an entry: a list may hold only these.

        Raises:
            OutputsError: If names or number differ.
        """
        if isinstance(given, Mapping):
            if not set(given) <= set(self.names):
                raise self.mismatch(what, given)
            return [given.get(name) for name in self.names]
        entries = list(given)
        if self.is_ordered and len(entries) == len(self.names):
            return entries
        if self.is_ordered and len(entries) == sum(wanted):
            return self.placed(entries, wanted)
        raise self.mismatch(what, entries)

    def placed(self, entries: Sequence[Any], wanted: Sequence[bool]) -> list[Any]:
        """Return one entry for each output: those given, in order, for the wanted ones."""
        waiting = iter(entries)
        return [next(waiting) if is_wanted else None for is_wanted in wanted]

    def mismatch(self, what: str, given: Any) -> OutputsError:
        """Return the error that names what was given and the outputs."""
        if isinstance(given, Mapping):
            return OutputsError(what, [str(key) for key in given], self.names)
        return OutputsError(what, [_described(entry) for entry in given], self.names)


def _described(entry: Any) -> str:
    if entry is None or isinstance(entry, str | int | float):
        return str(entry)
    shape = getattr(entry, "shape", None)
    if shape is not None:
        return f"an array of shape {tuple(shape)}"
    name: Any = getattr(entry, "name", None) or getattr(entry, "__name__", None)
    return str(name or type(entry).__name__)
