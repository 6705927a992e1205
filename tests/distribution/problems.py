"""The table of problems, as several devices and processes solve it."""

from __future__ import annotations

from dataclasses import replace

import keras

from tests.backends.problems import PROBLEMS, Problem
from tests.backends.problems._problem import ROWS, fix_weights
from tests.backends.problems.predicting import Classifier

RAGGED_ROWS = ROWS - 1
"""With these, the last batch has 5 rows: 3 and 2 of two replicas; over devices of JAX they do not
divide."""
COMPILED = {"classifier", "batch statistics", "mixed float16", "accumulated", "averaged weights"}
"""On TensorFlow the rest runs op by op: to compile a step for replicas takes seconds."""


def synchronized():
    """Return the problem of batch statistics with those of the whole batch."""
    layers = [
        keras.layers.Dense(8, use_bias=False),
        keras.layers.BatchNormalization(momentum=0.9, synchronized=True),
        keras.layers.Activation("relu"),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential([keras.Input((4,)), *layers], name="normalized")
    fix_weights(model)
    return Classifier(model, keras.optimizers.Adam(0.01))


def ragged(problem: Problem) -> Problem:
    """Return a problem with a last batch that no two devices can halve."""
    if isinstance(problem.data, list):
        *batches, last = problem.data
        return replace(problem, data=[*batches, keras.tree.map_structure(lambda a: a[:-1], last)])
    data = keras.tree.map_structure(lambda array: array[:RAGGED_ROWS], problem.data)
    return replace(problem, data=data)


def first_epoch(problem: Problem) -> Problem:
    """Return a problem that ends after its first five steps, the last of them ragged."""
    return replace(problem, fit={**problem.fit, "epochs": 1})


SOLVED_IN_SHARES = {
    name: replace(problem, make_step=synchronized) if name == "batch statistics" else problem
    for name, problem in PROBLEMS.items()
    if not problem.is_random
}
"""What replicas solve as one device does.

Draws differ between replicas, and statistics of a share are another problem: both are tested by
themselves.
"""
SOLVED = SOLVED_IN_SHARES if keras.backend.backend() == "tensorflow" else PROBLEMS
"""What processes solve as one device does: on JAX all, for a step computes what one device would
with the whole batch."""
