"""Load the zoo from one directory, if any, and save it in another, on the backend that runs.

KERAS_BACKEND=jax python -m tests.checkpoints.hand_over TO [FROM]
"""

import sys
from pathlib import Path

from perigee._events.clock import Clock
from perigee._step.state import track
from perigee.checkpoints import Checkpoints, Content, arrays_of, load_arrays
from tests.checkpoints.zoo import ZOO, scramble


def main(target: str, source: str | None = None) -> None:
    for number, make in enumerate(ZOO.values()):
        step = make()
        scramble(step, seed=number if source is None else 1000 + number)
        if source is not None:
            held = Checkpoints(Path(source, str(number))).load().content
            load_arrays(track(step), held.arrays)
        Checkpoints(Path(target, str(number))).save(
            Content(Clock(), arrays_of(track(step)), {}, {})
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
