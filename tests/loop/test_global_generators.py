"""What a training draws from generators that belong to the user's whole program."""

import random

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee import _backends

X = np.random.default_rng(0).normal(size=(16, 3)).astype("float32")
Y = X[:, :1]


class Plain(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.layers.Dense(1)])  # built by the rehearsal
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        x, y = batch
        objective = lambda: ops.mean(ops.square(self.model(x) - y))  # noqa: E731
        return {"loss": self.minimize(objective, self.optimizer, self.model)}

    def test_step(self, batch):
        return {"loss": ops.mean(ops.square(self.model(batch[0]) - batch[1]))}


def states():
    """Return the states of all generators of a program, without drawing from them."""
    framework = _backends.current().random_state()
    if framework is not None:
        framework = repr([np.asarray(part).tolist() for part in keras.tree.flatten(framework)])
    return random.getstate(), repr(np.random.get_state()), framework


def drawn_by_keras():
    """Return what Keras draws next without a generator."""
    return keras.ops.convert_to_numpy(keras.random.uniform((2,))).tolist()


@pytest.mark.parametrize("epochs", [1, 3])
def test_a_training_without_seed_draws_one_number_from_numpy(epochs):
    keras.utils.set_random_seed(3)
    step = Plain()
    drawn_by_keras()  # its generator exists from its first draw on
    before, numpy = states(), np.random.get_state()

    pg.fit(step, (X, Y), epochs=epochs, validation=(X, Y), batch_size=8, progress="off")

    after, following = states(), np.random.rand()
    assert (after[0], after[2]) == (before[0], before[2])
    np.random.set_state(numpy)
    np.random.randint(2**31 - 1)
    assert np.random.rand() == following


def test_one_with_a_seed_draws_none():
    def next_of_keras(trains):
        keras.utils.set_random_seed(3)
        step = Plain()
        drawn_by_keras()
        before = states()
        if trains:
            given = {"validation": (X, Y), "batch_size": 8, "progress": "off"}
            pg.fit(step, (X, Y), seed=1, **given)
            pg.check(step, (X, Y))
            pg.evaluate(step, (X, Y))
        assert states() == before
        return drawn_by_keras()

    assert next_of_keras(trains=True) == next_of_keras(trains=False)


def test_the_seed_of_the_whole_program_repeats_it():
    def losses(seed):
        keras.utils.set_random_seed(seed)
        return pg.fit(Plain(), (X, Y), batch_size=4, epochs=2, progress="off").history["loss"]

    assert losses(3) == losses(3) != losses(4)


def test_two_trainings_have_orders_of_their_own():
    keras.utils.set_random_seed(3)
    orders = []

    class Noting(Plain):
        def train_step(self, batch):
            return {**super().train_step(batch), "first": ops.sum(batch[0][0])}

    for _ in range(2):
        step = Noting()
        history = pg.fit(step, (X, Y), batch_size=4, progress="off").history
        orders.append(history["first"])

    assert orders[0] != orders[1]
