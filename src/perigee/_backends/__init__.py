"""The frameworks: one folder each behind one contract; Keras chooses which one runs."""

import functools
import importlib
from typing import cast

import keras

from perigee._backends._protocol import MOST_STEPS_A_BLOCK as MOST_STEPS_A_BLOCK
from perigee._backends._protocol import Backend as Backend
from perigee._backends._protocol import Capabilities as Capabilities
from perigee._backends._protocol import Compiled as Compiled
from perigee._backends._protocol import Differentiated as Differentiated
from perigee._backends._protocol import Mode as Mode
from perigee._backends._protocol import Pending as Pending
from perigee._backends._protocol import Replicas as Replicas
from perigee._backends._protocol import StateObject as StateObject
from perigee._backends._protocol import Watch as Watch
from perigee._errors import ArgumentError

_WITH_A_ROOM = ("tensorflow", "jax", "torch")


@functools.cache
def current() -> Backend:
    """Return the backend of the framework that Keras runs on.

    Raises:
        ArgumentError: If Perigee does not support it.
    """
    name = keras.backend.backend()
    if name not in _WITH_A_ROOM:
        raise ArgumentError(
            "KERAS_BACKEND",
            repr(name),
            f"one of {', '.join(_WITH_A_ROOM)}.",
            "set the environment variable KERAS_BACKEND before Keras is imported.",
        )
    return cast(Backend, importlib.import_module(f"perigee._backends.{name}").BACKEND)
