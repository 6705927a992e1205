"""What layers add to the loss counts once for each call, weight penalties once in all (E19)."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg

CALL, WEIGHTS = 0.3, 0.2
LEARNING_RATE = 0.05
ROWS = 4


class SizePenalty(keras.layers.Layer):
    """Passes values on and adds the mean over the rows of their squared size to the loss."""

    def call(self, inputs):
        self.add_loss(CALL * ops.mean(ops.sum(ops.square(inputs), axis=-1)))
        return inputs


def by_layer():
    return [SizePenalty()], None


def by_regularizer():
    return [], keras.regularizers.L2(CALL)  # of an activity: divided by the rows by Keras


class Twins(pg.Step):
    """One model called on both halves of a pair, whose outputs are to agree."""

    def __init__(self, penalty):
        layers, activity = penalty()
        dense = keras.layers.Dense(
            2,
            use_bias=False,
            kernel_regularizer=keras.regularizers.L2(WEIGHTS),
            activity_regularizer=activity,
        )
        self.model = keras.Sequential([keras.layers.Input((3,)), dense, *layers])
        self.optimizer = keras.optimizers.SGD(LEARNING_RATE)

    def train_step(self, batch):
        left, right = batch

        def objective():
            apart = self.model(left, training=True) - self.model(right, training=True)
            return ops.mean(ops.square(apart))

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def pairs():
    draw = np.random.default_rng(6)
    return tuple(draw.normal(size=(ROWS, 3)).astype("float32") for _ in range(2))


@pytest.mark.parametrize("penalty", [by_layer, by_regularizer])
def test_e19_a_model_called_twice_in_one_objective_pays_for_both_calls(penalty):
    """The second call does not clear what the first one added, in loss and gradient alike."""
    step = Twins(penalty)
    kernel = step.model.get_weights()[0].astype("float64")
    left, right = pairs()
    apart = (left - right) @ kernel
    loss = (
        np.mean(apart**2)
        + CALL / ROWS * np.sum((left @ kernel) ** 2)
        + CALL / ROWS * np.sum((right @ kernel) ** 2)
        + WEIGHTS * np.sum(kernel**2)
    )
    gradient = (
        2 / apart.size * (left - right).T @ apart
        + 2 * CALL / ROWS * (left.T @ left + right.T @ right) @ kernel
        + 2 * WEIGHTS * kernel
    )

    history = pg.fit(step, [pairs()], progress="off").history

    np.testing.assert_allclose(history["loss"], [loss], rtol=1e-5)
    np.testing.assert_allclose(
        step.model.get_weights()[0], kernel - LEARNING_RATE * gradient, rtol=1e-4, atol=1e-5
    )
