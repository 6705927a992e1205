"""`check(..., level="full")`: trials of some hundred steps find what single steps cannot."""

from __future__ import annotations

import hashlib
import random
import re

import keras
import numpy as np
import pytest
from keras import layers as kl
from keras import losses, ops

import perigee as pg
from perigee._step.state import snapshot, track
from perigee.diagnostics._recording import Compared
from perigee.diagnostics._trials import MOST_STEPS
from perigee.diagnostics.trials.outputs_do_not_follow import _quality
from tests.diagnostics.programs import (
    Own,
    adam,
    answers,
    classes,
    compiled,
    model,
    numbers,
    small,
    sparse,
    squares,
    supervised,
)


def sgd(rate):
    return keras.optimizers.SGD(rate)


def found(step, data, level="full", **options):
    return {f.code: f for f in pg.check(step, data, level=level, **options)}


def rings(rows=240, scale=1.0, offset=0.0):
    """Return points, and whether they are far from the middle."""
    x = np.random.default_rng(5).normal(size=(rows, 2))
    y = (np.sum(x**2, axis=1, keepdims=True) > 1.3).astype("float32")
    return (x * scale + offset).astype("float32"), y


def net(rate=1e-2, optimizer=None, **options):
    """Return a compiled model that learns `rings` in some hundred updates."""
    layers = [kl.Dense(16, activation="relu", **options) for _ in range(2)]
    network = keras.Sequential([keras.Input((2,)), *layers, kl.Dense(1, activation="sigmoid")])
    return compiled(network, "binary_crossentropy", optimizer=optimizer or adam(rate))


def decaying(steps):
    return keras.optimizers.schedules.ExponentialDecay(1e-2, steps, 0.5)


def falling(rate):
    return keras.optimizers.schedules.CosineDecay(rate, 320)


def wide():
    return keras.initializers.RandomNormal(stddev=20.0)


class OfDict(pg.Step):
    """A step whose batches are dicts that hold the labels."""

    def __init__(self, optimizer):
        super().__init__()
        self.model, self.optimizer = small(1), optimizer
        self.loss = losses.MeanSquaredError()

    def train_step(self, batch):
        def loss():
            return self.loss(batch["y"], self.model(batch["x"], training=True))

        return {"loss": self.minimize(loss, self.optimizer)}


SICK = {
    "PG710": {
        "logarithm": lambda: (
            Own(small(1), lambda y, p: -ops.log(p[:, 0] + 9.0), optimizer=sgd(-1.0)),
            numbers(),
        ),
    },
    "PG711": {
        "divided": lambda: (
            Own(small(1), lambda y, p: squares(y, p) / 1e5, optimizer=sgd(1e-2)),
            numbers(),
        ),
    },
    "PG712": {
        "supervised": lambda: (
            supervised(small(1, "softmax"), losses.BinaryCrossentropy()),
            answers(),
        ),
        "own": lambda: (Own(small(1, "softmax"), losses.BinaryCrossentropy()), answers()),
    },
    "PG713": {
        "far too low": lambda: (Own(small(1), squares, optimizer=adam(2e-6)), numbers()),
        "too low": lambda: (Own(small(1), squares, optimizer=sgd(1e-5)), numbers()),
        "supervised": lambda: (pg.Supervised(small(1), sgd(1e-5), "mse"), numbers()),
        "dict": lambda: (OfDict(adam(2e-6)), dict(zip("xy", numbers(), strict=True))),
        "two optimizers": lambda: (two(2e-6), numbers()),
    },
    "PG715": {
        "wide": lambda: (net(1e-3, kernel_initializer=wide()), rings()),
        "dead": lambda: (net(bias_initializer=keras.initializers.Constant(-9.0)), rings()),
    },
}

