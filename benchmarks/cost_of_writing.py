"""What is paid for being told, and for being saved: all of it at every 100 steps.

Timed from the end of the first epoch to that of the last: making the run's directory, and the save
when it ends, are no part of it.

python -m benchmarks.cost_of_writing --backend tensorflow
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import io
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import options
from benchmarks.facts import facts, write
from benchmarks.timing import measured_in_turn

EVERY_STEPS = 100
BATCH_SIZE = 32
EPOCHS = 11


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--rounds", type=int, default=15)
    return made


def main() -> None:
    chosen = options.parse(parser())
    result = measure(chosen)
    for run in result["runs"]:
        print(f"{run['name']}: {sorted(run['microseconds'])}")
    write(result, f"cost_of_writing-{chosen.backend}", chosen.out)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Train with each set of writers in turn, and return what the report needs of it."""
    import keras

    import perigee as pg
    from benchmarks.contestants import steps_an_epoch
    from benchmarks.steady import steady_seconds
    from benchmarks.workloads.classification import Dense

    keras.utils.set_random_seed(0)
    rounds, epochs = (2, 2) if chosen.quick else (chosen.rounds, EPOCHS)
    workload = Dense()
    if chosen.quick:
        workload.rows = 8 * BATCH_SIZE
    data = workload.data()
    folder = Path(tempfile.mkdtemp(prefix="benchmark-"))
    every = pg.Every(steps=EVERY_STEPS)
    never = pg.Every(steps=10**9)

    def trained(
        progress: Any, is_kept: bool, has_tensorboard: bool, is_saved: bool = False
    ) -> Callable[[], float]:
        step = workload.step()

        def run() -> float:
            place = Path(tempfile.mkdtemp(dir=folder)) / "run"
            kept = pg.Run(
                place,
                record_every=every,
                save_every=every if is_saved else never,
                tensorboard=has_tensorboard,
            )
            with contextlib.redirect_stdout(io.StringIO()):
                return steady_seconds(
                    step,
                    data,
                    epochs=epochs,
                    batch_size=BATCH_SIZE,
                    progress=progress,
                    run=kept if is_kept else None,
                )

        return run

    runs = {
        "nothing": trained("off", False, False),
        "display": trained("bar", False, False),
        "display and JSON lines": trained("bar", True, False),
    }
    runs["JSON lines"] = trained("off", True, False)
    runs["JSON lines and checkpoints"] = trained("off", True, False, is_saved=True)
    has_tensorboard = importlib.util.find_spec("tensorboard") is not None
    if has_tensorboard:
        runs["display, JSON lines and TensorBoard"] = trained("bar", True, True)
    measured_in_turn(runs, 1 if chosen.quick else 2)  # warm
    seconds = measured_in_turn(runs, rounds)
    shutil.rmtree(folder)
    steps = steps_an_epoch(workload.rows, BATCH_SIZE) * (epochs - 1)
    return {
        "kind": "cost_of_writing",
        **facts(chosen.backend),
        "batch_size": BATCH_SIZE,
        "every_steps": EVERY_STEPS,
        "steps": steps,
        "rounds": rounds,
        "has_tensorboard": has_tensorboard,
        "runs": [
            {
                "name": name,
                "microseconds": [round(value / steps * 1e6, 2) for value in seconds[name]],
            }
            for name in runs
        ],
    }


if __name__ == "__main__":
    main()
