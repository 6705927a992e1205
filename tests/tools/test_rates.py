"""The range test of learning rates: a rate that is right, and no trace of the search."""

import math
import xml.etree.ElementTree as ET

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._step.state import snapshot, track
from perigee.tools import learning_rate_range
from perigee.tools._rates import _judged

ROWS, WIDTH = 64, 4


def data():
    x = np.random.default_rng(0).normal(size=(ROWS, WIDTH)).astype("float32")
    return x, x @ np.arange(1.0, WIDTH + 1, dtype="float32")[:, None]


def make(optimizer=None):
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [keras.Input((WIDTH,)), keras.layers.Dropout(0.01), keras.layers.Dense(1)]
    )
    optimizer = optimizer or keras.optimizers.SGD(0.05, momentum=0.5)
    return pg.Supervised(model, optimizer, keras.losses.MeanSquaredError())


def test_the_suggestion_trains_and_far_more_does_not():
    step = make()

    found = learning_rate_range(step, data(), batch_size=16, highest=100.0)

    assert len(found.rates) == len(found.losses) == len(found.smoothed) < 100, "it ends early"
    assert np.isfinite(found.losses).all(), "long before it overflows"
    assert 1e-3 < found.suggestion < 1.0
    assert f"{found.suggestion:.1g}"[0] in str(found)
    step.optimizer.learning_rate = found.suggestion
    history = pg.fit(step, data(), epochs=10, batch_size=16, seed=0, progress="off")
    assert history.history["loss"][-1] < 0.1 * history.history["loss"][0]
    factors = np.divide(found.rates[1:], found.rates[:-1])
    np.testing.assert_allclose(factors, factors[0])


@pytest.mark.slow
def test_it_leaves_no_trace_in_the_step():
    step, other = make(), make()

    def train(each, epochs):
        keras.utils.set_random_seed(5)  # torch draws for Dropout from its global generator
        history = pg.fit(each, data(), epochs=epochs, batch_size=16, seed=0, progress="off")
        return history.history["loss"]

    def state():
        values = snapshot(track(step).variables)
        return [value.tobytes() for value in values], np.random.get_state()[1].tobytes()

    assert train(step, 1) == train(other, 1)
    before = state()
    learning_rate_range(step, data(), batch_size=16)
    assert state() == before
    assert train(step, 2) == train(other, 2)


def test_the_plot_stands_by_itself_and_shows_the_losses(tmp_path):
    found = learning_rate_range(make(), data(), batch_size=16, lowest=1e-4, steps=20)

    picture = found.save(tmp_path / "rates.svg")
    page = found.save(tmp_path / "rates.html")

    drawing = ET.parse(picture).getroot()
    space = "{http://www.w3.org/2000/svg}"
    left, _, right, _ = map(float, drawing.get("data-frame").split())
    x_low, x_high = map(float, drawing.get("data-x").split())
    smoothed = next(g for g in drawing.iter(f"{space}g") if g.get("class") == "c0 solid")
    places = smoothed.find(f"{space}path").get("d")[1:].split("L")
    assert len(places) == len(found.rates)
    for place, rate in zip(places, found.rates, strict=True):
        x = float(place.split()[0])
        at = x_low + (x - left) / (right - left) * (x_high - x_low)
        assert math.isclose(10**at, rate, rel_tol=1e-2)
    marks = [line for line in drawing.iter(f"{space}line") if line.get("class") == "mark"]
    assert len(marks) == (found.suggestion is not None)
    assert "<svg" in page.read_text() and "http://www.w3.org" in page.read_text()
    assert str(found).split(",")[0] in found._repr_html_()
    with pytest.raises(pg.PerigeeError, match=r"\.svg or \.html"):
        found.save(tmp_path / "rates.png")


def test_the_rule_of_the_suggestion():
    rates = [10.0**power for power in range(-6, 1)]
    falling = [7.0, 6.0, 5.0, 4.0, 3.0, 2.0, 1.0]
    rising = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, math.inf]

    assert _judged(rates, falling).suggestion == pytest.approx(rates[-1] / 10)
    assert "higher ones may work" in str(_judged(rates, falling))
    assert _judged(rates, rising).suggestion is None
    assert "does not fall" in str(_judged(rates, rising))
    valley = _judged(rates, [8.0, 4.0, 1.0, 1.0, 40.0, 90.0, 99.0])
    assert valley.suggestion == pytest.approx(rates[3] / 10)


class Two(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(1)])
        self.one, self.two = keras.optimizers.SGD(0.1), keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        kernel, bias = self.model.trainable_variables
        error = lambda: ops.square(self.model(x) - y)[:, 0]  # noqa: E731
        self.minimize(error, self.one, [kernel])
        return {"error": self.minimize(error, self.two, [bias])}


def test_what_cannot_be_searched_is_refused():
    step = Two()
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    for wrong, given, said in [
        (step, {}, "there are 2"),
        (step, {"optimizer": keras.optimizers.SGD()}, "that the step applies"),
        (step, {"optimizer": step.one}, "error"),  # which is what it logs
        (make(keras.optimizers.SGD(schedule)), {}, "schedule"),
        (step, {"lowest": 1.0, "highest": 0.1}, "lowest < highest"),
        (step, {"lowest": 0.0}, "0 <"),
        (step, {"steps": 3}, "at least 10"),
    ]:
        with pytest.raises(pg.PerigeeError, match=said):
            learning_rate_range(wrong, data(), **given)

    found = learning_rate_range(step, data(), optimizer=step.one, loss="error")
    assert found.losses[0] > 0