HEALTHY = {
    "regression": lambda: (Own(small(1), squares), numbers()),
    "classes": lambda: (supervised(small(3), sparse()), classes()),
    "compiled": lambda: (
        compiled(small(1), losses.BinaryCrossentropy(from_logits=True)),
        answers(),
    ),
    "zero head": lambda: (
        Own(
            model(kl.Dense(8, activation="relu"), kl.Dense(1, kernel_initializer="zeros")),
            squares,
        ),
        numbers(),
    ),
    "dict": lambda: (OfDict(adam(1e-2)), dict(zip("xy", numbers(), strict=True))),
    "two optimizers": lambda: (two(1e-3), numbers()),
    "trained before": lambda: (fine_tuned(), rings()),
    "small steps of a negative loss": lambda: (
        Own(small(1), lambda y, p: squares(y, p) - 5.0, optimizer=adam(1e-3)),
        numbers(),
    ),
    "warm-up": lambda: (
        Own(
            small(1),
            squares,
            optimizer=adam(
                keras.optimizers.schedules.CosineDecay(
                    0.0, 1, warmup_target=1e-2, warmup_steps=10**6
                )
            ),
        ),
        numbers(),
    ),
}


LONG = {
    "PG713": {
        "rate": lambda: (net(5e-5), {"epochs": 40}),
        "schedule": lambda: (net(optimizer=adam(falling(1e-4))), {"epochs": 40}),
    },
    "PG716": {
        "epochs": lambda: (net(), {"epochs": 2}),
        "batch": lambda: (net(5e-3), {"epochs": 30, "batch_size": 240}),
    },
    # What the rates and the number of updates show needs no trial, and explains what trials show.
    "PG124": {
        "rate": lambda: (net(1e-5), {"epochs": 40}),
        "schedule": lambda: (net(optimizer=adam(decaying(4))), {"epochs": 40}),
    },
    "PG137": {
        "epochs": lambda: (net(), {"epochs": 1}),
        "batch": lambda: (net(3e-3), {"epochs": 10, "batch_size": 240}),
    },
}
"""Programs whose fault shows only with the length of the training."""

ENOUGH = {
    "epochs": lambda: (net(), {"epochs": 40}),
    "schedule": lambda: (net(optimizer=adam(decaying(200))), {"epochs": 40}),
    "slow and long": lambda: (net(1e-4), {"epochs": 1500}),
    "not known": lambda: (net(1e-4), {}),
}


HIDDEN = pytest.mark.only_tensorflow
"""Only there do Keras's losses look behind a softmax for its scores."""


@pytest.mark.spread(2, once=True)
@pytest.mark.parametrize(
    ("code", "name"),
    [
        pytest.param(code, name, marks=[HIDDEN] if code == "PG712" else [])
        for code in SICK
        for name in SICK[code]
    ],
)
def test_a_trial_finds(code, name):
    target, data = SICK[code][name]()

    assert code in found(target, data)


@pytest.mark.spread(1, once=True)
@pytest.mark.parametrize("name", HEALTHY)
def test_a_healthy_program_passes_its_trial(name):
    target, data = HEALTHY[name]()

    assert [f for f in found(target, data).values() if f.severity != "hint"] == []


def test_no_trial_speaks_of_labels_of_chance():
    x, y = rings()

    said = [f.code for f in found(net(), (x, y[::-1])).values() if f.severity != "hint"]

    assert said == ["PG330"]


@pytest.mark.spread(1, once=True)
@pytest.mark.parametrize(("code", "name"), [(code, name) for code in LONG for name in LONG[code]])
def test_a_trial_knows_how_long_the_training_is(code, name):
    target, length = LONG[code][name]()

    assert list(found(target, rings(), **length)) == [code]


@pytest.mark.spread(1, once=True)
@pytest.mark.parametrize("name", ENOUGH)
def test_a_training_that_is_long_enough_passes_its_trial(name):
    target, length = ENOUGH[name]()

    assert found(target, rings(), **length) == {}


@pytest.mark.spread(1, once=True)
def test_a_trial_finds_inputs_that_are_too_small():
    tiny = 0.015  # smaller ones are found without a trial

    assert list(found(net(optimizer=sgd(0.1)), rings(scale=tiny), epochs=75)) == ["PG714"]


@pytest.mark.spread(1, once=True)
def test_a_finding_tells_what_was_tried_and_what_it_gave():
    own = 5e-5

    finding = found(net(own), rings(), epochs=40)["PG713"]

    said = re.match(
        r"At a learning rate of (\S+) instead of 5e-05, the loss on other rows after (\d+) steps "
        r"is (\S+), not (\S+); with labels of other rows, which nothing can be learned from, "
        r"(\S+)\.$",
        finding.happened,
    )
    assert said is not None
    rate, steps, loss, before, blind = map(float, said.groups())
    assert rate in (5e-3, 5e-2)
    assert steps <= MOST_STEPS
    assert loss < 0.5 * before
    assert blind == pytest.approx(np.log(2), rel=0.1)


