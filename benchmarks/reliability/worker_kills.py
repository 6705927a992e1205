"""Two processes that train together, one of them killed 10 times at random instants.

After each kill the other one must end within a minute, with an error that says why, and both are
started again. In the end the run equals one that nothing interrupted, bit by bit.

python -m benchmarks.reliability.worker_kills
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path

END_SECS = 60
LATEST_SECS = 2.0
"""Instants are drawn from those up to so long after the first step that is announced."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=100)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), chosen.kills, chosen.seed, chosen.epochs)


def measure(folder: Path, kills: int, seed: int, epochs: int) -> None:
    """Kill, start again, and print what came of it."""
    from tests.distribution.processes import Workers

    plan = {"keeps_run": True, "announces": True, "epochs": epochs}
    draw = random.Random(seed)
    took: list[float] = []
    unclear = late = 0
    for number in range(kills):
        with Workers(folder / "killed", 2, **plan) as workers:
            workers.wait_for_step(None)
            time.sleep(draw.uniform(0.0, LATEST_SECS))
            killed = draw.randrange(2)
            if workers.processes[killed].poll() is not None:
                late += 1  # the training was over
                continue
            workers.processes[killed].kill()
            began = time.monotonic()
            status = workers.processes[1 - killed].wait(10 * END_SECS)
            took.append(time.monotonic() - began)
            said = workers.said(1 - killed)
            unclear += status == 0 or "PG453" not in said
            print(f"kill {number + 1}: worker {killed}, the other ended in {took[-1]:.1f} s")
    results = {}
    for name in ("killed", "straight"):
        with Workers(folder / name, 2, **plan) as workers:
            assert workers.ended() == [0, 0], workers.said(0) + workers.said(1)
            results[name] = workers.result(0)
    same = all(
        value.tobytes() == results["straight"][key].tobytes()
        for key, value in results["killed"].items()
    )
    print(f"kills: {len(took)}, and {late} after the end; without a clear error: {unclear}")
    print(f"the other ended within {max(took, default=0.0):.1f} s; allowed: {END_SECS} s")
    print(f"equal to a training that nothing interrupted, bit by bit: {same}")


if __name__ == "__main__":
    main()
