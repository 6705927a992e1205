"""Whether a long run grows: resident memory and traces after 10,000 and after 100,000 steps.

A trace is a call of the step's Python code: once compiled, it must not be called again. A run is
saved before the first mark already: the first time takes memory that the others use again.

    python -m benchmarks.long_run --backend tensorflow
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import options
from benchmarks.facts import facts, write

STEPS = (10_000, 100_000)
BATCH_SIZE = 32


def parser() -> argparse.ArgumentParser:
    made = options.parser(__doc__)
    made.add_argument("--feed", choices=("arrays", "tf.data"), default="arrays")
    return made


def main() -> None:
    chosen = options.parse(parser())
    result = measure(chosen)
    print(f"{result['first']}\n{result['last']}")
    write(result, f"long_run-{chosen.feed.replace('.', '_')}-{chosen.backend}", chosen.out)


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """Train for all the steps, and return what the report needs of it."""
    import keras

    import perigee as pg
    from benchmarks.workloads.classification import Classifier, Dense

    class Counted(Classifier):
        calls = 0

        def train_step(self, batch: Any) -> dict[str, Any]:
            type(self).calls += 1  # Python runs only where the step is traced
            return super().train_step(batch)

    steps = (20, 100) if chosen.quick else STEPS
    marks: list[dict[str, float]] = []

    class Watch(pg.Hook):
        every = pg.Every(steps=steps[0])

        def on_steps(self, event: Any) -> None:
            mark = {
                "step": event.clock.step,
                "resident_mebibytes": round(resident_mebibytes(), 2),
                "calls": Counted.calls,
                "seconds": round(time.perf_counter() - began, 3),
            }
            marks.append(mark)

    keras.utils.set_random_seed(0)
    workload = Dense()
    data: Any = workload.data()
    batch_size: int | None = BATCH_SIZE
    if chosen.feed == "tf.data":
        from benchmarks.contestants.tensorflow_loops import dataset

        data, batch_size = dataset(workload, BATCH_SIZE), None
    step = Counted(workload.model(), workload.optimizer(), workload.prediction_metrics(), True)
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        pg.fit(
            step,
            data,
            steps=steps[1],
            batch_size=batch_size,
            callbacks=[Watch()],
            run=pg.Run(Path(folder) / "run", save_every=pg.Every(steps=steps[0] // 2)),
            progress="off",
        )
    return {
        "kind": "long_run",
        **facts(chosen.backend),
        "batch_size": BATCH_SIZE,
        "feed": chosen.feed,
        "first": marks[0],
        "last": marks[-1],
        "marks": marks,
    }


def resident_mebibytes() -> float:
    """Return the resident memory of this process, as Linux counts it."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
