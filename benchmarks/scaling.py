"""Measure a step with 1, 2 and 4 local workers of JAX, and compare it with the model in the docs.

The parts of the model are measured by themselves: the step with whole, half and quarter batches on
one worker, and a reduction of the gradients' bytes alone. Then whole trainings are measured, and
what the model says of them is put beside. The cores of the machine are shared by the workers, and
the model says so.

    python -m benchmarks.scaling
    python -m benchmarks.scaling --workers 1 2 --steps 20
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

INPUTS, UNITS, LAYERS, BATCH = 256, 512, 3, 1024
ROUNDS = 5

_FAR = {"10 Gbit/s, 50 us": (10e9 / 8, 50e-6), "400 Gbit/s, 10 us": (400e9 / 8, 10e-6)}
"""Networks for which it predicts: bytes a second and seconds a message."""
_PREDICTED = (8, 64, 1024)


def step_seconds(
    workers: int, parts: dict[str, float], seconds_a_byte: float, latency: float, cores: float
) -> float:
    """Return what a step on one global batch takes by the model.

    Args:
        workers: How many.
        parts: `fixed` and `a_row` (seconds), `rows` and `bytes` of the gradients.
        seconds_a_byte: Of the way between two workers.
        latency: Of a message, in seconds.
        cores: How many workers compute at the same time.
    """
    crowd = max(1.0, workers / cores)
    compute = crowd * (parts["fixed"] + parts["a_row"] * parts["rows"] / workers)
    if workers == 1:
        return compute
    messages = 2 * (workers - 1)  # of a ring
    return compute + messages * latency + messages / workers * parts["bytes"] * seconds_a_byte


def worker(out: Path, steps: int) -> None:
    """Measure in one process of several, and write from the first."""
    os.environ["KERAS_BACKEND"] = "jax"
    import jax
    import jax.numpy as jnp
    import keras
    import numpy as np

    import perigee as pg

    keras.distribution.initialize()
    distribution = keras.distribution.DataParallel()
    keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(UNITS, activation="relu") for _ in range(LAYERS)]
    model = keras.Sequential([keras.Input((INPUTS,)), *layers, keras.layers.Dense(1)])
    step = pg.Supervised(model, keras.optimizers.SGD(1e-3), keras.losses.MeanSquaredError())
    random = np.random.default_rng(0)
    found: dict[str, object] = {"workers": jax.process_count(), "step_seconds": {}}
    alone = jax.process_count() == 1
    for batch in [BATCH, BATCH // 2, BATCH // 4] if alone else [BATCH]:
        x = random.normal(size=(batch * steps, INPUTS)).astype("float32")
        y = x[:, :1]
        seconds = []
        for _ in range(ROUNDS + 1):  # the first compiles
            began = time.perf_counter()
            pg.fit(
                step,
                (x, y),
                batch_size=batch,
                shuffle=False,
                progress="off",
                execution=pg.Execution(steps_per_call=steps),
            )
            seconds.append((time.perf_counter() - began) / steps)
        found["step_seconds"][batch] = min(seconds[1:])
    weights = sum(int(np.prod(w.shape)) for w in model.trainable_weights)
    found["bytes"] = 4 * weights
    layout = distribution.get_data_layout((1, 1)).backend_layout
    everywhere = jax.sharding.NamedSharding(layout.mesh, jax.sharding.PartitionSpec())
    found["reduce_seconds"] = {}
    for count in (1, weights):
        shape = (jax.device_count(), count)
        ones = jax.make_array_from_callback(
            shape, layout, lambda index, shape=shape: np.ones(shape, "float32")[index]
        )
        reduce = jax.jit(lambda a: jnp.sum(a, axis=0), out_shardings=everywhere)
        reduce(ones).block_until_ready()
        seconds = []
        for _ in range(10 * ROUNDS):
            began = time.perf_counter()
            reduce(ones).block_until_ready()
            seconds.append(time.perf_counter() - began)
        found["reduce_seconds"][4 * count] = min(seconds)
    if jax.process_index() == 0:
        out.write_text(json.dumps(found))


def measured(workers: int, steps: int) -> dict:
    """Run the workers and return what the first of them wrote."""
    from perigee._cli.launching import launch

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "found.json"
        os.environ.update(JAX_PLATFORMS="cpu", OMP_NUM_THREADS="1", TF_CPP_MIN_LOG_LEVEL="3")
        arguments = ["--worker", str(out), "--steps", str(steps)]
        ending = launch(
            Path(__file__), arguments, workers, 15.0, lambda line, _: print(line, file=sys.stderr)
        )
        if ending.code:
            raise SystemExit(ending.reason)
        return json.loads(out.read_text())


def main() -> None:
    made = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--workers", nargs="+", type=int, default=[1, 2, 4])
    made.add_argument("--steps", type=int, default=30)
    made.add_argument("--worker", type=Path, help=argparse.SUPPRESS)
    chosen = made.parse_args()
    if chosen.worker is not None:
        worker(chosen.worker, chosen.steps)
        return
    runs = {count: measured(count, chosen.steps) for count in sorted({1, *chosen.workers})}
    one = {int(rows): seconds for rows, seconds in runs[1]["step_seconds"].items()}
    a_row = max(0.0, (one[BATCH] - one[BATCH // 4]) / (BATCH - BATCH // 4))
    parts = {
        "rows": BATCH,
        "a_row": a_row,
        "fixed": max(0.0, one[BATCH] - a_row * BATCH),
        "bytes": runs[1]["bytes"],
    }
    cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores; {BATCH} rows a batch, {parts['bytes'] / 1e6:.1f} MB of gradients")
    print(f"one worker: {1e3 * parts['fixed']:.2f} ms and {1e6 * a_row:.2f} us a row")
    print("workers  measured ms  model ms  of it reducing")
    for count, run in runs.items():
        reduce = {int(size): seconds for size, seconds in run["reduce_seconds"].items()}
        small, large = reduce[4], reduce[parts["bytes"]]
        messages = 2 * (count - 1)
        latency = small / messages if messages else 0.0
        per_byte = max(0.0, large - small) * count / messages / parts["bytes"] if messages else 0.0
        said = step_seconds(count, parts, per_byte, latency, cores)
        reducing = large if messages else 0.0
        seconds = run["step_seconds"][str(BATCH)]
        print(f"{count:7}  {1e3 * seconds:11.2f}  {1e3 * said:8.2f}  {1e3 * reducing:14.2f}")
    print("predicted, each worker on cores of its own, the same rows a worker / in all:")
    for network, (bandwidth, latency) in _FAR.items():
        for count in _PREDICTED:
            weak = {**parts, "rows": BATCH * count}
            shares = [
                step_seconds(1, parts, 0, 0, 1)
                / step_seconds(count, rows, 1 / bandwidth, latency, count)
                * factor
                for rows, factor in ((weak, 1.0), (parts, 1.0 / count))
            ]
            print(f"  {network}, {count} workers: {shares[0]:.0%} / {shares[1]:.1%} efficient")


if __name__ == "__main__":
    main()
