"""How long a save in the background keeps the caller: against a copy of the state by NumPy.

    KERAS_BACKEND=tensorflow python -m benchmarks.reliability.background_save [--rounds 15]

The state is that of a dense model with Adam. The caller is kept by the copy from the device and by
what is made ready for the thread; each round begins when the save before is done.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
from benchmarks.timing import median_interval, paired_ratios

import perigee as pg
from perigee._events.clock import Clock
from perigee._step.state import track
from perigee.checkpoints import Checkpoints, Content, arrays_of

UNITS = 1024
LAYERS = 8
LIMIT = 1.25


class Dense(pg.Step):
    """A model and its optimizer, built."""

    def __init__(self, units: int) -> None:
        hidden = [keras.layers.Dense(units, "relu") for _ in range(LAYERS)]
        self.model = keras.Sequential([keras.Input((units,)), *hidden])
        self.optimizer = keras.optimizers.Adam()
        self.optimizer.build(self.model.trainable_variables)


def seconds_of(run: Callable[[], None]) -> tuple[float, float]:
    """Return how long a call took, and how much of that its thread was computing."""
    began, computed = time.perf_counter(), time.thread_time()
    run()
    return time.perf_counter() - began, time.thread_time() - computed


def main() -> None:
    """Measure, and print the ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--units", type=int, default=UNITS)
    parser.add_argument("--directory", help="where to write")
    arguments = parser.parse_args()
    tracked = track(Dense(arguments.units))
    state = list(arrays_of(tracked).values())
    size_bytes = sum(array.nbytes for array in state)
    with (
        tempfile.TemporaryDirectory(dir=arguments.directory) as folder,
        Checkpoints(folder, keep=1) as checkpoints,
    ):
        clock = Clock()
        facts = {"history": {"loss": [0.5] * 1000}}

        def copy() -> None:
            [np.copy(array) for array in state]

        def save() -> None:
            nonlocal clock
            clock = clock.after_steps(1)
            saved = Content(clock, arrays_of(tracked), facts, {"batches": clock.step})
            checkpoints.save(saved, background=True)

        copies: list[tuple[float, float]] = []
        saves: list[tuple[float, float]] = []
        for _ in range(arguments.rounds + 2):
            checkpoints.wait()  # nothing is written while the two are timed
            copies.append(seconds_of(copy))
            saves.append(seconds_of(save))
    print(f"{keras.backend.backend()}, {size_bytes / 1e6:.0f} MB, {len(state)} variables")
    for index, clock_name in enumerate(("time", "processor time of the caller")):
        # Without the first ones, which meet cold memory.
        ours = [pair[index] for pair in saves[2:]]
        theirs = [pair[index] for pair in copies[2:]]
        ratios = paired_ratios(ours, theirs)
        low, high = median_interval(ratios)
        print(
            f"{clock_name}: a copy by NumPy {statistics.median(theirs) * 1e3:.1f} ms, a save "
            f"{statistics.median(ours) * 1e3:.1f} ms; ratio {np.median(ratios):.2f} "
            f"({low:.2f} to {high:.2f}); the limit is {LIMIT}."
        )


if __name__ == "__main__":
    main()
