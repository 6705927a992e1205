"""Seeing which variables are made: shared by the frameworks whose variables are all Keras's."""

from __future__ import annotations

from collections.abc import Generator
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
            # Where a step is traced, Keras takes no variables with a value of their own: only
            # those of layers that are being built, which it can make later.
            raise VariableMadeInStepError([str(kwargs.get("name") or "a variable")]) from error
        value = None
        if change_in_place:
            # Keras builds on a device without storage first, and hides errors there.
            with keras.device("cpu"):
                value = np.array(keras.ops.convert_to_numpy(variable))
        watched.made.append((variable, value))

    keras.Variable.__init__ = init
    try:
        yield watched
    finally:
        keras.Variable.__init__ = original
