"""Run problems on the framework that Keras runs on, and write what came of them.

    KERAS_BACKEND=jax python -m tests.backends.run_problem OUT.npz [names...]

All problems run in one process: a framework takes seconds to import.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import perigee as pg
from perigee._step.state import restore, snapshot, track
from tests.backends.problems import BATCH, PROBLEMS, Problem
from tests.backends.trajectories import Results, Trajectory

SEED = 7
DEVICES = dict(zip(PROBLEMS, itertools.cycle((2, 4)), strict=False))
"""On how many devices of JAX each problem is solved."""
FRAMEWORKS = ("tensorflow", "jax", "torch")
PLANTED_ON = [name for name in FRAMEWORKS if importlib.util.find_spec(name)][-1]
"""Where bugs are planted: on one framework, for the others train alike. torch takes least time."""
ONE_STEP_A_CALL = pg.Execution(steps_per_call=1)
MANY_STEPS_A_CALL = pg.Execution(steps_per_call=32)


class Watcher(pg.Hook):
    """Keeps what is recorded of each step, and where training began."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []
        self.variables: list[Any] = []
        self.values: list[np.ndarray] = []

    def on_start(self, event: Any) -> None:
        """Everything is built, and nothing is trained yet."""
        self.variables = track(event.step).variables
        self.values = snapshot(self.variables)

    def on_record(self, event: Any) -> None:
        if event.scope == "steps":
            # Metrics cover the epoch so far, and are compared at its end.
            values = event.values.items()
            self.rows.append({n: value for n, value in values if not n.startswith("running/")})

    def go_back(self) -> None:
        """Give everything the value that it began with."""
        restore(self.variables, self.values)


def train(
    problem: Problem,
    step: Any,
    watcher: Watcher | None = None,
    execution: pg.Execution = ONE_STEP_A_CALL,
) -> Trajectory:
    """Train a Step of a problem one step a call, and return what it came to."""
    watcher = watcher or Watcher()
    with tempfile.TemporaryDirectory() as folder:
        every_step = pg.Run(Path(folder) / "run", record_every=pg.Every(steps=1))
        history = fit(problem, step, run=every_step, callbacks=[watcher], execution=execution)
    steps = {name: np.array([row[name] for row in watcher.rows]) for name in watcher.rows[0]}
    return trajectory(step, steps, history)


def train_in_blocks(problem: Problem, step: Any) -> Trajectory:
    """Train a Step many steps a call, where the framework can."""
    return trajectory(step, {}, fit(problem, step, execution=MANY_STEPS_A_CALL))


def fit(problem: Problem, step: Any, **arguments: Any) -> pg.History:
    keras.utils.set_random_seed(SEED)
    if not isinstance(problem.data, list):
        arguments["batch_size"] = BATCH
    return pg.fit(step, problem.data, seed=SEED, progress="off", **problem.fit, **arguments)


def trajectory(step: Any, steps: dict[str, np.ndarray], history: pg.History) -> Trajectory:
    """Return what a training came to.

    What metrics hold is compared by what is logged; seeds are of another kind in each framework.
    """
    entries = [e for e in track(step).entries if e.kind not in ("seed", "metric")]
    values = snapshot([entry.variable for entry in entries])
    return Trajectory(
        steps=steps,
        epochs={name: np.array(means) for name, means in history.history.items()},
        weights={e.key: np.array(v, "float64") for e, v in zip(entries, values, strict=True)},
    )


def run(name: str) -> dict[str, Trajectory]:
    """Run a problem as it is, in blocks, again where it is random, and with planted bugs."""
    problem = PROBLEMS[name]
    step, watcher = make(problem.make_step), Watcher()
    runs = {"ours": train(problem, step, watcher)}
    watcher.go_back()
    runs["in blocks"] = train_in_blocks(problem, step)
    if devices():
        runs["on several devices"] = train_on_devices(problem, DEVICES[name])
    if problem.is_random:
        runs["again"] = train(problem, make(problem.make_step))
    else:
        watcher.go_back()
        if scale_learning_rates(step, problem.rate_factor):
            runs["learning rate"] = train(problem, step)
    if keras.backend.backend() == PLANTED_ON:
        for bug, make_step in problem.planted.items():
            runs[bug] = train(problem, make(make_step))
    return runs


def devices() -> list[str]:
    """Return the devices of JAX; none elsewhere, where Keras lays nothing over them."""
    is_jax = keras.backend.backend() == "jax"
    return keras.distribution.list_devices("cpu") if is_jax else []


def train_on_devices(problem: Problem, count: int) -> Trajectory:
    """Train a Step in data parallel; a last batch that does not divide lies on each device.

    What is asked is where rows lie, so JAX need not optimize, which takes most of the time.
    """
    import jax

    jax.config.update("jax_disable_most_optimizations", True)
    try:
        distribution = keras.distribution.DataParallel(devices=devices()[:count])
        return train(problem, make(problem.make_step, distribution))
    finally:
        keras.distribution.set_distribution(None)
        jax.config.update("jax_disable_most_optimizations", False)


def make(make_step: Any, distribution: Any = None) -> Any:
    """Build a Step, with the names and the seeds that Keras gives in a new process."""
    keras.utils.clear_session()
    keras.distribution.set_distribution(distribution)
    keras.utils.set_random_seed(SEED)
    return make_step()


def scale_learning_rates(step: Any, factor: float) -> bool:
    """Plant another learning rate in each optimizer; false where a schedule gives it."""
    optimizers = track(step).optimizers.values()
    try:
        for optimizer in optimizers:
            rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
            optimizer.learning_rate = rate * factor
    except TypeError:  # Keras refuses to set it
        return False
    return True


def main(path: Path, names: list[str]) -> None:
    """Run the problems named, or all of them, and write the results to `path`."""
    results = Results()
    for name in names or PROBLEMS:
        began = time.perf_counter()
        results.trajectories[name] = run(name)
        results.seconds[name] = time.perf_counter() - began
        print(f"{name}: {results.seconds[name]:.1f} s", flush=True)
    results.save(path)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
