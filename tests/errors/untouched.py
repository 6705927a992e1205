"""What an error must leave as it was: the state of a step, and Keras itself."""

from typing import Any

import keras

import perigee as pg
from perigee._step.state import snapshot, track

PATCHED = (
    (keras.Layer, ("__call__", "add_loss", "losses")),
    (keras.Loss, ("__call__",)),
    (keras.Metric, ("__call__", "update_state", "reset_state", "result")),
    (keras.Variable, ("value", "assign")),
    (keras.random.SeedGenerator, ("next",)),
)


def methods_of_keras() -> dict[str, Any]:
    """Return what Perigee patches while it looks at a step, as it stands now."""
    return {
        f"{owner.__name__}.{name}": vars(owner).get(name)
        for owner, names in PATCHED
        for name in names
    }


def state_of(step: Any) -> dict[int, tuple[str, bytes]]:
    """Return the bits of each variable that a step holds, and its name."""
    if not isinstance(step, pg.Step):
        return {}
    tracked = track(step)
    values = snapshot(tracked.variables)
    return {
        id(entry.variable): (entry.name, value.tobytes())
        for entry, value in zip(tracked.entries, values, strict=True)
    }
