"""Microseconds a step of one workload: Perigee beside all others, in turn, in one process.

Each contestant trains a model of its own on the same arrays. A round is some epochs of each, with
what a user calls for it: `fit` is timed from call to return, Perigee's and Keras's alike, and loops
by hand reset their metrics, go over the data and read their metrics, epoch by epoch. Compiling and
planning fall into the warm-up and are reported apart; Perigee's warm-up holds a training as long as
all rounds together, since that is what it plans for.

    python -m benchmarks.contest dense --backend tensorflow --batch-size 32
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import options
from benchmarks.facts import facts, write
from benchmarks.timing import in_turn, median_interval, paired_ratios

if TYPE_CHECKING:  # the framework is chosen on the command line, before it is imported
    from benchmarks.contestants import Contestant

ROUND_SECONDS = 0.3
MOST_EPOCHS = 40
HOPELESS = 6.0
LONG_ROUND_SECONDS = 6.0
"""Who takes this long for a round, and that many times longer than Perigee on arrays, has only its
warm-up reported and takes no part in the rounds."""


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("workload", choices=options.WORKLOAD_NAMES)
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--rounds", type=int, help="15, and with --quick 3")
    made.add_argument("--rows", type=int, help="rows of an epoch, in place of the workload's")
    made.add_argument(
        "--fit-budget",
        type=float,
        default=15.0,
        metavar="SECONDS",
        help="give up a setting of fit whose first epoch takes longer; 0 tries none",
    )
    made.add_argument(
        "--round-seconds",
        type=float,
        default=ROUND_SECONDS,
        help="a round has as many epochs as the fastest trains in this time; the longer it "
        "is, the less weighs what a call of fit does once",
    )
    made.add_argument(
        "--steps-per-execution",
        type=int,
        nargs="+",
        help="what is tried of fit; by default several, which takes most of the time",
    )
    made.add_argument("--orbit", type=Path, help="a folder that holds Orbit")
    return made


def main() -> None:
    chosen = options.parse(parser())
    result = measure(chosen)
    print(as_text(result))
    write(result, f"{chosen.workload}-{chosen.backend}-{chosen.batch_size}", chosen.out)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Run the contest and return what the report needs of it."""
    import keras

    from benchmarks.contestants import contestants, keras_fit, steps_an_epoch
    from benchmarks.workloads import WORKLOADS

    keras.utils.set_random_seed(0)
    workload = WORKLOADS[chosen.workload]()
    if chosen.rows or chosen.quick:
        whole = chosen.batch_size * workload.micro_batches
        wanted = chosen.rows or 4 * whole + (whole // 2 if workload.micro_batches == 1 else 0)
        workload.rows = wanted if workload.micro_batches == 1 else wanted // whole * whole
    rounds = chosen.rounds or (3 if chosen.quick else 15)
    steps = steps_an_epoch(workload.rows, chosen.batch_size)
    running = contestants(workload, chosen.batch_size, chosen.orbit)
    tried: list[keras_fit.Tried] = []
    if chosen.fit_budget:
        few = (1, 8) if chosen.quick else keras_fit.STEPS_PER_EXECUTION
        few = tuple(chosen.steps_per_execution or few)
        tried = keras_fit.search(workload, chosen.batch_size, chosen.fit_budget, few)
        measured = [t for t in tried if t.microseconds is not None]
        if measured:
            best = min(measured, key=lambda t: t.microseconds or 0)
            running.append(keras_fit.with_setting(workload, chosen.batch_size, best))
    first = {c.key: _seconds(c, 1) for c in running}
    # No second epoch for whoever cannot have spent the first one compiling.
    late = LONG_ROUND_SECONDS + HOPELESS * first["perigee_arrays"]
    epoch = {c.key: first[c.key] if first[c.key] > late else _seconds(c, 1) for c in running}
    fastest = min(epoch[c.key] for c in running if c.key != "floor")
    epochs = 1 if chosen.quick else max(1, min(MOST_EPOCHS, round(chosen.round_seconds / fastest)))
    bound = max(LONG_ROUND_SECONDS, HOPELESS * epoch["perigee_arrays"] * epochs)
    racing = [c for c in running if epoch[c.key] * epochs <= bound or c.key.startswith("perigee")]
    logs: dict[str, Mapping[str, float]] = {}

    def one_round(contestant: Contestant) -> None:
        logs[contestant.key] = contestant.train(epochs)

    runs = {c.key: partial(one_round, c) for c in racing}
    for contestant in racing:
        if contestant.key.startswith("perigee") and not chosen.quick:
            # A plan is made for the steps ahead, which are those of all rounds together.
            contestant.train(epochs * rounds)
    in_turn(runs, 1 if chosen.quick else 2)
    seconds = in_turn(runs, rounds)
    return {
        "kind": "contest",
        **facts(chosen.backend),
        "workload": workload.name,
        "title": workload.title,
        "batch_size": chosen.batch_size,
        "rows": workload.rows,
        "steps_an_epoch": steps,
        "epochs_a_round": epochs,
        "rounds": rounds,
        "contestants": [
            {
                "key": c.key,
                "name": c.name,
                "note": c.note,
                "plan": c.plan(),
                "first_epoch_seconds": round(first[c.key], 4),
                "warm_up_microseconds": round(epoch[c.key] / steps * 1e6, 2),
                "microseconds": [
                    round(value / steps / epochs * 1e6, 2) for value in seconds.get(c.key, [])
                ],
                "logged": logs.get(c.key, {}).get(workload.headline),
            }
            for c in running
        ],
        "fit_settings": [t.as_dict() for t in tried],
    }


def _seconds(contestant: Contestant, epochs: int) -> float:
    began = time.perf_counter()
    contestant.train(epochs)
    return time.perf_counter() - began


def as_text(result: dict[str, Any]) -> str:
    """Return the result as a table, the fastest first."""
    ours = next(c for c in result["contestants"] if c["key"] == "perigee_arrays")
    lines = [
        f"{result['title']}, {result['backend']}, batch {result['batch_size']}: "
        f"{result['rounds']} rounds of {result['epochs_a_round']} epochs "
        f"of {result['steps_an_epoch']} steps",
        "| us a step, median | Perigee on arrays against it, median (95%) | logged | contestant |",
        "|---:|---:|---:|---|",
    ]

    def median(contestant: dict[str, Any]) -> float:
        values = contestant["microseconds"]
        return statistics.median(values) if values else contestant["warm_up_microseconds"]

    for contestant in sorted(result["contestants"], key=median):
        values = contestant["microseconds"]
        if not values or not ours["microseconds"]:
            ratio = "left out of the rounds" if not values else ""
        else:
            ratios = paired_ratios(ours["microseconds"], values)
            low, high = median_interval(ratios)
            ratio = f"{statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})"
        logged = "" if contestant["logged"] is None else f"{contestant['logged']:.4g}"
        plan = contestant["plan"].partition("\n")[0]
        name = contestant["name"] + (f": {plan}" if plan else "")
        lines.append(f"| {median(contestant):.1f} | {ratio} | {logged} | {name} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
