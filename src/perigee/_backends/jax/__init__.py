# pyright: basic
"""JAX: pure functions of values, with scopes in which Keras variables seem to change."""

from perigee._backends import _alone, _objects, _traced, _without_objects
from perigee._backends._protocol import Capabilities
from perigee._backends._room import Room
from perigee._backends.jax import (
    blocks,
    compiling,
    gradients,
    placement,
    processes,
    profiling,
    tensors,
)

BACKEND = Room(
    "jax",
    Capabilities(
        modes=("graph", "eager", "xla"),
        plans=(("graph", True), ("graph", False)),
        fuses=True,
        fuses_ragged=(),
        fuses_ragged_end=("graph", "xla"),
        streams=False,
        compiles_operations=True,
        passes_state=True,
        shares_memory=True,
        keeps_values=True,
        has_zero_gradients=True,
    ),
    tensors,
    gradients,
    compiling,
    profiling,
    blocks,
    placement,
    processes,
    _alone,
    _traced,
    _without_objects,
    _objects,
)
