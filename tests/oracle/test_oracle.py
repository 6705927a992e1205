"""Trainings that are drawn come to what an interpreter in NumPy says they come to.

`python -m tests.oracle` draws many more of them.
"""

from contextlib import contextmanager
from functools import cache

import keras
import pytest

import perigee as pg
from tests.oracle import drawn
from tests.oracle.interpreter import FAULTS, Design, Layer, Optimizer
from tests.oracle.trained import BACKEND, Trained

SEED = 38
PER_DESIGN = 7
QUICK, ALL = 4, 14

results = cache(lambda number: list(drawn.trainings(SEED, number, PER_DESIGN)))


def numbers():
    """Return the designs, those beyond the quick ones marked."""
    return [pytest.param(n, marks=[pytest.mark.slow] if n >= QUICK else []) for n in range(ALL)]


@pytest.mark.parametrize("number", numbers())
def test_a_drawn_training_comes_to_what_the_interpreter_says(number):
    for design, training, outcome in results(number):
        assert not drawn.compared(design, training, outcome), f"{design}\n{training.course}"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    found = [
        drawn.compared(design, training, outcome, fault)
        for number in range(QUICK)
        for design, training, outcome in results(number)
    ]

    assert any(found)


@contextmanager
def in_float64():
    """Let Keras make everything in float64; its policy stays what it was at its first use."""
    floatx, policy = keras.config.floatx(), keras.config.dtype_policy()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    try:
        yield
    finally:
        keras.config.set_floatx(floatx)
        keras.config.set_dtype_policy(policy)


@pytest.mark.only_tensorflow
@pytest.mark.slow
def test_in_float64_they_agree_far_more_closely():
    with in_float64():
        for design, training, outcome in drawn.trainings(SEED, 0, PER_DESIGN):
            assert not drawn.compared(design, training, outcome), f"{design}\n{training.course}"


# What it has found.

SGD = Optimizer(2.0**-4)


def trained(design, data, feed="list", **course):
    """Return the made design, its weights at the start and what came of a training."""
    made = Trained(design, data, feed, pg.Execution("eager" if BACKEND != "jax" else "auto"))
    weights = drawn.Draw(3).weights(design)
    return weights, made.train(weights, data, None, drawn.Course(4, epochs=1, **course), None)


def test_averaged_weights_are_not_assigned_before_the_first_update():
    design = Design(
        (Layer("dense", (2,)),), "mse", "scalar", (Optimizer(2.0**-4, ema=0.5),), gated=True
    )
    data = dict(drawn.Draw(3).rows(design, 8))
    data["gate"] = -abs(data["gate"])

    weights, outcome = trained(design, data)

    assert outcome.variables["0/kernel"] == pytest.approx(weights["0/kernel"])


def test_micro_batches_of_weight_0_update_as_their_large_batch_does():
    design = Design((Layer("dense", (2,), penalty=0.25),), "mse", "average", (SGD,), accumulate=2)
    data = dict(drawn.Draw(3).rows(design, 8))
    data["weight"] = 0.0 * data["weight"]

    weights, outcome = trained(design, data)

    kernel = weights["0/kernel"]
    assert outcome.variables["0/kernel"] == pytest.approx(kernel - SGD.rate * 2 * 0.25 * kernel)


def test_terms_that_layers_add_to_a_weighted_average_cannot_be_accumulated():
    layers = (Layer("activity", penalty=0.5), Layer("dense", (2,), has_bias=True))
    design = Design(layers, "mse", "average", (SGD,), accumulate=2)

    with pytest.raises(pg.PerigeeError, match="different counts"):
        trained(design, drawn.Draw(3).rows(design, 8))


@pytest.mark.only_tensorflow
def test_steps_in_float64_that_skip_can_be_compiled_in_blocks():
    with in_float64():
        design = Design((Layer("dense", (2,)),), "mse", "scalar", (SGD,), skips=True)
        made = Trained(
            design, data := drawn.Draw(3).rows(design, 8), "arrays", pg.Execution("graph", 3)
        )
        weights = drawn.Draw(3).weights(design)
        outcome = made.train(weights, data, None, drawn.Course(2, epochs=1), None)

    assert outcome.records[-1][2]["skipped_steps"] == 0
