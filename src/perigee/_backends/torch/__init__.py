# pyright: basic
"""torch: tensors that record their computation, and variables that change in place."""

from perigee._backends import _alone, _placement
from perigee._backends._protocol import Capabilities
from perigee._backends._room import Room
from perigee._backends.torch import (
    compiling,
    gradients,
    modules,
    profiling,
    settings,
    states,
    tensors,
)

BACKEND = Room(
    "torch",
    Capabilities(
        modes=("eager",),
        plans=(("eager", False),),
        fuses=False,
        fuses_ragged=(),
        fuses_ragged_end=(),
        streams=False,
        compiles_operations=False,
        passes_state=False,
        shares_memory=True,
    ),
    tensors,
    gradients,
    modules,
    compiling,
    profiling,
    settings,
    states,
    _alone,
    _placement,
)
