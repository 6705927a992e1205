"""Programs drawn from the table of `tasks.py`, trained by `model.fit` and by Perigee.

    python -m tests.parity.drawn --programs 150 --seed 1

draws programs, trains twins of each by Keras and by `keras_fit`, and compares histories, what
callbacks were given, and weights. `--way supervised` and `--way keras_step` train the same programs
by `fit`, measure, predict and check them: there nothing may crash, and nothing is to be found.

A program is one that Keras trains: what Keras refuses, or makes infinite, is drawn again, and
counted. The rules for what else is drawn again, or drawn differently, are in `RULES`.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
from keras import ops, optimizers

import perigee as pg
from perigee._loop import findings
from tests.parity.recurrent import Recurrent
from tests.parity.tasks import BACKEND, TASKS, Head, Task

TOLERANCE = 1e-5
"""Relative: of logged values, and of a variable to its largest element."""
SMALLEST = 0.1
"""Values below it are compared as if they were as large."""
MOST_STEPS = 20

RULES = {
    "whole batches": "Programs with several outputs, and stateful ones, have whole batches only: "
    "see `whole_batches` of their tasks.",
    "recurrent state on JAX": "Keras on JAX forgets the state of stateful layers between batches, "
    "so that NumPy decides there, at a learning rate of 0.",
    "counters on TensorFlow": "Where Keras on TensorFlow learns by drawing from data that it is "
    "over, it counts an update that never was. The counter is compared with the number of batches, "
    "and data sets of unknown length are given to Keras with their length.",
    "what validation writes": "Perigee restores seeds and states after a validation, so that "
    "training does not depend on it, and begins each from the same seeds. Programs that carry "
    "states, or draw what they do not use, are validated after one epoch only, those that draw in "
    "validation not at all.",
    "threads": "Keras on JAX and torch takes the batches of a PyDataset with threads in another "
    "order, or one twice; there it gets one without.",
    "unseeded dropout on torch": "It draws from torch's own generator, and so do Keras's data "
    "loaders there: it is not drawn.",
    "steps an epoch": "With `steps_per_execution` Keras counts or trains steps beyond an epoch "
    "that is no multiple of it: such epochs, and data without an end, are drawn without.",
    "pairs": "Keras brings labels `(n,)` and predictions `(n, 1)` to one rank for functions, and "
    "not for loss classes of the user's own, which would compare all with all: they get a column.",
    "counts on torch": "Keras's counting metrics return their variable itself there, and the "
    "validation after the epoch resets it in place: the history has what validation left.",
    "names": "Names are compared without their order: Keras sorts what a step returns level by "
    "level.",
    "not repeated by Keras": "A program to which Keras itself gives other numbers when it runs "
    "eagerly (on JAX: compiled) is drawn again: rounding decides about it.",
}


# What can be drawn besides the table.

OPTIMIZERS: dict[str, Callable[[], Any]] = {
    **{
        f"name {name}": lambda name=name: name
        for name in ("adam", "sgd", "rmsprop", "Adam", "adamw", "nadam", "adagrad")
    },
    "Adam": lambda: optimizers.Adam(1e-2),
    "AdamW": lambda: optimizers.AdamW(1e-2, weight_decay=0.01),
    "AMSGrad": lambda: optimizers.Adam(1e-2, amsgrad=True),
    "momentum": lambda: optimizers.SGD(0.02, momentum=0.9, nesterov=True),
    "RMSprop": lambda: optimizers.RMSprop(1e-3, centered=True, momentum=0.5),
    "Adamax": lambda: optimizers.Adamax(1e-2),
    "Adadelta": lambda: optimizers.Adadelta(0.5),
    "Adafactor": lambda: optimizers.Adafactor(1e-2),
    "Lion": lambda: optimizers.Lion(1e-3),
    "Lamb": lambda: optimizers.Lamb(1e-2),
    "exponential schedule": lambda: optimizers.Adam(
        optimizers.schedules.ExponentialDecay(1e-2, 5, 0.9)
    ),
    "cosine schedule": lambda: optimizers.SGD(
        optimizers.schedules.CosineDecay(0.0, 20, warmup_target=0.05, warmup_steps=4), momentum=0.9
    ),
    "steps schedule": lambda: optimizers.SGD(
        optimizers.schedules.PiecewiseConstantDecay([3, 7], [0.05, 0.02, 0.01])
    ),
    "clipnorm": lambda: optimizers.Adam(1e-2, clipnorm=0.1),
    "global_clipnorm": lambda: optimizers.SGD(0.05, global_clipnorm=1.0),
    "clipvalue": lambda: optimizers.SGD(0.05, clipvalue=0.1),
    "weight decay": lambda: optimizers.SGD(0.02, weight_decay=0.01),
    "averages": lambda: optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.8),
    "averages, overwriting": lambda: optimizers.SGD(
        0.02, use_ema=True, ema_momentum=0.8, ema_overwrite_frequency=3
    ),
    "accumulation": lambda: optimizers.SGD(0.02, gradient_accumulation_steps=2),
    "config": lambda: {"class_name": "Adam", "config": {"learning_rate": 0.01}},
    "serialized": lambda: keras.optimizers.serialize(optimizers.SGD(0.02)),
}

ARRAYS = ("arrays", "doubles", "tensors")
DATA: tuple[str, ...] = (
    *ARRAYS,
    "PyDataset",
    "PyDataset with threads",
    "generator",
    "endless generator",
    *{
        "tensorflow": (
            "tf.data",
            "tf.data, endless",
            "tf.data, prefetched",
            "tf.data, of unknown length",
        ),
        "torch": ("DataLoader",),
        "jax": (),
    }[BACKEND],
)
NO_CLASS_WEIGHTS = ("generator", "endless generator", "DataLoader")
"""Data for which `fit` takes no class weights."""

DRAWING_BODIES = ("GRU with dropout", "recurrent dropout")
"""Keras's recurrent layers draw their masks in validation too, where they do not use them."""

