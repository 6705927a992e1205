"""Records created variables, for frameworks whose variables are all Keras's."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from perigee._errors import VariableMadeInStepError
from perigee._listening import Call, Hear, Talk


@dataclass(slots=True)
class Watched:
    """Variables that were created, with their initial values if they change in place.

    Attributes:
        made: These.
        loose: Returns, given what a Step holds, the names of what else was changed.
    """

    made: list[tuple[Any, np.ndarray | None]] = field(default_factory=list)
    loose: Callable[[Collection[int]], list[str]] = lambda held: []


@contextmanager
def watch_keras_variables(hear: Hear, change_in_place: bool) -> Generator[Watched]:
    """Record the Keras variables that are created, for as long as the context is open."""
    watched = Watched()

    def init(original: Any, variable: Any, *args: Any, **kwargs: Any) -> Talk:
        given = inspect.signature(original).bind(variable, *args, **kwargs).arguments
        made = _Made(watched.made, variable, change_in_place)

        def make() -> None:
            try:
                original(**made.seen(given))
            except ValueError as error:
                if "stateless scope" not in str(error):
                    raise
                later = _later(given)
                if later is None:
                    name = str(given.get("name") or "a variable")
                    raise VariableMadeInStepError([name]) from error
                original(**made.seen(later))

        yield Call(make, (), {})
        made.is_there()

    with hear(keras.Variable, "__init__", init):
        yield watched


class _Made:
    """The initial value of a variable, which Keras may assign only after a scope has ended."""

    def __init__(
        self, made: list[tuple[Any, np.ndarray | None]], variable: Any, changes_in_place: bool
    ) -> None:
        self._made, self._variable = made, variable
        self._changes_in_place = changes_in_place
        self._place: int | None = None

    def seen(self, given: dict[str, Any]) -> dict[str, Any]:
        """Return arguments whose initializer records its result, once the variable exists."""
        initializer = given["initializer"]
        if not self._changes_in_place or not callable(initializer):
            return given

        def initialize(shape: Any, dtype: Any = None) -> Any:
            value = initializer(shape, dtype=dtype)
            if self._place is not None:
                self._made[self._place] = self._variable, _known(value)
            return value

        return {**given, "initializer": initialize}

    def is_there(self) -> None:
        """Called when the variable was created: its value, if any, is the initial one."""
        value = _known(self._variable) if self._changes_in_place else None
        self._place = len(self._made)
        self._made.append((self._variable, value))


def _known(value: Any) -> np.ndarray | None:
    """Return a value on the host; `None` if it is not known, as while a step is traced."""
    try:
        # Keras first builds on a device without storage, and hides errors there.
        with keras.device("cpu"):
            return np.array(keras.ops.convert_to_numpy(value))
    except Exception:  # each framework raises its own error
        return None


def _later(given: dict[str, Any]) -> dict[str, Any] | None:
    """Return arguments that create a variable from a value after the current scope has ended.

    Inside a scope Keras accepts only variables with an initializer, as layers have them. A value
    that is known only when the step runs cannot be kept: `None`.
    """
    value = _known(given["initializer"])
    if value is None:
        return None
    dtype = given.get("dtype") or keras.backend.standardize_dtype(value.dtype)

    def initialize(shape: Any, dtype: Any = None) -> Any:
        del shape
        return keras.ops.convert_to_tensor(value, dtype)

    return {**given, "initializer": initialize, "shape": value.shape, "dtype": dtype}
