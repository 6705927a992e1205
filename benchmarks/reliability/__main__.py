"""Everything that may happen to a training from outside, and what it cost, as a table.

    python -m benchmarks.reliability [--part 1.0] [--backend tensorflow] [--seed 0] [--out FOLDER]

300 kills (100 inside a save, 100 in a validation or a callback, 100 anywhere), 200 damaged files,
20 full disks, and 20 run directories that are deleted or renamed in mid-training. `--part 0.1` does
a tenth of each. Exits with 1 if anything was lost, or was not said. The whole is written to
`benchmarks/results`, unless `--out` names another folder.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

CHAINS = 2
"""Runs that are killed side by side."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=["tensorflow", "jax", "torch"], default="tensorflow")
    parser.add_argument("--part", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    os.environ["KERAS_BACKEND"] = chosen.backend
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        began = time.monotonic()
        table = measure(Path(folder), chosen.part, chosen.seed)
        seconds = round(time.monotonic() - began)
    if chosen.part == 1 or chosen.out:
        from benchmarks.facts import facts, write

        result = {"kind": "reliability", **facts(chosen.backend), "faults": table}
        write({**result, "seconds": seconds}, f"reliability-{chosen.backend}", chosen.out)
    print(f"{seconds} s")
    return int(any(met and (met["lost"] or met["silent"]) for met in table.values()))


HOUR = 3600.0  # seconds; many faults are met in one process


def measure(folder: Path, part: float, seed: int) -> dict[str, dict[str, int] | None]:
    """Do all of it, print the table, and return it."""
    from benchmarks.reliability import faults

    from tests.reliability.processes import run

    def child(name: str, function: Any, *arguments: Any) -> Any:
        place = folder / name
        place.mkdir()
        return run(place, function, str(place), *arguments, most_seconds=HOUR).returned()

    share = lambda whole: max(1, round(whole * part))  # noqa: E731
    with ThreadPoolExecutor(CHAINS) as pool:
        halves = [
            pool.submit(child, f"damage-{half}", faults.damage, share(200 / CHAINS), seed + half)
            for half in range(CHAINS)
        ]
        vanishing = pool.submit(child, "vanishing", faults.vanishing, share(20), seed)
        disks = pool.submit(child, "disks", faults.full_disks, share(20))
        chains = [
            pool.submit(killed, folder / f"kills-{chain}", part / CHAINS, seed + chain)
            for chain in range(CHAINS)
        ]
    table: dict[str, dict[str, int] | None] = {}
    for each in [chain.result() for chain in chains]:
        table = added(table, each)
    for each in halves:
        table = added(table, {"damaged files": each.result()})
    table["full disks"] = disks.result()
    table["deleted or renamed directories"] = vanishing.result()
    print(f"{'':34}{'faults':>8}{'lost':>8}{'silent':>8}{'said':>8}")
    for name, met in table.items():
        if met is None:
            print(f"{name:34}  no disk can be mounted here")
            continue
        said = met.get("said", "")
        print(f"{name:34}{met['faults']:8}{met['lost']:8}{met['silent']:8}{said:>8}")
    return table


def killed(folder: Path, part: float, seed: int) -> dict[str, Any]:
    """Kill one run again and again; it must come to what a run comes to that nothing killed."""
    from tests.reliability import killing
    from tests.reliability.processes import run

    folder.mkdir()
    tenth = lambda whole: max(1, round(whole * part))  # noqa: E731
    counts: dict[killing.Where, int] = {
        "in a background save": tenth(50),
        "in the last save": tenth(50),
        "in a validation": tenth(50),
        "in a callback": tenth(50),
        "anywhere": tenth(100),
    }
    figures = killing.Figures()
    found, steps = killing.kill_often(folder, counts, seed, figures)
    straight = run(folder, killing.train, str(folder / "straight"), steps, 1).returned()
    table = {
        f"kills {where}": {"faults": count, "lost": 0, "silent": 0}
        for where, count in figures.kills.items()
    }
    # Which of them did it is not known: all are of one run.
    table["kills anywhere"]["lost"] = figures.lost + figures.unreadable
    table["kills anywhere"]["silent"] = int(found != straight)
    print(f"{figures.inside} kills left a save half done, {figures.finished} came after the end")
    return table


def added(table: Any, more: Any) -> Any:
    """Return the sum of two tables."""
    sums = {name: dict(met) for name, met in table.items()}
    for name, met in more.items():
        own = sums.setdefault(name, {})
        for key, value in met.items():
            own[key] = own.get(key, 0) + value
    return sums


if __name__ == "__main__":
    sys.exit(main())
