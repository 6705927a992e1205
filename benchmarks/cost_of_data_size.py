"""What more data costs: the same number of steps over 1, 10 and 100 times the digits.

python -m benchmarks.cost_of_data_size --backend tensorflow
"""

from __future__ import annotations

import argparse
from functools import partial
from typing import Any

from benchmarks import options
from benchmarks.facts import facts, write
from benchmarks.timing import in_turn

TIMES = (1, 10, 100)
DIGITS = 1797
BATCH_SIZE = 32
STEPS = 1120  # 20 epochs of the digits, without their ragged last batch


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--rounds", type=int, default=7)
    return made


def main() -> None:
    chosen = options.parse(parser())
    result = measure(chosen)
    for run in result["runs"]:
        print(f"{run['name']}, {run['rows']} rows: {sorted(run['microseconds'])}")
    write(result, f"cost_of_data_size-{chosen.backend}", chosen.out)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Train over each number of rows in turn, and return what the report needs of it."""
    import keras

    import perigee as pg
    from benchmarks.workloads.classification import Dense

    keras.utils.set_random_seed(0)
    rounds, steps = (2, 20) if chosen.quick else (chosen.rounds, STEPS)
    runs: dict[tuple[str, int], Any] = {}
    for times in TIMES:
        workload = Dense()
        rows = DIGITS // BATCH_SIZE * BATCH_SIZE * times
        step, model, data = workload.step(), workload.fitted(), workload.data(rows)
        runs["perigee_arrays", times] = partial(
            pg.fit, step, data, steps=steps, batch_size=BATCH_SIZE, progress="off"
        )
        an_epoch = min(steps, rows // BATCH_SIZE)
        runs["fit", times] = partial(
            model.fit,
            *data,
            batch_size=BATCH_SIZE,
            epochs=steps // an_epoch,
            steps_per_epoch=an_epoch,
            verbose=0,
        )
    in_turn(runs, 1 if chosen.quick else 2)  # warm
    seconds = in_turn(runs, rounds)
    names = {"perigee_arrays": "Perigee, arrays", "fit": "Keras fit"}
    return {
        "kind": "cost_of_data_size",
        **facts(chosen.backend),
        "batch_size": BATCH_SIZE,
        "steps": steps,
        "rounds": rounds,
        "runs": [
            {
                "key": key,
                "name": names[key],
                "rows": DIGITS // BATCH_SIZE * BATCH_SIZE * times,
                "microseconds": [
                    round(value / _steps(key, times, steps) * 1e6, 2)
                    for value in seconds[key, times]
                ],
            }
            for key, times in runs
        ],
    }


def _steps(key: str, times: int, steps: int) -> int:
    """Return how many steps a run really made: `fit` makes whole epochs."""
    an_epoch = min(steps, DIGITS // BATCH_SIZE * times)
    return steps // an_epoch * an_epoch if key == "fit" else steps


if __name__ == "__main__":
    main()
