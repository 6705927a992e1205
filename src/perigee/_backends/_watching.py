"""Seeing which variables are made: shared by the frameworks whose variables are all Keras's."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from perigee._errors import VariableMadeInStepError


@dataclass(slots=True)
class Watched:
    """Variables that were created, with their initial values where they change in place."""

    made: list[tuple[Any, np.ndarray | None]] = field(default_factory=list)


@contextmanager
def watch_keras_variables(change_in_place: bool) -> Generator[Watched]:
    """Record the Keras variables that are created, for as long as the context is open."""
    watched = Watched()
    original = keras.Variable.__init__

    def init(variable: Any, *args: Any, **kwargs: Any) -> None:
        try:
            original(variable, *args, **kwargs)
        except ValueError as error:
            if "stateless scope" not in str(error):
                raise
            if not _make_later(original, variable, args, kwargs):
                raise VariableMadeInStepError([str(kwargs.get("name") or "a variable")]) from error
        value = np.array(keras.ops.convert_to_numpy(variable)) if change_in_place else None
        watched.made.append((variable, value))

    keras.Variable.__init__ = init
    try:
        yield watched
    finally:
        keras.Variable.__init__ = original


def _make_later(original: Any, variable: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Make a variable of a value where Keras makes none, in a scope: when the scope has ended.

    There Keras takes variables with an initializer alone, as layers have them. Values that are
    only known when the step runs cannot be kept.
    """
    given = inspect.signature(original).bind(variable, *args, **kwargs).arguments
    try:
        value = np.array(keras.ops.convert_to_tensor(given["initializer"]))
    except Exception:  # frameworks raise errors of their own where a value is not known
        return False
    given["initializer"] = lambda shape, dtype: keras.ops.convert_to_tensor(value, dtype)
    given["shape"] = value.shape
    given["dtype"] = given.get("dtype") or keras.backend.standardize_dtype(value.dtype)
    original(**given)
    return True
