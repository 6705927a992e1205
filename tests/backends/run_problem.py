"""Run problems on the framework that Keras runs on, and write what came of them.

    KERAS_BACKEND=jax python -m tests.backends.run_problem OUT.npz [names...]

All problems run in one process: a framework takes seconds to import.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np

import perigee as pg
from perigee import _state
from tests.backends.problems import PROBLEMS, Problem
from tests.backends.problems._problem import BATCH
from tests.backends.trajectories import Results, Trajectory

SEED = 7
RATE_FACTOR = 1.001
"""How far the planted learning rate is off."""


class _EachStep(pg.Hook):
    """Keeps what is recorded of each step."""

    def __init__(self) -> None:
        self.rows: list[dict[str, float]] = []

    def on_record(self, event: Any) -> None:
        if event.scope == "steps":
            self.rows.append(dict(event.values))


def train(problem: Problem, step: Any) -> Trajectory:
    """Train a Step of a problem and return what it came to."""
    keras.utils.set_random_seed(SEED)
    each_step = _EachStep()
    batches = {} if isinstance(problem.data, list) else {"batch_size": BATCH}
    with tempfile.TemporaryDirectory() as folder:
        history = pg.fit(
            step,
            problem.data,
            **batches,
            **problem.fit,
            seed=SEED,
            run=pg.Run(Path(folder) / "run", record_every=pg.Every(steps=1)),
            callbacks=[each_step],
            progress="off",
        )
    entries = [entry for entry in _state.track(step).entries if entry.kind != "seed"]
    values = _state.snapshot([entry.variable for entry in entries])
    names = each_step.rows[0]
    return Trajectory(
        steps={name: np.array([row[name] for row in each_step.rows]) for name in names},
        epochs={name: np.array(values) for name, values in history.history.items()},
        weights={e.key: np.array(v, "float64") for e, v in zip(entries, values, strict=True)},
    )


def run(problem: Problem) -> dict[str, Trajectory]:
    """Run a problem as it is, again where it is random, and with each of its planted bugs."""
    keras.utils.set_random_seed(SEED)
    step = problem.make_step()
    begin = _restorer(step)
    runs = {"ours": train(problem, step)}
    if problem.is_random:
        keras.utils.set_random_seed(SEED)
        runs["again"] = train(problem, problem.make_step())
    elif (rates := _learning_rates(step)) and not problem.tolerates_rates:
        begin()
        for rate in rates:
            rate.assign(np.float32(keras.ops.convert_to_numpy(rate) * RATE_FACTOR))
        runs["learning rate"] = train(problem, step)
    for bug, make_step in problem.planted.items():
        keras.utils.set_random_seed(SEED)
        runs[bug] = train(problem, make_step())
    return runs
