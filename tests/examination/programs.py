"""What the programs here are made with. See README.md."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

import perigee as pg

BACKEND = keras.backend.backend()
SEED = 3

CATEGORIES = {
    "labels": "labels in another encoding or range than the loss takes: ids for one-hot rows, ids "
    "that begin at 1, -1 for 0, ids beyond the classes, another shape",
    "logits": "scores where probabilities are expected, or probabilities where scores are: softmax "
    "twice, from_logits forgotten, logits in a log loss by hand",
    "head": "a last layer that cannot give what is asked for: softmax over one unit or a wrong "
    "axis, ReLU or tanh before a cross entropy, a bounded head for unbounded numbers, too few "
    "units",
    "task": "head, loss and labels of another task than the labels are of: class ids by squared "
    "error, one-hot rows as independent labels, amounts as classes",
    "metric": "a metric that says nothing about this task: accuracy of amounts, categorical "
    "accuracy of ids, a threshold on logits, one that is never updated or never reset",
    "inputs": "inputs out of scale or spoilt: 0..255, columns of other units, one spoilt row, "
    "integers that wrap, ids beyond an embedding or a one-hot depth, constant columns",
    "data": "the examples themselves: NaN, a constant label, sorted and never shuffled, x and y "
    "apart, the target among the inputs, validation rows that are also trained on",
    "rate": "a learning rate or a schedule far too high or too low",
    "initial weights": "weights that begin where nothing can be learned: zeros, constants, huge, "
    "a bias far off",
    "activations": "activations that lose the gradient: deep sigmoids, ReLUs that are dead, no "
    "activation at all between layers, dropout of nearly all",
    "too little training": "too few updates for the data: one epoch of few steps, a batch as large "
    "as the data, patience of nothing",
    "not trained": "weights that should learn and do not: not given to the optimizer, no gradient, "
    "a layer that is not tracked, frozen by mistake, the wrong model's weights",
    "gradient": "a gradient or update of another amount or sign than is meant: a loss of the wrong "
    "sign, a sum over the batch, divided twice, gradients that are exchanged, a penalty dropped or "
    "counted twice, masks or weights of examples that are not used",
    "pairing": "labels and predictions broadcast against each other, rows of a batch mixed, labels "
    "that the loss does not see",
    "mode": "training and inference mixed up: Dropout or BatchNormalization without training=True, "
    "evaluation that draws or that learns",
    "state": "state that begins anew, is counted twice or is kept too long: an optimizer made at "
    "each step, a metric that is never reset, a stateful layer that is not reset",
    "constant in a program": "a value that a compiled step draws or counts once: a NumPy random "
    "number, a Python counter, a rate read when the step was compiled",
}
"""Where the fault of a program lies."""


@dataclass(frozen=True)
class Program:
    """A program, and what is wrong with it."""

    name: str
    run: Callable[[Any], None]
    category: str | None
    only: Sequence[str]

    @property
    def is_held_out(self) -> bool:
        """Whether rules are not developed on it; twins are on the same side."""
        name = self.name.removesuffix(" mended")
        return hashlib.sha256(name.encode()).digest()[0] % 2 == 1

    @property
    def is_second(self) -> bool:
        """Whether it is of the second set, which was written without a look at the rules."""
        return self.name.startswith("second_")


PROGRAMS: dict[str, Program] = {}


def faulty(
    category: str, *, only: Sequence[str] = ("tensorflow", "jax", "torch")
) -> Callable[[Any], Any]:
    """Register a program with one fault, and its corrected twin."""
    assert category in CATEGORIES, category

    def register(function: Callable[[Any, bool], None]) -> Callable[[Any, bool], None]:
        name = _name(function)
        _register(Program(name, lambda by: function(by, False), category, only))
        _register(Program(f"{name} mended", lambda by: function(by, True), None, only))
        return function

    return register


def healthy(function: Any = None, *, only: Sequence[str] = ("tensorflow", "jax", "torch")) -> Any:
    """Register a program with nothing wrong."""

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        _register(Program(_name(function), function, None, only))
        return function

    return register if function is None else register(function)


def _name(function: Any) -> str:
    return f"{function.__module__.rpartition('.')[2]}/{function.__name__}"


def _register(program: Program) -> None:
    assert program.name not in PROGRAMS, f"{program.name} exists already"
    PROGRAMS[program.name] = program


def programs() -> list[Program]:
    """Return the programs of all modules beside this one that this framework runs."""
    for path in sorted(Path(__file__).parent.glob("*.py")):
        if path.stem.startswith(("faulty_", "healthy_", "second_")):
            importlib.import_module(f"tests.examination.{path.stem}")
    return [program for program in PROGRAMS.values() if BACKEND in program.only]


class Training:
    """Trains a program, to see what it learns."""

    def __init__(self, verbose: int = 0) -> None:
        self.verbose = verbose
        self.histories: list[dict[str, list[float]]] = []

    def fit(self, target: Any, *args: Any, **given: Any) -> Any:
        """Train by `model.fit`, or a Step by `pg.fit`."""
        if isinstance(target, keras.Model):
            history = target.fit(*args, **{"verbose": self.verbose, **given})
        else:
            history = pg.fit(target, *args, **given)
        self.histories.append(history.history)
        return history


class Examined(Exception):
    """A program has come to its training."""

    def __init__(self, report: pg.diagnostics.Report) -> None:
        self.report = report


class Examination:
    """Checks a program where it would train."""

    def __init__(self, level: Any = "default") -> None:
        self.level = level

    def fit(self, target: Any, x: Any, y: Any = None, sample_weight: Any = None, **given: Any):
        """Examine what would be trained, and end the program."""
        data = x if y is None else (x, y) if sample_weight is None else (x, y, sample_weight)
        size = given.get("batch_size")
        validation = given.get("validation_data", given.get("validation"))
        if (part := given.get("validation_split")) and y is not None:
            rows = len(keras.tree.flatten(x)[0])
            kept = rows - int(rows * part)
            validation = keras.tree.map_structure(lambda a: np.asarray(a)[kept:], data)
            data = keras.tree.map_structure(lambda a: np.asarray(a)[:kept], data)
        if isinstance(target, keras.Model) and (weights := given.get("class_weight")):
            target = pg.KerasStep(target, class_weight=weights)
        report = pg.check(
            target,
            data,
            batch_size=size,
            epochs=None if "steps" in given else given.get("epochs", 1),
            steps=given.get("steps"),
            steps_per_epoch=given.get("steps_per_epoch"),
            validation=validation,
            level=self.level,
        )
        raise Examined(report)


def examined(program: Program, level: Any = "default") -> pg.diagnostics.Report:
    """Return what is found in a program, from a fresh start."""
    keras.utils.set_random_seed(SEED)
    keras.utils.clear_session()
    try:
        program.run(Examination(level))
    except Examined as end:
        return end.report
    raise AssertionError(f"{program.name} does not train")


def trained(program: Program, seed: int = SEED, verbose: int = 0) -> list[dict[str, list[float]]]:
    """Return the histories of a program that is trained from a fresh start."""
    keras.utils.set_random_seed(seed)
    keras.utils.clear_session()
    by = Training(verbose)
    program.run(by)
    return by.histories
