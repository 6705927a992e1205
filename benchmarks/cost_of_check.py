"""What `check` takes, once the framework is imported and the model is built.

The digits example, as it stands, each time in a process of its own. "Again" is a second check of
the same Step, which finds what the framework has made ready.

    python -m benchmarks.cost_of_check --backend tensorflow
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

from benchmarks import options
from benchmarks.facts import ROOT, facts, write

BATCH_SIZE = 64


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    return made


def main() -> None:
    if "--child" in sys.argv:  # what the parent chose stands in the environment already
        print(json.dumps(checked()))
        return
    chosen = options.parse(parser())
    result = measure(chosen)
    for run in result["runs"]:
        print(run)
    write(result, f"cost_of_check-{chosen.backend}", chosen.out)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Start the processes, one after another, and return what the report needs of them."""
    repeats = 1 if chosen.quick else chosen.repeats
    return {
        "kind": "cost_of_check",
        **facts(chosen.backend),
        "batch_size": BATCH_SIZE,
        "repeats": repeats,
        "runs": [_fresh() for _ in range(repeats)],
    }


def _fresh() -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.cost_of_check", "--child"]
    ran = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    if ran.returncode:
        raise RuntimeError(f"The process failed:\n{ran.stderr}")
    return json.loads(ran.stdout.splitlines()[-1])


def checked() -> dict[str, Any]:
    """Check the example twice, and return what each time took, and what was found."""
    import keras
    from examples import digits

    import perigee as pg

    keras.utils.set_random_seed(digits.SEED)
    data, _ = digits.load_data()
    step = digits.Agreement(digits.make_model())
    # The framework starts with its first operation.
    keras.ops.convert_to_numpy(keras.ops.ones((2, 2)) + 1.0)
    found: dict[str, Any] = {}
    for name in ("first", "again"):
        wall, processor = time.perf_counter(), time.process_time()
        report = pg.check(step, data, batch_size=BATCH_SIZE)
        found[name] = {
            "seconds": round(time.perf_counter() - wall, 3),
            "processor_seconds": round(time.process_time() - processor, 3),
            "findings": [finding.code for finding in report],
        }
    return found


if __name__ == "__main__":
    main()
