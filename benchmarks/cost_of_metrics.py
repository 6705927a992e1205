"""What metrics cost: none, 2 and 10 of them, microseconds a step of the dense model.

python -m benchmarks.cost_of_metrics --backend tensorflow
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import options
from benchmarks.facts import facts, write
from benchmarks.timing import in_turn

NUM_METRICS = (0, 2, 10)
BATCH_SIZE = 32


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--rounds", type=int, default=9)
    return made


def main() -> None:
    chosen = options.parse(parser())
    result = measure(chosen)
    for run in result["runs"]:
        print(f"{run['name']}, {run['num_metrics']} metrics: {sorted(run['microseconds'])}")
    write(result, f"cost_of_metrics-{chosen.backend}", chosen.out)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Train with each number of metrics in turn, and return what the report needs of it."""
    import keras

    from benchmarks.contestants import contestants, steps_an_epoch
    from benchmarks.workloads.classification import Dense

    keras.utils.set_random_seed(0)
    rounds = 2 if chosen.quick else chosen.rounds
    running = {}
    for num_metrics in NUM_METRICS:
        workload = Dense(num_metrics=num_metrics)
        if chosen.quick:
            workload.rows = 4 * BATCH_SIZE
        for contestant in contestants(workload, BATCH_SIZE, wanted=options.MAIN_CONTESTANTS):
            running[contestant.key, num_metrics] = contestant
    steps = steps_an_epoch(workload.rows, BATCH_SIZE)
    for contestant in running.values():
        # A plan is made for the steps of all rounds together, and the next call makes none.
        contestant.train(rounds)
        contestant.train(1)
    seconds = in_turn({key: lambda c=c: c.train(1) for key, c in running.items()}, rounds)
    return {
        "kind": "cost_of_metrics",
        **facts(chosen.backend),
        "batch_size": BATCH_SIZE,
        "rounds": rounds,
        "runs": [
            {
                "key": key,
                "name": contestant.name,
                "num_metrics": num_metrics,
                "microseconds": [
                    round(value / steps * 1e6, 2) for value in seconds[key, num_metrics]
                ],
            }
            for (key, num_metrics), contestant in running.items()
        ],
    }


if __name__ == "__main__":
    main()
