"""Processor time of the first epoch of a new model, each way in a process of its own.

Counted is the time of all threads from the call that trains to its return, compiling included: it
depends less than a clock on what else the machine does. Each way trains the same model on the same
8 batches of 32, without shuffling them; ratios are those of the least times.

    python -m benchmarks.first_epoch --backend jax --workloads dense lstm --repeats 3
    python -m benchmarks.first_epoch --backend jax --workloads layers-100 layers-200 layers-400
"""

from __future__ import annotations

import argparse
import cProfile
import json
import os
import pstats
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
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
WORKLOADS = ("dense", "convolutional", "attention", "lstm", "layers-100", "mobilenet")
BATCHES, BATCH_SIZE = 8, 32


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--workloads", nargs="+", default=WORKLOADS, help="or layers-N")
    made.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    made.add_argument("--repeats", type=int, default=2)
    made.add_argument("--profile", action="store_true", help="print where Python spends its time")
    made.add_argument("--child", choices=WAYS, help=argparse.SUPPRESS)
    return made


def main() -> None:
    if "--child" in sys.argv:  # what the parent chose stands in the environment already
        chosen = parser().parse_args()
        print(json.dumps(first_epoch(chosen.child, chosen.workloads[0], chosen.profile)))
        return
    chosen = options.parse(parser())
    found = [measure(workload, chosen) for workload in chosen.workloads]
    result = {"kind": "first_epoch", **facts(chosen.backend), "workloads": found}
    write(result, f"first_epoch-{chosen.backend}", chosen.out)


def measure(workload: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """Train in new processes, the ways in turn, and return the seconds of each."""
    ways = ["fit", "step"] if chosen.quick else chosen.ways
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(1 if chosen.quick else chosen.repeats):
        for way in ways:
            seconds[way].append(_fresh(way, workload, chosen.profile))
    least = {way: min(values) for way, values in seconds.items()}
    for way, value in least.items():
        ratio = f"{value / least['fit']:5.2f}" if "fit" in least else ""
        print(f"{workload:14} {WAYS[way]:22} {value:6.2f} s {ratio}", flush=True)
    return {"name": workload, "seconds": seconds}


def _fresh(way: str, workload: str, is_profiled: bool) -> float:
    words = [sys.executable, "-m", "benchmarks.first_epoch", "--child", way]
    words += ["--workloads", workload, *(["--profile"] if is_profiled else [])]
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "XDG_CACHE_HOME": cache}
        ran = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=ROOT)
    if ran.returncode:
        raise RuntimeError(f"The process for {way} failed:\n{ran.stderr}")
    *before, last = ran.stdout.splitlines()
    print(*before, sep="\n", end="")
    return json.loads(last)


def first_epoch(way: str, workload: str, is_profiled: bool = False) -> float:
    """Train a new model for an epoch in this process, and return the seconds that it took."""
    import keras

    if way != "fit":
        import perigee as pg

        pg.fit, pg.keras_fit, pg.KerasStep  # noqa: B018  loads them
    np.random.seed(0)
    model, x, classes = made(workload)
    y = np.random.randint(0, classes, BATCHES * BATCH_SIZE).astype("int32")
    keras.ops.convert_to_numpy(model(x[:1]))  # what the framework itself needs at its first use
    run = _training(way, model, x, y)
    profile = cProfile.Profile() if is_profiled else nullcontext()
    began = time.process_time()
    with profile:
        run()
    seconds = time.process_time() - began
    if isinstance(profile, cProfile.Profile):
        pstats.Stats(profile).sort_stats("cumulative").print_stats("perigee|compile|trace", 60)
    return seconds


def _training(way: str, model: Any, x: np.ndarray, y: np.ndarray) -> Callable[[], object]:
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    if way == "step":
        import perigee as pg

        class Classify(pg.Step):
            def __init__(self) -> None:
                self.model, self.loss = model, loss
                self.optimizer = keras.optimizers.Adam(1e-3)
                self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

            def train_step(self, batch: Any) -> dict[str, Any]:
                x, y = batch

                def objective() -> Any:
                    y_pred = self.model(x, training=True)
                    return self.loss(y, y_pred), y_pred

                loss, y_pred = self.minimize(objective, self.optimizer)
                self.accuracy.update_state(y, y_pred)
                return {"loss": loss}

        step = Classify()
        return lambda: pg.fit(
            step, (x, y), batch_size=BATCH_SIZE, epochs=1, shuffle=False, progress="off"
        )
    given: dict[str, Any] = {"batch_size": BATCH_SIZE, "epochs": 1, "shuffle": False}
    model.compile(keras.optimizers.Adam(1e-3), loss, metrics=["accuracy"])
    if way == "fit":
        return lambda: model.fit(x, y, verbose=0, **given)
    import perigee as pg

    if way == "keras_fit":
        return lambda: pg.keras_fit(model, x, y, verbose=0, **given)
    return lambda: pg.fit(pg.KerasStep(model), (x, y), progress="off", **given)


def made(workload: str) -> tuple[Any, np.ndarray, int]:
    """Return a new model, its inputs, and how many classes it tells apart."""
    import keras
    from keras import layers

    rows = BATCHES * BATCH_SIZE
    if workload == "mobilenet":
        model = keras.applications.MobileNetV3Small(
            (32, 32, 3), weights=None, classes=10, classifier_activation=None
        )
        return model, np.random.uniform(0, 255, (rows, 32, 32, 3)).astype("float32"), 10
    if workload == "dense":
        shape, body = (64,), [layers.Dense(128, "relu"), layers.Dense(128, "relu")]
    elif workload == "convolutional":
        body = [layers.Conv2D(16, 3, activation="relu"), layers.MaxPooling2D()]
        body += [layers.Conv2D(32, 3, activation="relu"), layers.BatchNormalization()]
        shape, body = (28, 28, 1), [*body, layers.GlobalAveragePooling2D(), layers.Dropout(0.2)]
    elif workload == "lstm":
        shape, body = (24, 8), [layers.LSTM(32)]
    elif workload == "attention":
        inputs = keras.Input((16, 32))
        x = inputs
        for _ in range(2):
            x = layers.LayerNormalization()(x + layers.MultiHeadAttention(4, 8)(x, x))
            x = layers.LayerNormalization()(x + layers.Dense(32)(layers.Dense(64, "gelu")(x)))
        outputs = layers.Dense(10)(layers.GlobalAveragePooling1D()(x))
        return (
            keras.Model(inputs, outputs),
            np.random.normal(size=(rows, 16, 32)).astype("float32"),
            10,
        )
    else:
        count = int(workload.removeprefix("layers-"))
        shape, body = (16,), [layers.Dense(16, "relu") for _ in range(count)]
    model = keras.Sequential([keras.Input(shape), *body, layers.Dense(10)])
    return model, np.random.normal(size=(rows, *shape)).astype("float32"), 10


if __name__ == "__main__":
    main()
