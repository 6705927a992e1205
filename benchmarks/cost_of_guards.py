"""What `fit` pays for its guards, microseconds a step of the dense model.

With and without, in turn, each on a model of its own that begins anew: a guard that looks for a
loss that never falls goes home where an optimizer has made updates before. Timed from the end of
the first epoch to that of the last.

python -m benchmarks.cost_of_guards --backend tensorflow
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any, Literal

from benchmarks import options
from benchmarks.facts import facts, write
from benchmarks.timing import measured_in_turn

BATCH_SIZE = 32
EPOCHS = 21
NAMES = {"off": "without", "default": "with guards"}


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--rounds", type=int, default=15)
    return made


def main() -> None:
    chosen = options.parse(parser())
    result = measure(chosen)
    for run in result["runs"]:
        print(f"{run['name']}: {sorted(run['microseconds'])}")
    write(result, f"cost_of_guards-{chosen.backend}", chosen.out)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Train with and without guards in turn, and return what the report needs of it."""
    import keras

    from benchmarks.contestants import steps_an_epoch
    from benchmarks.steady import steady_seconds
    from benchmarks.workloads.classification import Dense

    keras.utils.set_random_seed(0)
    rounds, epochs = (2, 2) if chosen.quick else (chosen.rounds, EPOCHS)
    workload = Dense()
    if chosen.quick:
        workload.rows = 8 * BATCH_SIZE
    data = workload.data()

    def trained(guards: Literal["default", "off"]) -> Callable[[], float]:
        def run() -> float:
            return steady_seconds(
                workload.step(),
                data,
                epochs=epochs,
                batch_size=BATCH_SIZE,
                progress="off",
                guards=guards,
            )

        return run

    runs = {"off": trained("off"), "default": trained("default")}
    measured_in_turn(runs, 1)  # warm
    seconds = measured_in_turn(runs, rounds)
    steps = steps_an_epoch(workload.rows, BATCH_SIZE) * (epochs - 1)
    return {
        "kind": "cost_of_guards",
        **facts(chosen.backend),
        "batch_size": BATCH_SIZE,
        "steps": steps,
        "rounds": rounds,
        "runs": [
            {
                "key": key,
                "name": NAMES[key],
                "microseconds": [round(value / steps * 1e6, 2) for value in seconds[key]],
            }
            for key in runs
        ],
    }


if __name__ == "__main__":
    main()
