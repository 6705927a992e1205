"""How much of the state of many models comes back, here and with `tf.train.Checkpoint`.

    python -m benchmarks.reliability.completeness

Each model of the zoo in the tests is saved, and loaded into a fresh instance that has other
values. Counted are the variables whose every bit came back. `tf.train.Checkpoint` is given the
attributes of the Step under their names; those that it refuses are left out.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tensorflow as tf

from perigee._events.clock import Clock
from perigee._step.state import track
from perigee.checkpoints import Checkpoints, Content, arrays_of, load_arrays
from tests.checkpoints.zoo import ZOO, Holding, bits_of, scramble


def by_perigee(saved: Holding, fresh: Holding, folder: Path) -> None:
    """Save one and load it into the other."""
    checkpoints = Checkpoints(folder)
    checkpoints.save(Content(Clock(), arrays_of(track(saved)), {}, {}))
    load_arrays(track(fresh), checkpoints.load().content.arrays)


def by_tensorflow(saved: Holding, fresh: Holding, folder: Path) -> None:
    """Save one and load it into the other."""
    path = tf.train.Checkpoint(**_trackable(saved)).write(str(folder / "state"))
    tf.train.Checkpoint(**_trackable(fresh)).read(path).expect_partial()


def _trackable(step: Holding) -> dict[str, Any]:
    taken: dict[str, Any] = {}
    for name, value in vars(step).items():
        try:
            tf.train.Checkpoint(**{name: value})
        except ValueError:  # metrics, seed generators and other Steps
            continue
        taken[name] = value
    return taken


def main() -> int:
    """Print the table; return 1 if anything was lost here."""
    ours = theirs = total = 0
    whole = {"here": 0, "there": 0}
    print(f"{'':38}{'variables':>10}{'perigee':>9}{'tf.train.Checkpoint':>21}")
    for name, make in ZOO.items():
        counts = []
        for save in (by_perigee, by_tensorflow):
            saved, fresh = make(), make()
            scramble(saved, seed=1)
            scramble(fresh, seed=2)
            same_before = [a == b for a, b in zip(bits_of(saved), bits_of(fresh), strict=True)]
            with tempfile.TemporaryDirectory() as folder:
                save(saved, fresh, Path(folder))
            came_back = [a == b for a, b in zip(bits_of(saved), bits_of(fresh), strict=True)]
            # What is the same in any two, such as an empty variable, proves nothing.
            told = [back for back, same in zip(came_back, same_before, strict=True) if not same]
            counts.append((sum(told), len(told)))
        (here, count), (there, count_there) = counts
        whole["here"] += here == count
        whole["there"] += there == count_there
        ours, theirs, total = ours + here, theirs + there, total + count
        print(f"{name:38}{count:10}{here:9}{there:21}")
    print(f"{'all':38}{total:10}{ours:9}{theirs:21}")
    print(f"{'models that came back whole':38}{len(ZOO):10}{whole['here']:9}{whole['there']:21}")
    return 0 if ours == total else 1


if __name__ == "__main__":
    sys.exit(main())
