"""One run, killed 300 times at random instants, 200 of them meant to be inside a save.

python -m benchmarks.reliability.kills --backend tensorflow
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

BACKENDS = ["tensorflow", "jax", "torch"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, default="tensorflow")
    parser.add_argument("--kills", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    os.environ["KERAS_BACKEND"] = chosen.backend
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        measure(Path(folder), chosen.kills, chosen.seed)


def measure(folder: Path, count: int, seed: int) -> None:
    from tests.reliability import killing
    from tests.reliability.processes import run

    third = count // 3
    counts = {
        "anywhere": count - 2 * third,
        "in a background save": third,
        "in the last save": third,
    }
    figures = killing.Figures()
    began = time.monotonic()
    killed, steps = killing.kill_often(folder, counts, seed, figures)
    straight = run(folder, killing.train, str(folder / "straight"), steps, 1).returned()
    print(f"kills: {figures.kills}, {figures.finished} of them after the end")
    print(f"left a save half done: {figures.inside}")
    print(f"unreadable checkpoints: {figures.unreadable}, steps lost: {figures.lost}")
    print(f"steps in the end: {steps}; equal to a straight training: {killed == straight}")
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
