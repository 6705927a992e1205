"""How many examples a batch has, by which its averages are weighted: the arrays tell."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee import _errors as errors

BACKEND = keras.backend.backend()
SIZES = 8, 2
"""Rows of the batches: the second one has other values, and counts less."""


class Named(NamedTuple):
    x: Any
    name: Any


@dataclasses.dataclass
class Read:
    x: Any
    name: Any


if BACKEND == "jax":
    import jax

    jax.tree_util.register_dataclass(Read, ["x", "name"], [])


class Mean(pg.Step):
    """Measures the mean of the inputs, as a scalar that is weighted by the examples."""

    def test_step(self, batch):
        if isinstance(batch, tuple):
            return {"mean": ops.mean(batch[0])}
        return {"mean": ops.mean(batch["x"] if isinstance(batch, dict) else batch.x)}


def names(x):
    return [f"image{index}.png" for index in range(len(x))]


BATCHES = {
    "a list of texts": lambda x: {"x": x, "name": names(x)},
    "a tuple of texts": lambda x: (x, tuple(names(x))),
    "a list of bytes": lambda x: {"x": x, "name": [name.encode() for name in names(x)]},
    "one text": lambda x: {"x": x, "split": "train"},
    "texts first": lambda x: {"a": names(x), "x": x},
    "an array of objects": lambda x: {"x": x, "name": np.array(names(x), object)},
    "an array of texts": lambda x: {"x": x, "name": np.array(names(x))},
    "the names of the classes": lambda x: {"x": x, "classes": np.array(["cat", "dog", "cow"])},
    "a number": lambda x: {"x": x, "epoch": 3},
    "a number of NumPy": lambda x: {"x": x, "rate": np.float32(0.5)},
    "an array without axes": lambda x: {"x": x, "rate": np.array(0.5, "float32")},
    "a list of numbers": lambda x: {"x": x, "size": list(range(len(x)))},
    "nothing": lambda x: {"x": x, "weights": None},
    "a named tuple": lambda x: Named(x, names(x)),
    "a dataclass": lambda x: Read(x, x[:, 0]),
    "a dataclass with a text": lambda x: Read(x, "train"),
}


def batches(kind):
    return [BATCHES[kind](np.full((size, 3), index, "float32")) for index, size in enumerate(SIZES)]


@pytest.mark.filterwarnings("error::perigee.PerigeeWarning")
@pytest.mark.parametrize("kind", BATCHES)
def test_what_is_no_array_does_not_change_how_many_examples_a_batch_has(kind):
    if BACKEND == "tensorflow" and "dataclass" in kind:
        with pytest.raises(errors.DataTypeError, match=r"Read.*dataclass[\s\S]*NamedTuple"):
            pg.evaluate(Mean(), batches(kind), execution="eager")
        return

    measured = pg.evaluate(Mean(), batches(kind), execution="eager")

    assert measured == {"mean": pytest.approx(SIZES[1] / sum(SIZES))}


@pytest.mark.only_tensorflow
@pytest.mark.parametrize("kind", ["a list of texts", "a list of numbers", "one text"])
def test_compiled_code_counts_alike(kind):
    measured = pg.evaluate(Mean(), batches(kind), execution="graph")

    assert measured == {"mean": pytest.approx(SIZES[1] / sum(SIZES))}


@pytest.mark.only_torch
def test_a_loader_that_collates_names():
    import torch

    x = np.concatenate([batch[0] for batch in batches("a tuple of texts")])
    rows = [{"x": row, "name": name} for row, name in zip(x, names(x), strict=True)]
    loader = torch.utils.data.DataLoader(rows, SIZES[0])  # pyright: ignore[reportArgumentType]

    assert pg.evaluate(Mean(), loader) == {"mean": pytest.approx(SIZES[1] / sum(SIZES))}


class Fitting(pg.Step):
    """Trains on the first of two inputs of different lengths."""

    def __init__(self):
        self.model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        self.optimizer = keras.optimizers.SGD(0.1)

    def loss(self, batch):
        return ops.mean(ops.square(self.model(batch[0])))

    def train_step(self, batch):
        return {"loss": self.minimize(lambda: self.loss(batch), self.optimizer)}

    def test_step(self, batch):
        return {"loss": self.loss(batch)}


class Counting(Fitting):
    def num_examples(self, batch):
        return ops.shape(batch[0])[0]


class Averaging(Fitting):
    """Returns averages that have counts of their own."""

    def train_step(self, batch):
        self.minimize(lambda: self.loss(batch), self.optimizer)
        return {"size": pg.mean(batch[0])}

    def test_step(self, batch):
        return {"size": pg.mean(batch[0])}


class Ignoring(Fitting):
    ignore_findings = ("PG239",)


def unequal():
    ones = np.ones((4, 3), "float32")
    return [(ones, ones[:2]), (ones, ones[:3])]


def fit(step, **options):
    return pg.fit(step, unequal(), execution="eager", progress="off", seed=0, **options)


def test_arrays_without_a_common_first_axis_are_reported_once():
    with pytest.warns(pg.PerigeeWarning, match=r"PG239[\s\S]*\(4, 3\)[\s\S]*\(2, 3\)") as warned:
        history = fit(Fitting(), epochs=2, validation=unequal())

    assert [finding.code for finding in history.findings] == ["PG239"]
    assert len([one for one in warned if "PG239" in str(one.message)]) == 1


def test_so_are_those_of_a_validation_alone_and_of_an_evaluation():
    x = np.ones((4, 3), "float32")
    with pytest.warns(pg.PerigeeWarning, match="PG239"):
        pg.fit(Fitting(), [(x, x)], validation=unequal(), execution="eager", progress="off")
    with pytest.warns(pg.PerigeeWarning, match="PG239"):
        pg.evaluate(Fitting(), unequal(), execution="eager")


def test_texts_alone_are_reported():
    class Length(pg.Step):
        def test_step(self, batch):
            return {"one": ops.ones(())}

    with pytest.warns(pg.PerigeeWarning, match=r"PG239[\s\S]*no array[\s\S]*str"):
        pg.evaluate(Length(), [["a", "b"], ["c"]], execution="eager")


@pytest.mark.filterwarnings("error::perigee.PerigeeWarning")
@pytest.mark.parametrize("kind", [Counting, Averaging, Ignoring])
def test_a_count_of_ones_own_is_not_reported(kind):
    assert fit(kind(), validation=unequal()).findings == []


@pytest.mark.filterwarnings("error::perigee.PerigeeWarning")
@pytest.mark.parametrize("batch", [(), {"nothing": None}, 3, {"seed": np.int32(1)}])
def test_a_batch_of_nothing_that_could_be_counted_is_not_reported(batch):
    class Drawing(Fitting):
        def loss(self, batch):
            return ops.mean(ops.square(self.model(ops.ones((4, 3)))))

    history = pg.fit(Drawing(), [batch] * 2, execution="eager", progress="off")

    assert history.findings == []
