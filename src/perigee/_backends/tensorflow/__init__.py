# pyright: basic
"""TensorFlow: gradient tapes, functions and variables that change in place."""

from perigee._backends import _objects, _placement, _traced, _without_objects
from perigee._backends._protocol import Capabilities
from perigee._backends._room import Room
from perigee._backends.tensorflow import (
    blocks,
    compiling,
    gradients,
    one_device,
    profiling,
    replicas,
    tensors,
    variables,
)

BACKEND = Room(
    "tensorflow",
    Capabilities(
        modes=("graph", "eager", "xla"),
        plans=(("graph", True), ("xla", True)),
        fuses=True,
        fuses_ragged=("graph",),
        fuses_ragged_end=("graph",),
        streams=True,
        compiles_operations=False,
        passes_state=False,
        shares_memory=False,
    ),
    tensors,
    gradients,
    compiling,
    profiling,
    blocks,
    one_device,
    replicas,
    variables,
    _placement,
    _traced,
    _without_objects,
    _objects,
)
