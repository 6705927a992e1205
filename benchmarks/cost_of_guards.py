"""What `fit` pays for its guards, and for looking whether its state is finite.

Microseconds a step of the dense model, with and without, in turn, each on a model of its own that
begins anew: a guard that looks for a loss that never falls goes home where an optimizer has made
updates before. Timed from the end of the first epoch to that of the last.

python -m benchmarks.cost_of_guards --backend tensorflow --batch-size 32
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

from benchmarks import options
from benchmarks.facts import facts, write
from benchmarks.timing import measured_in_turn

EPOCHS = 21
NAMES = {
    "nothing": "without",
    "off": "looking at the state",
    "default": "looking at the state, and guards",
}


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--rounds", type=int, default=15)
    return made


def main() -> None:
    chosen = options.parse(parser())
    result = measure(chosen)
    for run in result["runs"]:
        print(f"{run['name']}: {sorted(run['microseconds'])}")
    write(result, f"cost_of_guards-{chosen.backend}-{chosen.batch_size}", chosen.out)


@contextmanager
def without_the_look() -> Generator[None]:
    """Let a training believe that its state is finite; there is no argument for it."""
    from keras import ops

    from perigee._execution.finite import Written

    look, total = Written.no_longer_finite, Written.total
    Written.no_longer_finite, Written.total = lambda self: [], lambda self: ops.zeros(())
    try:
        yield
    finally:
        Written.no_longer_finite, Written.total = look, total


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Train with and without each in turn, and return what the report needs of it."""
    import keras

    from benchmarks.contestants import steps_an_epoch
    from benchmarks.steady import steady_seconds
    from benchmarks.workloads.classification import Dense

    keras.utils.set_random_seed(0)
    size = chosen.batch_size
    rounds, epochs = (2, 2) if chosen.quick else (chosen.rounds, EPOCHS)
    workload = Dense()
    if chosen.quick:
        workload.rows = 8 * size
    data = workload.data()

    def trained(guards: Literal["default", "off"], looks: bool = True) -> Callable[[], float]:
        def run() -> float:
            with nullcontext() if looks else without_the_look():
                return steady_seconds(
                    workload.step(),
                    data,
                    epochs=epochs,
                    batch_size=size,
                    progress="off",
                    guards=guards,
                )

        return run

    runs = {
        "nothing": trained("off", looks=False),
        "off": trained("off"),
        "default": trained("default"),
    }
    measured_in_turn(runs, 1)  # warm
    seconds = measured_in_turn(runs, rounds)
    steps = steps_an_epoch(workload.rows, size) * (epochs - 1)
    return {
        "kind": "cost_of_guards",
        **facts(chosen.backend),
        "batch_size": size,
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