STYLES = ("Sequential", "lazy Sequential", "functional", "subclass", "nested")
PATTERNS = importlib.import_module(f"tests.steps.keras_models.{BACKEND}")
OWN_STEPS = {
    "own train_step": PATTERNS.Weighted,
    "own train_step, zipped": getattr(PATTERNS, "Zipped", PATTERNS.Weighted),
}
COMPILED: dict[str, dict[str, Any]] = {
    "compiled": {"run_eagerly": False},
    "by default": {},
    "eager": {"run_eagerly": True},
    **({} if BACKEND == "torch" else {"steps_per_execution": {"steps_per_execution": 2}}),
}


class Watch(keras.callbacks.Callback):
    """Keep what callbacks are given, at the ends of epochs and, if wanted, of batches."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[str, int, dict[str, Any]]] = []

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.calls.append(("epoch", epoch, dict(logs or {})))


class WatchBatches(Watch):
    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.calls.append(("batch", batch, dict(logs or {})))


class StopAt(keras.callbacks.Callback):
    """Stops after two epochs, as programs with a time limit do."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if epoch >= 1:
            self.model.stop_training = True


CALLBACKS: dict[str, Callable[[Path], Any]] = {
    "own": lambda folder: Watch(),
    "own, of batches": lambda folder: WatchBatches(),
    "early stopping": lambda folder: keras.callbacks.EarlyStopping(
        "loss", patience=1, restore_best_weights=True
    ),
    "early stopping at once": lambda folder: keras.callbacks.EarlyStopping("loss", min_delta=10),
    "validated early stopping": lambda folder: keras.callbacks.EarlyStopping(
        patience=1, restore_best_weights=True
    ),
    "plateau": lambda folder: keras.callbacks.ReduceLROnPlateau(
        "loss", factor=0.5, patience=1, min_delta=10
    ),
    "scheduler": lambda folder: keras.callbacks.LearningRateScheduler(
        lambda epoch, rate: rate * 0.8
    ),
    "scheduler of epochs": lambda folder: keras.callbacks.LearningRateScheduler(
        lambda epoch: 0.01 / (epoch + 1)
    ),
    "lambda": lambda folder: keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: logs["loss"] + 1
    ),
    "NaN": lambda folder: keras.callbacks.TerminateOnNaN(),
    "CSV": lambda folder: keras.callbacks.CSVLogger(str(folder / "log.csv")),
    "checkpoint": lambda folder: keras.callbacks.ModelCheckpoint(
        str(folder / "best.weights.h5"), "loss", save_best_only=True, save_weights_only=True
    ),
    "stop": lambda folder: StopAt(),
}


