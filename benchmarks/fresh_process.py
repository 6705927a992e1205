"""Time to the first step, and peak memory, each in a process of its own.

The clock starts with the process, so that imports are part of it, as they are for a user; what the
imports take is reported apart. The first step is done when the first call that trains comes back:
after one step, or after the first block of steps where they run in blocks. "Again" is a second
process that finds what the first one has stored, which is Perigee's plan.

    python -m benchmarks.fresh_process --backend tensorflow
"""

from __future__ import annotations

import time

BEGAN = time.perf_counter()

import argparse  # noqa: E402
import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402

from benchmarks import options  # noqa: E402
from benchmarks.facts import ROOT, facts, write  # noqa: E402

WAYS = {
    "imports": "imports, and nothing trained",
    "perigee": "Perigee, arrays",
    "perigee_again": "Perigee, arrays, again",
    "fit": "Keras fit",
    "by_hand": "hand-written loop",
}
EPOCHS = 10


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--workload", choices=options.WORKLOAD_NAMES, default="dense")
    made.add_argument("--batch-size", type=int, default=32)
    made.add_argument("--repeats", type=int, default=3)
    made.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    return made


def main() -> None:
    if "--child" in sys.argv:  # what the parent chose stands in the environment already
        print(json.dumps(train(parser().parse_args())))
        return
    chosen = options.parse(parser())
    result = measure(chosen)
    for way in result["ways"]:
        print(way["name"], way["runs"])
    write(result, f"fresh_process-{chosen.backend}", chosen.out)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Start the processes, one after another, and return what the report needs of them."""
    repeats = 1 if chosen.quick else chosen.repeats
    ways = ["imports", "perigee"] if chosen.quick else list(WAYS)
    runs: dict[str, list[dict[str, float]]] = {way: [] for way in ways}
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as cache:
            for way in ways:
                runs[way].append(_fresh(way, chosen, cache))
    return {
        "kind": "fresh_process",
        **facts(chosen.backend),
        "workload": chosen.workload,
        "batch_size": chosen.batch_size,
        "epochs": 1 if chosen.quick else EPOCHS,
        "repeats": repeats,
        "ways": [{"key": way, "name": WAYS[way], "runs": runs[way]} for way in ways],
    }


def _fresh(way: str, chosen: argparse.Namespace, cache: str) -> dict[str, float]:
    words = [sys.executable, "-m", "benchmarks.fresh_process", "--child", way]
    words += ["--workload", chosen.workload, "--batch-size", str(chosen.batch_size)]
    words += ["--quick"] if chosen.quick else []
    environment = {**os.environ, "XDG_CACHE_HOME": cache}
    ran = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=ROOT)
    if ran.returncode:
        raise RuntimeError(f"The process for {way} failed:\n{ran.stderr}")
    return json.loads(ran.stdout.splitlines()[-1])


def train(chosen: argparse.Namespace) -> dict[str, float]:
    """Train in this process, and return seconds since it began, and its peak memory."""
    marks: dict[str, float] = {}

    def mark(name: str) -> None:
        marks.setdefault(name, time.perf_counter() - BEGAN)

    from benchmarks.workloads import WORKLOADS

    if chosen.child.startswith("perigee"):
        import perigee as pg

        pg.fit  # noqa: B018  loads it
    mark("imported")
    np.random.seed(0)  # `keras.utils.set_random_seed` imports TensorFlow on every framework
    workload = WORKLOADS[chosen.workload]()
    epochs = 1 if chosen.quick else EPOCHS
    if chosen.child.startswith("perigee"):
        _perigee(workload, chosen.batch_size, epochs, mark)
    elif chosen.child == "fit":
        _fit(workload, chosen.batch_size, epochs, mark)
    elif chosen.child == "by_hand":
        _by_hand(workload, chosen.batch_size, epochs, mark)
    mark("trained")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # in KiB, on macOS in bytes
    mebibytes = peak / 1024 if sys.platform != "darwin" else peak / 2**20
    return {**marks, "peak_mebibytes": mebibytes}


def _perigee(workload: Any, batch_size: int, epochs: int, mark: Any) -> None:
    import perigee as pg

    class Watch(pg.Hook):
        def on_steps(self, event: Any) -> None:
            mark("first_step")

    pg.fit(
        workload.step(),
        workload.data(),
        batch_size=batch_size,
        epochs=epochs,
        accumulate=workload.micro_batches,
        callbacks=[Watch()],
        progress="off",
    )


def _fit(workload: Any, batch_size: int, epochs: int, mark: Any) -> None:
    import keras

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            mark("first_step")

    data = workload.data()
    arrays = data if isinstance(data, tuple) else (data,)
    workload.fitted().fit(
        *arrays, batch_size=batch_size, epochs=epochs, verbose=0, callbacks=[Watch()]
    )


def _by_hand(workload: Any, batch_size: int, epochs: int, mark: Any) -> None:
    import keras

    loops = importlib.import_module(f"benchmarks.contestants.{keras.backend.backend()}_loops")
    loops.by_hand(workload, batch_size, lambda: mark("first_step")).train(epochs)


if __name__ == "__main__":
    main()
