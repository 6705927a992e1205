"""Exact resume, in full: each way to train, killed at each instant, against the straight training.

Half an hour on two quiet cores for each backend; `--data arrays` does one kind of data.

    python -m benchmarks.reliability.resume --backend tensorflow
"""

from __future__ import annotations

import argparse
import itertools
import os
import tempfile
import time
from pathlib import Path

BACKENDS = ["tensorflow", "jax", "torch"]
DATA = ["arrays", "pydataset", "list", "generator", "drawn", "tf.data", "tf.data-by-index", "torch"]
WAYS = [
    {"mode": "eager"},
    {"mode": "graph"},
    {"mode": "xla"},
    {"steps_per_call": 1},
    {"steps_per_call": 4},
    {"accumulate": 2, "optimizers": "one"},
    {"nonfinite": "skip"},
    {"optimizers": "one"},
]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--backend", choices=BACKENDS, default="tensorflow")
    made.add_argument("--data", choices=DATA, nargs="*", default=DATA)
    return made


def main() -> None:
    chosen = parser().parse_args()
    os.environ["KERAS_BACKEND"] = chosen.backend
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        compare(Path(folder), chosen.backend, chosen.data)


def compare(folder: Path, backend: str, data: list[str]) -> None:
    from perigee import _backends
    from tests.reliability.processes import run
    from tests.reliability.trainings import KILLS, Case, train

    modes = {"auto", *_backends.current().capabilities.modes}
    began, cases, kills, equal = time.monotonic(), 0, 0, 0
    for kind, way in itertools.product(data, WAYS):
        case = Case(kind, **way)
        if case.mode not in modes or (kind == "torch") > (backend == "torch"):
            continue
        place = folder / str(cases)
        place.mkdir()
        straight = run(place, train, str(place / "straight"), case).returned()
        cases += 1
        for kill in KILLS:
            path = str(place / str(kill))
            assert run(place, train, path, case, kill).was_killed()
            resumed = run(place, train, path, case)
            kills += 1
            is_equal = resumed.code == 0 and resumed.value == straight
            equal += is_equal
            if not is_equal:
                names = [n for n in straight if (resumed.value or {}).get(n) != straight[n]]
                print(f"{case}, {kill}: differs in {', '.join(names)}\n{resumed.output[-500:]}")
        print(f"{case}: {equal} of {kills} equal so far", flush=True)
    print(
        f"{backend}: {cases} trainings, {kills} kills, {equal} equal to the bit, "
        f"{time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
