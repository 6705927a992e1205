"""Train one more epoch of a run on the framework that runs, and say what was taken and left.

KERAS_BACKEND=jax python -m tests.reliability.hand_over PATH EPOCHS
"""

import json
import sys

import numpy as np

import perigee as pg
from perigee._step.state import snapshot, track
from tests.reliability.trainings import BATCH, Everything, digest, rows


def weights(step):
    """Return a checksum of each variable; whole numbers have other dtypes elsewhere."""
    tracked = track(step)
    values = [np.asarray(value) for value in snapshot(tracked.variables)]
    values = [value.astype("int64") if value.dtype.kind in "iu" else value for value in values]
    return {entry.key: digest(v) for entry, v in zip(tracked.entries, values, strict=True)}


class Look(pg.Hook):
    """Sees the Step as it was loaded, and as it is saved."""

    def __init__(self, step):
        self.step, self.taken, self.left = step, {}, {}

    def on_start(self, event):
        self.taken = weights(self.step)

    def on_record(self, event):
        self.left = weights(self.step)  # before the averages take the place of the weights


def main(path, epochs):
    step = Everything()
    look = Look(step)
    history = pg.fit(
        step, rows(), epochs=int(epochs), batch_size=BATCH, seed=1, callbacks=[look], run=path
    )
    start = history.resumed_from.step if history.resumed_from else None
    found = {"taken": look.taken, "left": look.left, "loss": history.history["loss"]}
    print(json.dumps(found | {"from": start, "to": history.clock.step}))


if __name__ == "__main__":
    main(*sys.argv[1:])
