"""The step learns, and a stopped training resumes exactly."""

import keras
import pytest
from data import load_train, load_valid
from step import make_step

import perigee as pg
from perigee.testing import verify_resume

# Keras asks TensorFlow's tensors for arrays in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def test_it_learns():
    keras.utils.set_random_seed(7)
    step = make_step()

    history = pg.fit(step, load_train(), epochs=10, batch_size=32, seed=7, progress="off")

    assert history.history["loss"][-1] < 0.7 * history.history["loss"][0]
    assert pg.evaluate(step, load_valid())["accuracy"] > 0.8


def test_it_resumes_exactly():
    verify_resume(make_step, load_train, steps=6, arguments={"batch_size": 32})


def test_predictions_are_probabilities():
    points, _ = load_valid(rows=8)

    predicted = pg.predict(make_step(), points)

    assert predicted.shape == (8, 3)
    assert abs(predicted.sum(axis=-1) - 1).max() < 1e-5