@dataclass(frozen=True)
class Program:
    """A program: one row, with everything else that was drawn for it."""

    seed: int
    task: str
    head: str
    body: str
    loss: str
    labels: str
    metrics: tuple[tuple[str, int, bool], ...]
    """What is measured, the way in which it is given, and whether weights count."""
    loss_weights: int
    style: str
    optimizer: str
    compiled: str
    weights: str
    data: str
    batch: int
    rows: int
    epochs: int
    validation: str
    options: tuple[tuple[str, Any], ...]
    callbacks: tuple[str, ...]

    @property
    def of(self) -> Task:
        return TASKS[self.task]

    @property
    def end(self) -> Head:
        return self.of.heads[self.head]

    @property
    def steps_an_epoch(self) -> int:
        return -(-self.rows // self.batch)

    def __str__(self) -> str:
        said = {k: v for k, v in asdict(self).items() if v not in ("", (), None)}
        return ", ".join(f"{k}={v!r}" for k, v in said.items())


# Drawing.


def draw(seed: int, index: int, attempt: int, task: str) -> Program:
    """Draw a program of a task; the same arguments give the same program."""
    random = np.random.default_rng([seed, index, attempt])
    of = TASKS[task]

    def one(values: Any) -> Any:
        values = list(values)
        return values[random.integers(len(values))]

    def chance(share: float) -> bool:
        return bool(random.uniform() < share)

    head = one(of.heads)
    end = of.heads[head]
    style = one(s for s in STYLES if s != "subclass" or not of.rows) if of.bodies else "functional"
    if chance(0.12) and not of.whole_batches:
        style = one(OWN_STEPS)
    measured = [] if not end.metrics else list(random.permutation(sorted(end.metrics)))
    measured = measured[: random.integers(0, 4)]
    picks = tuple(
        (str(name), int(random.integers(len(end.metrics[name]))), chance(0.25)) for name in measured
    )
    labels = one(end.labels)
    validation = one(["", "", "pair", "pair", "triple", "split", "like the data"])
    data = one(DATA) if chance(0.5) else "arrays"
    weights = one(of.weights) if of.weights and chance(0.25) else ""
    can_weigh_classes = of.classes and head != "margin" and data not in NO_CLASS_WEIGHTS
    if not weights and can_weigh_classes and chance(0.2):
        weights = "classes"
    batch = of.rows or one([4, 8, 8, 16])
    steps = int(random.integers(2, 6))
    epochs = int(random.integers(1, 4))
    rows = batch * steps
    if not of.whole_batches and chance(0.5):
        rows -= int(random.integers(1, batch))
    if validation == "split":
        if data not in ARRAYS:
            validation = "pair"
        else:
            rows = batch * 2 * max(1, steps // 2)
    bodies = [name for name in of.bodies if name != "unseeded dropout" or BACKEND != "torch"]
    body = one(bodies) if bodies else ""
    if head == "variational":
        validation = ""
    if validation and (of.rows or body in DRAWING_BODIES):
        epochs = 1
    if validation == "triple" and not (of.weights and weights != "classes"):
        validation = "pair"
    if data == "generator":
        epochs = 1
    options: list[tuple[str, Any]] = []
    if validation and chance(0.2):
        options.append(("validation_freq", 2))
    if validation in ("pair", "triple") and not of.rows and chance(0.2) and not of.whole_batches:
        options.append(("validation_batch_size", int(one([3, 5]))))
    if validation == "pair" and chance(0.1):
        options.append(("validation_steps", 1))
    if chance(0.1) and epochs > 1:
        options.append(("initial_epoch", 1))
    callbacks = [str(c) for c in random.permutation(list(CALLBACKS))][: int(random.integers(0, 3))]
    optimizer = one(OPTIMIZERS)
    if BACKEND == "torch" and validation:
        picks = tuple(pick for pick in picks if pick[0] != "counts")
    if "schedule" in optimizer:
        callbacks = [
            c for c in callbacks if c not in ("plateau", "scheduler", "scheduler of epochs")
        ]
    if not validation:
        callbacks = [c for c in callbacks if c != "validated early stopping"]
    compiled = one(COMPILED) if chance(0.3) else "by default"
    if compiled == "steps_per_execution" and (-(-rows // batch) % 2 or "endless" in data):
        compiled = "by default"
    seed_of_data = int(random.integers(2**31))
    loss = one(end.losses)
    if labels == "(n,)" and "column" in end.labels and ("own Loss" in loss or "sum" in loss):
        labels = "column"
    program = Program(
        seed=seed_of_data,
        task=task,
        head=head,
        body=body,
        loss=loss,
        labels=labels,
        metrics=picks,
        loss_weights=int(random.integers(len(end.loss_weights))) if end.loss_weights else 0,
        style=style,
        optimizer=optimizer,
        compiled=compiled,
        weights=weights,
        data=data,
        batch=batch,
        rows=rows,
        epochs=epochs,
        validation=validation,
        options=tuple(options),
        callbacks=tuple(callbacks),
    )
    assert program.steps_an_epoch * program.epochs <= MOST_STEPS
    if is_by_numpy(program):
        program = replace(
            program,
            loss="squared, object",
            metrics=(),
            style="Sequential",
            weights="",
            validation="",
            options=(),
            callbacks=(),
        )
    return program


# Making what was drawn.


class Chain(keras.Model):
    """A subclassed model, built at its first call."""

    def __init__(self, parts: list[Any]) -> None:
        super().__init__()
        self.parts = parts

    def call(self, x: Any, training: bool | None = None) -> Any:
        for part in self.parts:
            x = part(x)
        return x


class Batches(keras.utils.PyDataset):
    def __init__(self, batches: list[Any], **options: Any) -> None:
        super().__init__(**options)
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, index: int) -> Any:
        return self.batches[index]


def arrays(program: Program, rows: int, seed: int, weights: str) -> tuple[Any, Any, Any]:
    """Return inputs, labels in their form, and sample weights."""
    random = np.random.default_rng([program.seed, seed])
    x, y = program.of.data(random, rows)
    y = program.end.labels[program.labels](y)
    w = None
    if weights == "rows":
        w = random.uniform(0.3, 2, rows).astype("float32")
    elif weights == "places":
        shape = x.shape if x.dtype.kind == "i" else x.shape[:-1]
        w = random.uniform(0.3, 2, shape).astype("float32")
    return x, y, w


def whole(x: Any, y: Any, w: Any) -> tuple[Any, ...]:
    """Return what a data set yields: without the parts at the end that are missing."""
    return (x,) if y is None else (x, y) if w is None else (x, y, w)


def cut(data: Any, size: int) -> list[Any]:
    """Return whole data as batches."""
    rows = len(keras.tree.flatten(data)[0])
    return [
        keras.tree.map_structure(lambda a, at=at: a[at : at + size], data)
        for at in range(0, rows, size)
    ]


def as_dataset(kind: str, data: tuple[Any, ...], size: int, is_for_keras: bool = False) -> Any:
    """Return arrays as something that yields batches, made anew each time."""
    data = _tuples(data)
    batches = cut(data, size)
    if kind == "PyDataset":
        return Batches(batches)
    if kind == "PyDataset with threads":
        is_lost = is_for_keras and BACKEND != "tensorflow"  # see RULES
        return Batches(batches, workers=1 if is_lost else 2)
    if kind == "generator":
        return (batch for batch in batches)
    if kind == "endless generator":
        return (batch for _ in iter(int, 1) for batch in batches)
    if kind == "DataLoader":
        import torch

        return torch.utils.data.DataLoader(Rows(data), batch_size=size)
    import tensorflow as tf

    dataset = tf.data.Dataset.from_tensor_slices(data).batch(size)
    if kind == "tf.data, endless":
        return dataset.repeat()
    if kind == "tf.data, of unknown length":
        dataset = dataset.filter(lambda *batch: True)
        return (
            dataset.apply(tf.data.experimental.assert_cardinality(len(batches)))
            if is_for_keras
            else dataset
        )
    return dataset.prefetch(2) if kind == "tf.data, prefetched" else dataset


def _tuples(data: Any) -> Any:
    """Return a structure with tuples for its lists, which `tf.data` takes for one tensor."""
    if isinstance(data, Mapping):
        return {name: _tuples(value) for name, value in data.items()}
    if isinstance(data, list | tuple):
        return tuple(_tuples(value) for value in data)
    return data


class Rows:
    """What a torch `DataLoader` draws rows from."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(keras.tree.flatten(self.data)[0])

    def __getitem__(self, index: int) -> Any:
        return keras.tree.map_structure(lambda a: a[index], self.data)


def is_endless(kind: str) -> bool:
    return "endless" in kind


def as_given(kind: str, data: Any) -> Any:
    """Return arrays in the form in which the user has them."""
    if kind == "doubles":
        return keras.tree.map_structure(
            lambda a: a.astype("float64") if a is not None and a.dtype.kind == "f" else a, data
        )
    if kind == "tensors":
        return keras.tree.map_structure(
            lambda a: None if a is None else ops.convert_to_tensor(a), data
        )
    return data


def class_weights(program: Program) -> dict[int, float] | None:
    if program.weights != "classes":
        return None
    return {number: 0.5 + number for number in range(program.of.classes)}


def fit_arguments(program: Program, folder: Path, is_for_keras: bool = False) -> dict[str, Any]:
    """Return how the program calls `model.fit`; what is used up is made anew at each call."""
    x, y, w = arrays(program, program.rows, 0, program.weights)
    given: dict[str, Any] = {
        "epochs": program.epochs,
        "shuffle": False,
        "verbose": 0,
        "callbacks": [CALLBACKS[name](folder) for name in program.callbacks],
        "class_weight": class_weights(program),
        **dict(program.options),
    }
    if program.data in ARRAYS:
        x, y, w = as_given(program.data, (x, y, w))
        given |= {"x": x, "y": y, "sample_weight": w, "batch_size": program.batch}
    else:
        given["x"] = as_dataset(program.data, whole(x, y, w), program.batch, is_for_keras)
        if is_endless(program.data):
            given["steps_per_epoch"] = program.steps_an_epoch
    if program.validation == "split":
        given["validation_split"] = 0.5 if program.of.whole_batches else 0.3
    elif program.validation:
        rows = program.batch * 2 if program.of.whole_batches else program.batch + 3
        kind = program.of.weights[0] if program.validation == "triple" else ""
        valid = arrays(program, rows, 1, kind)
        given["validation_data"] = valid[: 2 if valid[2] is None else 3]
        if program.validation == "like the data" and program.data not in ARRAYS:
            kind = "endless generator" if program.data == "generator" else program.data
            given["validation_data"] = as_dataset(kind, whole(*valid), program.batch, is_for_keras)
            if is_endless(kind):
                given["validation_steps"] = 2
        elif valid[1] is None:  # no labels: `fit` takes inputs alone
            given["validation_data"] = valid[0]
    return given


def model_of(program: Program) -> keras.Model:
    """Return the model; twins begin with the same weights."""
    keras.utils.set_random_seed(program.seed % 10_000)
    of, end, style = program.of, program.end, program.style
    kind: Any = OWN_STEPS.get(style, keras.Model)
    if of.model is not None:
        return kind(*of.model(end))
    x, _, _ = arrays(program, 2, 2, "")
    dtype = {"i": "int32", "u": "uint8"}.get(x.dtype.kind, "float32")
    body, last = of.bodies[program.body](), end.layers()
    if style == "subclass":
        return Chain([*body, *last])
    if style == "lazy Sequential" and not of.rows:
        return keras.Sequential([*body, *last])
    if of.rows:
        inputs = keras.Input(batch_shape=(of.rows, *x.shape[1:]), dtype=dtype)
    else:
        inputs = keras.Input(x.shape[1:], dtype=dtype)
    if style in ("Sequential", "lazy Sequential"):
        return keras.Sequential([inputs, *body, *last])
    if style == "nested" and body:
        inner = keras.Sequential([inputs, *body])
        return keras.Model(inputs, _chained(last, inner(inputs)))
    return kind(inputs, _chained([*body, *last], inputs))


def _chained(layers: list[Any], x: Any) -> Any:
    for layer in layers:
        x = layer(x)
    return x


def measures(program: Program, is_weighted: bool) -> Any:
    """Return the metrics, those that weights count for or the others."""
    found: list[Any] = []
    for name, way, weighted in program.metrics:
        value = program.end.metrics[name][way]()
        if isinstance(value, dict | list):  # of each output
            return None if is_weighted else value
        if weighted == is_weighted:
            found.append(value)
    return found or None


def loss_weights(program: Program) -> Any:
    choices = program.end.loss_weights
    return choices[program.loss_weights] if choices else None


def optimizer_of(program: Program) -> Any:
    if is_by_numpy(program):
        return optimizers.SGD(0.0)
    return OPTIMIZERS[program.optimizer]()


def compiled(program: Program, **options: Any) -> keras.Model:
    """Return the model, compiled as the program does."""
    model = model_of(program)
    model.compile(
        optimizer_of(program),
        program.end.losses[program.loss](),
        metrics=measures(program, False),
        weighted_metrics=measures(program, True),
        loss_weights=loss_weights(program),
        jit_compile=options.pop("jit_compile", False),
        **COMPILED[program.compiled] | options,
    )
    return model


# Training.


class Rejected(Exception):
    """Keras does not train a program, or not to numbers that can be compared."""


@dataclass(frozen=True)
class Trained:
    """What a training left."""

    model: keras.Model
    history: keras.callbacks.History
    calls: list[tuple[str, int, dict[str, Any]]]
    findings: list[pg.Finding]


@dataclass(frozen=True)
class Outcome:
    """What came of a program.

    Attributes:
        kind: By which outcomes are counted; empty where all is well.
        text: What there is to say.
    """

    kind: str = ""
    text: str = ""


@contextlib.contextmanager
def seen_findings() -> Iterator[list[pg.Finding]]:
    """Collect what is found while Perigee trains; hints are left out."""
    found: list[pg.Finding] = []
    original = findings.Findings.report

    def report(self: Any, findings: Sequence[pg.Finding], *args: Any) -> None:
        found.extend(f for f in findings if f.severity != "hint")
        original(self, findings, *args)

    with mock.patch.object(findings.Findings, "report", report):
        yield found


def trained(program: Program, fit: Callable[..., Any], **options: Any) -> Trained:
    """Return a twin of the program's model, trained by `fit(model, ...)`."""
    keras.backend.clear_session()  # so that twins have the same names
    model = compiled(program, **options)
    keras.utils.set_random_seed(program.seed % 10_000 + 1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arguments = fit_arguments(program, Path(folder), fit is by_model)
        with seen_findings() as findings:
            history = fit(model, **arguments)
        calls = [c.calls for c in arguments["callbacks"] if isinstance(c, Watch)]
    return Trained(model, history, calls[0] if calls else [], findings)


def by_model(model: keras.Model, **given: Any) -> keras.callbacks.History:
    return model.fit(**given)


def by_keras(program: Program, **options: Any) -> Trained:
    """Train by Keras.

    Raises:
        Rejected: If Keras refuses the program or comes to values that are not finite.
    """
    try:
        by = trained(program, by_model, **options)
    except Exception as error:
        raise Rejected(f"Keras raises {said(error)}") from error
    values = [v for values in by.history.history.values() for v in values]
    values += [ops.convert_to_numpy(w) for w in by.model.weights]
    if not all(np.isfinite(np.asarray(v, "float64")).all() for v in values):
        raise Rejected("not finite")
    return by


def said(error: Exception) -> str:
    """Return an error in a line; TensorFlow's begin with where they were raised."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(("Graph exec", "Detected at", "File "))]
    return f"{type(error).__name__}: {' '.join(lines)[-160:]}"


def is_apart(ours: Any, theirs: Any) -> bool:
    """Tell whether two values, or two arrays, differ."""
    ours, theirs = np.asarray(ours, "float64"), np.asarray(theirs, "float64")
    if ours.shape != theirs.shape:
        return True
    if not theirs.size:
        return False
    scale = max(float(np.abs(theirs).max()), SMALLEST)
    return not float(np.abs(ours - theirs).max()) <= TOLERANCE * scale


def difference(ours: Trained, theirs: Trained) -> Outcome:
    """Return the first difference of two trainings."""
    mine, other = ours.history.history, theirs.history.history
    if set(mine) != set(other):
        return Outcome("history: names", f"{list(mine)} for {list(other)}")
    if ours.history.epoch != theirs.history.epoch:
        return Outcome("history: epochs", f"{ours.history.epoch} for {theirs.history.epoch}")
    for name, values in other.items():
        if len(mine[name]) != len(values) or any(map(is_apart, mine[name], values)):
            kind = "loss" if name.endswith("loss") else "metric"
            return Outcome(f"history: {kind}", f"{name}: {mine[name]} for {values}")
    calls, others = ours.calls, theirs.calls
    if [call[:2] for call in calls] != [call[:2] for call in others]:
        return Outcome("calls", f"{[c[:2] for c in calls]} for {[c[:2] for c in others]}")
    for (where, number, logs), (_, _, expected) in zip(calls, others, strict=True):
        if set(logs) != set(expected):
            return Outcome("calls: names", f"{where} {number}: {list(logs)} for {list(expected)}")
        for name, value in expected.items():
            if is_apart(logs[name], value):
                return Outcome(
                    "calls: values", f"{where} {number}, {name}: {logs[name]} for {value}"
                )
    for variable, expected in zip(ours.model.weights, theirs.model.weights, strict=True):
        a, b = ops.convert_to_numpy(variable), ops.convert_to_numpy(expected)
        if is_apart(a, b):
            return Outcome(
                "weights",
                f"{variable.path}: parts by {np.abs(a - b).max():.2g} of {np.abs(b).max():.2g}",
            )
    return Outcome()


def counted(program: Program, ours: Trained, theirs: Trained) -> Outcome:
    """Compare the counters of the optimizers."""
    a, b = int(ours.model.optimizer.iterations), int(theirs.model.optimizer.iterations)
    if BACKEND == "tensorflow" and program.data == "generator":
        b = program.steps_an_epoch // (2 if program.optimizer == "accumulation" else 1)
    return Outcome("iterations", f"{a} for {b}") if a != b else Outcome()


def is_by_numpy(program: Program) -> bool:
    """Tell whether NumPy decides, not Keras."""
    return BACKEND == "jax" and program.task == "streams"


def apart_from_numpy(program: Program, ours: Trained) -> Outcome:
    """Compare the losses of a stateful model that stands still with those of NumPy."""
    x, y, _ = arrays(program, program.rows, 0, "")
    layers = ours.model.layers
    recurrent = Recurrent(layers, program.batch)
    kernel, bias = layers[-1].get_weights()
    for loss in ours.history.history["loss"]:
        means = [
            np.mean(np.square(recurrent(rows) @ kernel + bias - labels))
            for rows, labels in cut((x, y), program.batch)
        ]
        if is_apart(loss, np.mean(means)):
            return Outcome("history: recurrent state", f"{loss} for {np.mean(means)}")
    return Outcome()


OF_NUMBERS = ("history: loss", "history: metric", "calls: values", "weights")
"""Differences that rounding can make."""


def found(findings: Sequence[pg.Finding]) -> Outcome:
    if not findings:
        return Outcome()
    codes = sorted({f.code for f in findings})
    return Outcome(f"found {', '.join(codes)}", "\n".join(map(str, findings)))


def failed(error: Exception) -> Outcome:
    """Return a refusal by its code, any other error by the place in Perigee where it came out."""
    text = "".join(traceback.format_exception(error))
    if isinstance(error, pg.PerigeeError):
        return Outcome(f"refused {error.code}", str(error))
    places = re.findall(r'src/(perigee/[^"]+)", line (\d+), in (\w+)', text)
    place = f"{places[-1][0]}, {places[-1][2]}" if places else "?"
    return Outcome(f"crashed {type(error).__name__} in {place}", text[-3500:])


def keras_fit(program: Program) -> Outcome:
    """Compare `keras_fit` with `model.fit`.

    Raises:
        Rejected: If the program is to be drawn again.
    """
    theirs = by_keras(program)
    try:
        ours = trained(program, pg.keras_fit)
    except Exception as error:
        return failed(error)
    if ours.findings:
        return found(ours.findings)
    if is_by_numpy(program):
        return apart_from_numpy(program, ours)
    result = difference(ours, theirs)
    if result.kind in OF_NUMBERS and BACKEND != "torch":
        other = {"jit_compile": True} if BACKEND == "jax" else {"run_eagerly": True}
        again = by_keras(program, **other)
        if difference(again, theirs).kind in OF_NUMBERS:
            raise Rejected(f"not repeated by Keras: {result.kind}, {result.text[:80]}")
    return result if result.kind else counted(program, ours, theirs)


def data_of(program: Program) -> tuple[Any, dict[str, Any]]:
    """Return the data as `pg.fit` takes it, and the arguments that belong to it."""
    data = whole(*arrays(program, program.rows, 0, program.weights))
    if program.data in ARRAYS:
        return as_given(program.data, data), {"batch_size": program.batch}
    options = {"steps": program.steps_an_epoch} if is_endless(program.data) else {}
    if "generator" in program.data:
        return lambda: as_dataset(program.data, data, program.batch), options
    return as_dataset(program.data, data, program.batch), options


def uses(program: Program, step: pg.Step, measured_by_keras: Callable[[], Any]) -> Outcome:
    """Train, measure, predict and check."""
    data, options = data_of(program)
    fitted = dict(options)
    if "steps" in fitted:
        fitted["steps_per_epoch"] = fitted.pop("steps")
    if program.data in ARRAYS or program.data.startswith("PyDataset"):
        fitted["shuffle"] = False
    if program.validation and program.validation != "split":
        rows = program.batch * 2 if program.of.whole_batches else program.batch + 3
        fitted["validation"] = cut(whole(*arrays(program, rows, 1, "")), program.batch)
    try:
        with tempfile.TemporaryDirectory() as folder:
            keras.utils.set_random_seed(program.seed % 10_000 + 1)
            history = pg.fit(
                step,
                data,
                epochs=program.epochs,
                callbacks=[
                    CALLBACKS[name](Path(folder))
                    for name in program.callbacks
                    if fitted.get("validation") or name != "validated early stopping"
                ],
                progress="off",
                **fitted,
            )
        logs = pg.evaluate(step, data_of(program)[0], **options)
        y_pred = pg.predict(step, data_of(program)[0], **options)
        report = pg.check(step, data_of(program)[0], batch_size=options.get("batch_size"))
    except Exception as error:
        return failed(error)
    findings = [f for f in (*history.findings, *report.findings) if f.severity != "hint"]
    if findings:
        return found(findings)
    values = [v for values in history.history.values() for v in values] + list(logs.values())
    if not np.isfinite(np.asarray(values, "float64")).all():
        return Outcome("not finite", str(history.history))
    expected = measured_by_keras()
    if expected is None:
        return Outcome()
    expected_logs, expected_y = expected
    for name, value in expected_logs.items():
        if np.ndim(value) == 0 and (name not in logs or is_apart(logs[name], value)):
            return Outcome("evaluate", f"{name}: {logs.get(name)} for {value}")
    pairs = zip(keras.tree.flatten(y_pred), keras.tree.flatten(expected_y), strict=True)
    if any(is_apart(a, b) for a, b in pairs):
        return Outcome("predict", "other predictions")
    return Outcome()


def keras_step(program: Program) -> Outcome:
    """Use the compiled model as a Step; what it measures is compared with Keras."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_keras(program)
        model = compiled(program)

        def measured() -> Any:
            if program.data not in ARRAYS or program.of.rows or "variational" in program.head:
                return None
            x, y, w = as_given(program.data, arrays(program, program.rows, 0, program.weights))
            logs = model.evaluate(
                x, y, sample_weight=w, batch_size=program.batch, verbose=0, return_dict=True
            )
            return logs, model.predict(x, batch_size=program.batch, verbose=0)

        step = pg.KerasStep(model, class_weight=class_weights(program))
        return uses(program, step, measured)


def supervised(program: Program) -> Outcome:
    """Train the same model by `Supervised`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        by_keras(program)
        try:
            step = pg.Supervised(
                model_of(program),
                optimizer_of(program),
                program.end.losses[program.loss](),
                measures(program, False) or (),
                weighted_metrics=measures(program, True) or (),
                loss_weights=loss_weights(program),
                class_weight=class_weights(program),
            )
        except Exception as error:
            return failed(error)
        return uses(program, step, lambda: None)


def not_for_steps(program: Program) -> str:
    """Return why a program is not one for Steps and `check`, which the pages say."""
    if program.optimizer == "accumulation":
        return "not for Steps: they accumulate by `fit(accumulate=)`"
    if program.loss.endswith("sum"):
        return "not for `check`: a sum over the batch is a finding"
    is_coupled = program.task in ("ranking", "lifetimes") or "mean of own" in program.loss
    if program.weights and is_coupled:
        return "not for Steps: weights of a loss that is one number"
    return ""


WAYS = {"keras_fit": keras_fit, "keras_step": keras_step, "supervised": supervised}


@dataclass(frozen=True)
class Result:
    """A program that was trained, its outcome, and why others were drawn before it."""

    index: int
    program: Program
    outcome: Outcome
    rejected: tuple[str, ...]
    seconds: float


MOST_ATTEMPTS = 12


def order(seed: int, count: int) -> list[str]:
    """Return the tasks of the programs: each as often as the others."""
    random = np.random.default_rng(seed)
    names: list[str] = []
    while len(names) < count:
        names += [str(name) for name in random.permutation(sorted(allowed()))]
    return names[:count]


def allowed() -> list[str]:
    return [name for name, task in TASKS.items() if not task.only or BACKEND in task.only]


def run(seed: int, index: int, task: str, way: str = "keras_fit") -> Result:
    """Draw programs until Keras trains one, and train it by Perigee."""
    began, rejected = time.perf_counter(), []
    for attempt in range(MOST_ATTEMPTS):
        program = draw(seed, index, attempt, task)
        reason = not_for_steps(program) if way != "keras_fit" else ""
        if reason:
            rejected.append(reason)
            continue
        try:
            outcome = WAYS[way](program)
        except Rejected as error:
            rejected.append(str(error))
            continue
        finally:
            gc.collect()
        return Result(index, program, outcome, tuple(rejected), time.perf_counter() - began)
    raise RuntimeError(f"Keras trains no program of {task!r}: {rejected}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw programs, and print what came of them by class."""
    parser = argparse.ArgumentParser(prog="python -m tests.parity.drawn", description=__doc__)
    parser.add_argument("--programs", type=int, default=150)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--way", choices=list(WAYS), default="keras_fit")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of single programs")
    parser.add_argument("--task", help="of a single task")
    given = parser.parse_args(arguments)
    tasks = order(given.seed, given.programs)
    results: list[Result] = []
    for index, task in enumerate(tasks):
        if (given.only and index not in given.only) or (given.task and task != given.task):
            continue
        result = run(given.seed, index, task, given.way)
        results.append(result)
        outcome = result.outcome
        print(f"{index:4} {result.seconds:5.1f} s  {outcome.kind or 'ok':30} {task}", flush=True)
        if outcome.kind:
            print(f"      {result.program}")
            print("      " + outcome.text.replace("\n", "\n      "), flush=True)
        for reason in result.rejected:
            print(f"      drawn again: {reason}", flush=True)
    counts = Counter(r.outcome.kind or "ok" for r in results)
    again = Counter(reason for r in results for reason in r.rejected)
    print(f"\n{BACKEND}, {given.way}, seed {given.seed}: {len(results)} programs")
    for kind, number in counts.most_common():
        where = [r.index for r in results if (r.outcome.kind or "ok") == kind]
        print(f"{number:5}  {kind}  {where if kind != 'ok' else ''}")
    for reason, number in again.most_common():
        print(f"{number:5}  drawn again: {reason}")
    return int(any(r.outcome.kind for r in results))


if __name__ == "__main__":
    sys.exit(main())
