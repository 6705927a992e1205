"""Two processes that train together, one of them killed 10 times at random instants.

After each kill the other one must end within a minute, with an error that says why, and both are
started again. In the end the run equals one that nothing interrupted, bit by bit.

python -m benchmarks.reliability.worker_kills --backend jax
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
from pathlib import Path

BACKENDS = ["tensorflow", "jax"]
END_SECS = 60
LATEST_SECS = 2.0
"""Instants are drawn from those up to so long after the first step that is announced."""
CLEAR = ("WorkerLostError [PG453]", "JAX distributed service")
"""What the other one says, or JAX for it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--backend", choices=BACKENDS, default="tensorflow")
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=400)
    chosen = parser.parse_args()
    os.environ["KERAS_BACKEND"] = chosen.backend
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), chosen.backend, chosen.kills, chosen.seed, chosen.epochs)


def measure(folder: Path, backend: str, kills: int, seed: int, epochs: int) -> None:
    """Kill, start again, and print what came of it."""
    from tests.distribution.processes import Together

    (folder / "settings.json").write_text(json.dumps({"epochs": epochs}), encoding="utf-8")
    draw = random.Random(seed)
    took: list[float] = []
    unclear = late = 0
    for number in range(kills):
        with Together(folder, "to_be_killed", framework=backend) as together:
            together.wait_for_a_step()
            time.sleep(draw.uniform(0.0, LATEST_SECS))
            dying = draw.randrange(2)
            killed, other = (together.processes[index] for index in (dying, 1 - dying))
            if killed.poll() is not None:
                late += 1  # the training was over
                continue
            killed.kill()
            began = time.monotonic()
            status = other.wait(10 * END_SECS)
            took.append(time.monotonic() - began)
            said = together.outputs()[1 - dying]
            is_clear = status != 0 and any(words in said for words in CLEAR)
            unclear += not is_clear
            steps = said.count("step ")
            print(
                f"kill {number + 1}: process {dying}, after some {steps} steps; the other one "
                f"ended in {took[-1]:.1f} s" + ("" if is_clear else f", and said:\n{said[-3000:]}"),
                flush=True,
            )
    results = {}
    for name in ("to_be_killed", "never_killed"):
        with Together(folder, name, framework=backend) as together:
            results[name] = together.returned(name)
    same = results["to_be_killed"] == results["never_killed"]
    print(f"kills: {len(took)}, and {late} after the end; without a clear error: {unclear}")
    print(f"the other ended within {max(took, default=0.0):.1f} s; allowed: {END_SECS} s")
    print(f"equal to a training that nothing interrupted, bit by bit: {same}")


if __name__ == "__main__":
    main()
