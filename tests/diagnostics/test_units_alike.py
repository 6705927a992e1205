"""Kernels that begin constant: where units stay alike, and where they part."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as kl

import perigee as pg
from tests.diagnostics.programs import Own, compiled, model, numbers, small, sparse, squares

ROWS = 96


def classes():
    x = np.random.default_rng(2).normal(size=(ROWS, 5)).astype("float32")
    return x, (x[:, 0] > 0).astype("int32") + (x[:, 1] > 0)


def pairs():
    rng = np.random.default_rng(4)
    users, films = rng.integers(0, 9, ROWS), rng.integers(0, 7, ROWS)
    return {"user": users, "film": films}, rng.normal(size=(ROWS, 1)).astype("float32")


def tastes(**films):
    user, film = (
        keras.Input((), dtype="int32", name="user"),
        keras.Input((), dtype="int32", name="film"),
    )
    u = kl.Embedding(9, 4, embeddings_initializer="zeros")(user)
    f = kl.Embedding(7, 4, **films)(film)
    network = keras.Model({"user": user, "film": film}, kl.Dot(axes=1)([u, f]))
    return compiled(network, "mse")


def residual():
    """Return a block whose branch ends in zeros, before a head of zeros."""
    inputs = keras.Input((5,))
    gates = kl.Dense(5, kernel_initializer="zeros")(inputs)
    hidden = inputs + gates * kl.Dense(5, activation="tanh")(inputs)
    return keras.Model(inputs, kl.Dense(1, kernel_initializer="zeros")(hidden))


ALIKE = {
    "tables of zeros": lambda: (tastes(embeddings_initializer="zeros"), pairs()),
    "set to one number": lambda: (set_to(0.1), numbers()),
    "convolutions": lambda: (
        compiled(
            model(
                kl.Reshape((5, 1)),
                kl.Conv1D(6, 3, activation="tanh", kernel_initializer="ones"),
                kl.GlobalAveragePooling1D(),
                kl.Dense(1, kernel_initializer="ones"),
            ),
            "mse",
        ),
        numbers(),
    ),
}

APART = {
    "a head of zeros": lambda: (
        compiled(
            model(kl.Dense(8, activation="relu"), kl.Dense(3, kernel_initializer="zeros")), sparse()
        ),
        classes(),
    ),
    "one layer of zeros": lambda: (
        compiled(model(kl.Dense(3, kernel_initializer="zeros")), sparse()),
        classes(),
    ),
    "a constant layer before a random one": lambda: (
        compiled(
            model(kl.Dense(8, activation="tanh", kernel_initializer="ones"), kl.Dense(3)), sparse()
        ),
        classes(),
    ),
    "one table of zeros": lambda: (tastes(), pairs()),
    "gates of zeros": lambda: (Own(residual(), squares), numbers()),
}


def set_to(value):
    network = small(1)
    network.set_weights([np.full_like(weight, value) for weight in network.get_weights()])
    return compiled(network, "mse")


@pytest.mark.spread(1, once=True)
@pytest.mark.parametrize("name", ALIKE)
def test_units_that_stay_alike_are_told_first(name):
    report = pg.check(*ALIKE[name]())

    assert report.findings[0].code == "PG138"


@pytest.mark.spread(2, once=True)
@pytest.mark.parametrize("name", APART)
def test_units_that_part_are_left_alone(name):
    report = pg.check(*APART[name]())

    assert "PG138" not in [finding.code for finding in report]