@pytest.mark.spread(1, once=True)
def test_two_trials_of_one_program_give_the_same():
    target = net(bias_initializer=keras.initializers.Constant(-9.0))

    first, again = (found(target, rings(), epochs=40)["PG715"] for _ in range(2))

    assert first == again


def test_without_the_level_nothing_is_tried():
    target, data = SICK["PG711"]["divided"]()

    assert found(target, data, level="default") == {}


def fingerprint(step):
    entries = track(step).entries
    digest = hashlib.sha256()
    for entry, value in zip(entries, snapshot([e.variable for e in entries]), strict=True):
        digest.update(entry.key.encode() + value.tobytes())
    digest.update(repr(np.random.get_state()).encode() + repr(random.getstate()).encode())
    return digest.hexdigest()


def drawing():
    return model(kl.Dense(8), kl.BatchNormalization(), kl.ReLU(), kl.Dropout(0.3), kl.Dense(1))


def averaged():
    optimizer = keras.optimizers.Adam(1e-2, use_ema=True, ema_momentum=0.9)
    return Own(drawing(), squares, optimizer=optimizer)


def two(rate=1e-2):
    network = drawing()
    first, *rest = (layer for layer in network.layers if layer.variables)
    return pg.Supervised(network, [(sgd(rate), first), (adam(rate), rest)], "mse")


def fine_tuned():
    network = net()
    network.fit(*rings(), epochs=30, verbose=0)
    return compiled(network, "binary_crossentropy", optimizer=adam(1e-5))


KEPT = {
    "schedule": (
        lambda: Own(drawing(), squares, optimizer=adam(decaying(9))),
        {},
    ),
    "Dropout and BatchNorm": (
        lambda: Own(drawing(), squares, metrics=[keras.metrics.MeanAbsoluteError()]),
        {},
    ),
    "two optimizers": (two, {}),
    "averaged weights": (averaged, {}),
    "accumulated": (lambda: Own(drawing(), squares), {"accumulate": 2}),
    "compiled": (lambda: pg.KerasStep(compiled(drawing(), "mse")), {}),
}


@pytest.mark.spread(1, once=True)
@pytest.mark.parametrize("kind", KEPT)
def test_a_training_goes_on_as_if_it_had_not_been_checked(kind):
    make, arguments = KEPT[kind]

    def trained(levels):
        keras.utils.set_random_seed(3)
        step, x_and_y = make(), numbers()
        options = {"batch_size": 32, "progress": "off", "seed": 1, "execution": "eager"}
        logs = []
        for level in levels:
            logs.append(pg.fit(step, x_and_y, epochs=1, **options, **arguments).history)
            before = fingerprint(step)
            if level is not None:
                pg.check(step, x_and_y, level=level)
            assert fingerprint(step) == before
        logs.append(pg.fit(step, x_and_y, epochs=1, **options, **arguments).history)
        return logs, fingerprint(step)

    assert trained(["default", "full"]) == trained([None, None])


@pytest.mark.spread(1, once=True)
@pytest.mark.parametrize("kind", ["batches", "function"])
def test_data_in_batches_is_tried_without_a_trace(kind):
    data = {"batches": [numbers()] * 2, "function": lambda: [numbers()] * 2}[kind]
    step = Own(drawing(), squares)
    pg.check(step, data)
    before = fingerprint(step)

    pg.check(step, data, level="full")

    assert fingerprint(step) == before


def test_hidden_scores_are_told_from_outputs_that_follow():
    y = np.array([[0.0], [1.0]] * 8, "float32")
    loss = losses.BinaryCrossentropy()

    constant = _quality(Compared(loss, y, np.ones((16, 1), "float32")))
    right = _quality(Compared(loss, y, y))

    assert constant is not None and right is not None
    assert constant[0] == pytest.approx(np.log(2))
    assert (constant[1], constant[2]) == (0.0, 0.0)
    assert (right[1], right[2]) == (1.0, pytest.approx(1.0))


@pytest.mark.only_jax
def test_a_schedule_is_steered_in_compiled_models_too():
    """Keras's own step on JAX sees only the variables that it is given."""
    target = net(optimizer=adam(falling(1e-4)))

    assert list(found(target, rings(), epochs=40)) == ["PG713"]
