"""Peak memory of a training, in sizes of its model, each way in a process of its own.

The model is dense and large (four layers, 190 MiB of weights), with Adam. What the process holds
once it has trained a small one is subtracted. `--where` also prints where the memory grew: the
lines of Perigee and Keras that ran when another third of the model was added.

    python -m benchmarks.peak_memory --backend tensorflow
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import options
from benchmarks.facts import ROOT, facts, write

WAYS = {
    "fit": "Keras fit",
    "step": "Perigee, a Step",
    "keras_step": "Perigee, `KerasStep`",
    "keras_fit": "Perigee, `keras_fit`",
}
UNITS = 5000
EVERY_SECONDS = 0.003


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--where", action="store_true", help="print where the memory grew")
    made.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    return made


def main() -> None:
    if "--child" in sys.argv:  # what the parent chose stands in the environment already
        print(json.dumps(grown(parser().parse_args())))
        return
    chosen = options.parse(parser())
    result = measure(chosen)
    for way in result["ways"]:
        print(f"{way['name']:22} {way['models']:.2f}")
        for where in way.pop("where") if chosen.where else ():
            print(f"    {where}")
    write(result, f"peak_memory-{chosen.backend}", chosen.out)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Start the processes, one after another, and return what the report needs of them."""
    ways = ["fit", "step"] if chosen.quick else list(WAYS)
    found = [{"key": way, "name": WAYS[way], **_fresh(way, chosen)} for way in ways]
    return {"kind": "peak_memory", **facts(chosen.backend), "ways": found}


def _fresh(way: str, chosen: argparse.Namespace) -> dict[str, Any]:
    words = [sys.executable, "-m", "benchmarks.peak_memory", "--child", way]
    words += ["--quick"] if chosen.quick else []
    ran = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    if ran.returncode:
        raise RuntimeError(f"The process for {way} failed:\n{ran.stderr}")
    result = json.loads(ran.stdout.splitlines()[-1])
    if not chosen.where:
        del result["where"]
    return result


def grown(chosen: argparse.Namespace) -> dict[str, Any]:
    """Train in this process, and return by how many sizes of the model its memory grew."""
    _train(chosen.child, 16)
    began = _resident()
    units = 500 if chosen.quick else UNITS
    size = 4 * (64 * units + 2 * units**2 + 10 * units + 3 * units + 10)
    with _Watch(began, size) as watch:
        _train(chosen.child, units)
    return {"models": watch.peak, "where": watch.where}


def _train(way: str, units: int) -> None:
    import keras

    random = np.random.default_rng(0)
    x = random.normal(size=(256, 64)).astype("float32")
    y = random.integers(0, 10, size=256).astype("int32")
    layers = [keras.layers.Dense(units, activation="relu") for _ in range(3)]
    model = keras.Sequential([keras.Input((64,)), *layers, keras.layers.Dense(10)])
    optimizer = keras.optimizers.Adam(1e-4)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    given: dict[str, Any] = {"batch_size": 32, "epochs": 2, "shuffle": False}
    if way != "step":
        model.compile(optimizer, loss, metrics=["accuracy"])
    if way == "fit":
        model.fit(x, y, verbose=0, **given)
        return
    import perigee as pg

    if way == "keras_fit":
        pg.keras_fit(model, x, y, verbose=0, **given)
    elif way == "keras_step":
        pg.fit(pg.KerasStep(model), (x, y), progress="off", **given)
    else:
        step = pg.Supervised(model, optimizer, loss, metrics=["accuracy"])
        pg.fit(step, (x, y), progress="off", **given)


class _Watch:
    """Reads the memory of this process again and again, in a thread."""

    def __init__(self, began: float, size: int) -> None:
        self.began, self.size = began, size
        self.peak, self.where = 0.0, list[str]()
        self._ended = threading.Event()
        self._main = threading.main_thread().ident
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        told = 0.0
        while not self._ended.is_set():
            now = (_resident() - self.began) / self.size
            self.peak = max(self.peak, now)
            if now > told + 1 / 3:
                told = now
                stack = traceback.extract_stack(sys._current_frames()[self._main or 0])
                ours = [f for f in stack if "perigee" in f.filename or "keras" in f.filename]
                lines = (f"{Path(f.filename).name}:{f.lineno} {f.name}" for f in ours[-5:])
                self.where.append(f"{now:.2f} {' > '.join(lines)}")
            time.sleep(EVERY_SECONDS)


def _resident() -> int:
    """Return the resident memory of this process in bytes, as Linux counts it."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
