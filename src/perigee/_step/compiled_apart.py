"""Functions that the user compiles apart from the step, and that read its state on their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from perigee import _backends
from perigee._step.reached import Reach
from perigee._step.state import Holder

_STATE = Holder | keras.Layer | keras.Variable | keras.random.SeedGenerator


class CompiledApart:
    """Finds the functions that a method reaches, are compiled apart, and read state themselves.

    On JAX such a function keeps the values of its first call: those of weights that have changed
    since, or of a trace that has ended.

    Args:
        function: The method.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._reach = Reach([function])
        self._inside: dict[int, Reach] = {}

    def now(self) -> Mapping[str, Any]:
        """Return these functions, by name."""
        return {
            name: value
            for name, value in self._reach.now().compiled.items()
            if self._reads_state(value)
        }

    def renew(self) -> None:
        """Let them be retraced at their next call."""
        for value in self.now().values():
            _backends.current().retrace(value)

    def _reads_state(self, value: Any) -> bool:
        inside = self._inside.setdefault(id(value), Reach([value]))
        return any(isinstance(held, _STATE) for held in inside.now().values.values())
