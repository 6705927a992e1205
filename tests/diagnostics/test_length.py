"""`check` told how long a training is: rates over all its updates, and how many there are."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import initializers, ops
from keras import layers as kl
from keras.optimizers import schedules

import perigee as pg
from tests.diagnostics.programs import Own, answers, compiled, numbers, small, squares

ROWS, SIZE = 320, 32
A_PASS = ROWS // SIZE
EPOCHS = 20


def data(rows=ROWS):
    x = np.random.default_rng(3).normal(size=(rows, 6)).astype("float32")
    return x, (x[:, :1] - x[:, 1:2]).astype("float32")


def net(optimizer, **options):
    layers = [kl.Dense(24, activation="relu", **options) for _ in range(2)]
    model = keras.Sequential([keras.Input((6,)), *layers, kl.Dense(1)])
    return compiled(model, "mse", optimizer=optimizer)


def told(target, rows=ROWS, size=SIZE, **length):
    report = pg.check(target, data(rows), batch_size=size, **{"epochs": EPOCHS, **length})
    return [finding.code for finding in report if finding.severity != "hint"]


def adam(rate, **options):
    return keras.optimizers.Adam(rate, **options)


class Power(schedules.LearningRateSchedule):
    """The schedule of the Transformer, with the exponents given."""

    def __init__(self, warmup, ramp, fall=-0.5):
        self.warmup, self.ramp, self.fall = warmup, ramp, fall

    def __call__(self, step):
        step = ops.cast(step, "float32") + 1.0
        return 0.1 * ops.minimum(step**self.fall, step * self.warmup**self.ramp)


OF_RATES = {
    "cosine as long as the epochs": lambda: adam(schedules.CosineDecay(1e-2, EPOCHS)),
    "boundaries in epochs": lambda: keras.optimizers.SGD(
        schedules.PiecewiseConstantDecay([10, 15], [0.05, 1e-4, 1e-5])
    ),
    "halved at every step": lambda: adam(schedules.ExponentialDecay(1e-2, 1, 0.5)),
    "polynomial, over at once": lambda: adam(schedules.PolynomialDecay(1e-2, 5, 1e-6)),
    "warm-up of a large corpus": lambda: adam(
        schedules.CosineDecay(0.0, 10**6, warmup_target=1e-2, warmup_steps=50_000)
    ),
    "warm-up of the Transformer": lambda: adam(Power(4000.0, -1.5)),
    "a decay that grows": lambda: adam(schedules.ExponentialDecay(1e-4, A_PASS, 1.5)),
    "by Adam, at a crawl": lambda: adam(5e-6),
    "by SGD, at a crawl": lambda: keras.optimizers.SGD(1e-6, momentum=0.9),
    "by Lion, at a crawl": lambda: keras.optimizers.Lion(3e-6),
    "a leap of Adam": lambda: adam(0.6),
    "a leap of RMSprop": lambda: keras.optimizers.RMSprop(0.7),
    "a leap of SGD": lambda: keras.optimizers.SGD(8.0),
}


@pytest.mark.spread(4, once=True)
@pytest.mark.parametrize("name", OF_RATES)
def test_a_rate_at_which_nothing_is_learned_is_told(name):
    assert told(net(OF_RATES[name]())) == ["PG124"]


USUAL = {
    "cosine": lambda: adam(schedules.CosineDecay(1e-2, EPOCHS * A_PASS)),
    "cosine, then a floor": lambda: adam(schedules.CosineDecay(1e-2, 2 * A_PASS, alpha=0.1)),
    "cosine with restarts": lambda: adam(schedules.CosineDecayRestarts(1e-2, 2 * A_PASS)),
    "boundaries": lambda: keras.optimizers.SGD(
        schedules.PiecewiseConstantDecay([100, 150], [0.05, 5e-3, 5e-4])
    ),
    "a short warm-up": lambda: adam(
        schedules.CosineDecay(0.0, 190, warmup_target=1e-2, warmup_steps=10)
    ),
    "the Transformer, warmed up": lambda: adam(Power(80.0, -1.5)),
    "a warm-up that ends with the training": lambda: adam(Power(150.0, -1.5)),
    "slow": lambda: adam(3e-4),
    "slow descent": lambda: keras.optimizers.SGD(1e-3, momentum=0.9),
    "high": lambda: adam(0.05),
    "Adagrad": lambda: keras.optimizers.Adagrad(0.5),
    "Adadelta": lambda: keras.optimizers.Adadelta(1.0),
    "accumulated": lambda: adam(3e-3, gradient_accumulation_steps=2),
}


@pytest.mark.spread(4, once=True)
@pytest.mark.parametrize("name", USUAL)
def test_a_usual_rate_is_left_alone(name):
    assert told(net(USUAL[name]())) == []


@pytest.mark.parametrize("epochs", [10**3, 10**4])
@pytest.mark.once
def test_a_schedule_that_is_over_late_may_have_been_meant(epochs):
    falling = schedules.ExponentialDecay(1e-2, 20 * A_PASS, 0.9)

    assert told(net(adam(falling)), epochs=epochs) == []


@pytest.mark.once
def test_without_a_length_only_constant_rates_are_looked_at():
    never = schedules.CosineDecay(0.0, 10**6, warmup_target=1e-2, warmup_steps=50_000)

    assert told(net(adam(never)), epochs=None) == []
    assert told(net(adam(1e-3)), epochs=None) == []


@pytest.mark.once
def test_weights_that_are_tiny_are_no_fault_of_the_rate():
    tiny = initializers.RandomNormal(stddev=1e-4, seed=1)

    assert "PG124" not in told(net(adam(1e-2), kernel_initializer=tiny))


FEW = {
    "three steps": lambda: (net(adam(1e-2)), {"epochs": None, "steps": 3}),
    "a step an epoch": lambda: (net(adam(1e-2)), {"steps_per_epoch": 1, "epochs": 9}),
    "one large batch": lambda: (net(adam(1e-3)), {"rows": 128, "size": 128}),
    "by descent": lambda: (
        net(keras.optimizers.SGD(2e-3)),
        {"rows": 128, "size": 128, "epochs": 3},
    ),
    "never applied": lambda: (net(adam(1e-2, gradient_accumulation_steps=500)), {}),
}


@pytest.mark.spread(3, once=True)
@pytest.mark.parametrize("name", FEW)
def test_a_training_of_too_few_updates_is_told(name):
    target, length = FEW[name]()

    assert told(target, **length) == ["PG137"]


ENOUGH = {
    "a pass": lambda: (net(adam(2e-2)), {"epochs": 3}),
    "one large batch, often": lambda: (net(adam(1e-2)), {"rows": SIZE, "epochs": 60}),
    "steps of a stretch": lambda: (net(adam(1e-2)), {"steps_per_epoch": 5, "epochs": 30}),
    "not known": lambda: (net(adam(1e-3)), {"epochs": None}),
}


@pytest.mark.spread(2, once=True)
@pytest.mark.parametrize("name", ENOUGH)
def test_a_training_of_enough_updates_is_left_alone(name):
    target, length = ENOUGH[name]()

    assert told(target, **length) == []


@pytest.mark.once
def test_a_model_that_is_trained_already_may_be_tuned_a_little():
    network = small(1)
    target = compiled(
        network, keras.losses.BinaryCrossentropy(from_logits=True), optimizer=adam(0.02)
    )
    target.fit(*answers(), epochs=40, verbose=0)
    again = keras.losses.BinaryCrossentropy(from_logits=True)

    report = pg.check(compiled(network, again, optimizer=adam(1e-5)), answers(), epochs=3)

    assert report.ok


@pytest.mark.once
def test_several_optimizers_are_told_apart():
    network = small(1)
    first, *rest = (layer for layer in network.layers if layer.variables)
    step = pg.Supervised(network, [(adam(2e-6), first), (adam(1e-2), rest)], "mse")

    report = pg.check(step, numbers(), epochs=90)

    assert [f.code for f in report] == ["PG124"]


@pytest.mark.once
def test_own_steps_are_looked_at_too():
    report = pg.check(Own(small(1), squares, optimizer=adam(4e-6)), numbers(), epochs=10)

    assert [finding.code for finding in report] == ["PG124"]
