"""PG136: rows that a batch uses several times, under optimizers that do not add their uses up."""

import keras
import numpy as np
import pytest

import perigee as pg
from perigee._step.state import snapshot, track
from perigee.testing import parity

ON_TENSORFLOW = keras.backend.backend() == "tensorflow"


def reader():
    keras.utils.set_random_seed(1)
    return keras.Sequential(
        [
            keras.Input((4,), dtype="int32"),
            keras.layers.Embedding(64, 2),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(1),
        ]
    )


def texts(rows=8, repeats=True):
    ids = np.arange(4 * rows).reshape(rows, 4)
    return (ids % 5 if repeats else ids).astype("int32"), np.linspace(1, 2, rows)[:, None]


def of_keras(optimizer):
    model = reader()
    model.compile(optimizer, "mse")
    return pg.KerasStep(model)


def told(step, data):
    return [f for f in pg.check(step, data).findings if f.code == "PG136"]


@pytest.mark.parametrize("optimizer", ["adam", "rmsprop", "adagrad", "adamw", "nadam"])
def test_a_model_of_keras_is_told_of_what_keras_does_there(optimizer):
    step = of_keras(optimizer)
    variables = track(step).variables
    before = snapshot(variables)

    found = told(step, texts())

    assert [f.severity for f in found] == ["hint"] * ON_TENSORFLOW
    if found:
        assert "5 rows of 'embedding" in found[0].happened
    after = snapshot(variables)
    assert [a.tobytes() for a in after] == [b.tobytes() for b in before]


@pytest.mark.parametrize("optimizer", ["sgd", keras.optimizers.SGD(0.1, momentum=0.9)])
def test_nothing_is_said_where_a_sum_is_the_same(optimizer):
    assert told(of_keras(optimizer), texts()) == []


def test_nothing_is_said_where_no_row_is_repeated_or_of_other_steps():
    assert told(of_keras("adam"), texts(repeats=False)) == []
    assert told(pg.Supervised(reader(), keras.optimizers.Adam(), "mse"), texts()) == []


@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam, keras.optimizers.Adagrad])
def test_parity_names_it_as_the_cause(optimizer):
    model = reader()
    model.compile(optimizer(0.1), "mse")
    step = pg.Supervised(reader(), optimizer(0.1), "mse")

    report = parity(step, model, texts(), steps=2, batch_size=8)

    assert bool(report) is not ON_TENSORFLOW
    if ON_TENSORFLOW:
        assert report.parting.cause == "repeated rows"
