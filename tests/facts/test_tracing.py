"""A step is compiled once, and an update that is left out leaves nothing behind (E21)."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._step.state import snapshot, track
from perigee._step.updates import internals


class Fit(pg.Step):
    """Least squares that leaves an update out where a label is missing."""

    def __init__(self):
        dense = keras.layers.Dense(1, kernel_initializer="ones")
        self.model = keras.Sequential([keras.layers.Input((3,)), dense])
        self.optimizer = keras.optimizers.Adam(0.1)

    def train_step(self, batch):
        x, y = batch
        is_whole = ops.all(ops.isfinite(y))
        gradients = self.gradients(
            lambda: ops.mean(ops.square(y - self.model(x, training=True))), self.model
        )
        self.apply(self.optimizer, gradients, when=is_whole)
        return {"applied": ops.cast(is_whole, "float32")}


def rows(*sizes, label=0.0):
    draw = np.random.default_rng(4)
    return [
        (draw.normal(size=(size, 3)).astype("float32"), np.full((size, 1), label, "float32"))
        for size in sizes
    ]


def traces(step):
    return [program.traces for program in internals(step).programs.values()]


def fit(step, batches, epochs=1):
    return pg.fit(step, batches, epochs=epochs, progress="off").history


@pytest.mark.only_tensorflow
def test_e21_a_ragged_last_batch_needs_no_second_trace():
    step = Fit()

    fit(step, rows(4, 4, 3), epochs=3)

    assert traces(step) == [1]


def test_e21_later_epochs_and_fits_need_no_new_trace():
    """Numbers of steps and epochs are no part of what is compiled."""
    step = Fit()
    fit(step, rows(4, 4, 3))
    programs, after_one_epoch = dict(internals(step).programs), traces(step)

    fit(step, rows(4, 4, 3), epochs=2)
    fit(step, rows(4, 3), epochs=2)

    assert traces(step) == after_one_epoch
    assert internals(step).programs == programs


@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_e21_an_update_left_out_changes_no_bit(missing):
    """`when=False` keeps weights, slots and counters, which zeroed gradients would not."""
    step = Fit()
    applied = fit(step, rows(4, 4))["applied"]
    held = track(step).variables
    before = snapshot(held)

    left_out = fit(step, rows(4, 4, label=missing))["applied"]

    assert (applied, left_out) == ([1.0], [0.0])
    assert int(step.optimizer.iterations) == 2
    for variable, old, new in zip(held, before, snapshot(held), strict=True):
        assert old.tobytes() == new.tobytes(), variable.path
    fit(step, rows(4, 4))
    assert int(step.optimizer.iterations) == 4


class Images(pg.Step):
    """Takes images of any size."""

    def __init__(self):
        layers = [keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(1)]
        self.model = keras.Sequential([keras.Input((None, None, 1)), *layers])
        self.optimizer = keras.optimizers.SGD(0.01)

    def train_step(self, batch):
        x, y = batch
        squares = lambda: ops.square(y - self.model(x, training=True))[:, 0]  # noqa: E731
        return {"loss": self.minimize(squares, self.optimizer, self.model)}


@pytest.mark.only_tensorflow
def test_what_is_compiled_again_is_counted_and_not_how_many_sizes_there_are():
    """TensorFlow opens both axes, with one more trace for each, and is done."""
    sizes = [(width, height) for width in (8, 12, 16) for height in (3, 5, 6)]
    found, traced = recompiled(sizes)

    assert traced == 3
    assert found == []


@pytest.mark.only_jax
def test_a_compilation_for_each_size_is_told():
    sizes = [(width, height) for width in (8, 12) for height in (3, 5)]
    few, _ = recompiled(sizes[:3])
    with pytest.warns(pg.PerigeeWarning, match=f"compiled {len(sizes)} times"):
        found, traced = recompiled(sizes)

    assert traced == len(sizes)
    assert few == []
    assert [finding.code for finding in found] == ["PG420"]


def recompiled(sizes):
    """Train on images of these sizes; return what is found, and how often it was compiled."""
    draw, step = np.random.default_rng(0), Images()
    with pg.prepare(step, progress="off") as trainer:
        for size in sizes:
            x = draw.normal(size=(4, *size, 1)).astype("float32")
            trainer.train_step((x, np.zeros((4, 1), "float32")))
    (traced,) = traces(step)
    return trainer.history.findings, traced
