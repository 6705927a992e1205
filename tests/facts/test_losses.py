"""Losses that run and mean something else are averaged right, or refused (E20)."""

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg
from perigee._errors import BroadcastError, LogitsError, LossShapeError, PairingError

LEARNING_RATE = 0.1
BATCH = 6


class Fit(pg.Step):
    """A linear model with whatever loss is given."""

    def __init__(self, loss, outputs=1, activation=None):
        dense = keras.layers.Dense(outputs, activation=activation, name="dense")
        self.model = keras.Sequential([keras.layers.Input((3,)), dense])
        self.optimizer = keras.optimizers.SGD(LEARNING_RATE)
        self.loss = loss

    def train_step(self, batch):
        x, y = batch

        def objective():
            return self.loss(y, self.model(x, training=True))

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def inputs():
    return np.random.default_rng(8).normal(size=(BATCH, 3)).astype("float32")


def targets(*shape):
    return np.random.default_rng(9).normal(size=shape).astype("float32")


def fit(step, y):
    return pg.fit(step, [(inputs(), y)], progress="off").history


def each(y, y_pred):
    return ops.square(y - y_pred)[:, 0]


def keras_none(y, y_pred):
    return keras.losses.MeanSquaredError(reduction="none")(y, y_pred)


def raw_mean(y, y_pred):
    return ops.mean(ops.square(y - y_pred))


def raw(y, y_pred):
    return (y - y_pred) ** 2


@pytest.mark.parametrize("loss", [each, keras_none])
def test_e20_a_loss_of_one_value_an_example_is_averaged(loss):
    """Its gradient is that of the mean, not of the sum, which grows with the batch."""
    step, y = Fit(loss), targets(BATCH, 1)
    kernel, bias = step.model.get_weights()
    errors = inputs() @ kernel + bias - y
    gradient = 2 / BATCH * inputs().T @ errors

    history = fit(step, y)

    np.testing.assert_allclose(history["loss"], [np.mean(errors**2)], rtol=1e-5)
    np.testing.assert_allclose(
        step.model.get_weights()[0], kernel - LEARNING_RATE * gradient, rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(
    ("loss", "outputs", "activation"),
    [
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), 3, "softmax"),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=False), 3, None),
        (keras.losses.BinaryCrossentropy(from_logits=False), 1, None),
    ],
    ids=["softmax as logits", "logits as softmax", "logits as sigmoid"],
)
def test_e20_probabilities_where_logits_are_meant_and_the_reverse_are_refused(
    loss, outputs, activation
):
    step = Fit(lambda y, y_pred: loss(y, y_pred * 1.0), outputs, activation)
    before = step.model.get_weights()[0]

    with pytest.raises(LogitsError, match="PG206") as raised:
        fit(step, (np.arange(BATCH) % 2).astype("int32")[:, None])

    assert raised.value.from_logits == loss.from_logits
    np.testing.assert_array_equal(step.model.get_weights()[0], before)


def test_e20_labels_that_broadcast_against_predictions_are_refused():
    """Keras's losses take one label for three predictions without a word."""
    step = Fit(keras.losses.MeanSquaredError(), outputs=3)

    with pytest.raises(BroadcastError, match="PG203") as raised:
        fit(step, targets(BATCH, 1))

    assert (raised.value.y_true, raised.value.y_pred) == ((BATCH, 1), (BATCH, 3))


def test_e20_a_matrix_of_every_label_against_every_prediction_is_refused():
    """`(batch,)` minus `(batch, 1)` is `(batch, batch)` in plain arithmetic."""
    with pytest.raises(LossShapeError, match="PG201") as raised:
        fit(Fit(raw), targets(BATCH))

    assert raised.value.shape == (BATCH, BATCH)


def test_e20_the_mean_of_such_a_matrix_is_refused_although_it_is_a_scalar():
    """A loss that stays the same when labels change places does not pair them with examples."""
    with pytest.raises(PairingError, match="PG211") as raised:
        fit(Fit(raw_mean), targets(BATCH))

    assert raised.value.shape == (BATCH,)


def test_e20_a_model_that_predicts_the_same_for_all_is_no_such_matrix():
    """Weights that begin at 0 make every loss blind to pairs, and are no fault."""
    step = Fit(raw_mean)
    step.model.set_weights([np.zeros_like(w) for w in step.model.get_weights()])
    y = targets(BATCH, 1)

    history = fit(step, y)

    np.testing.assert_allclose(history["loss"], [np.mean(y**2)], rtol=1e-5)


def test_e20_zero_weights_do_not_hide_such_a_matrix():
    step = Fit(raw_mean)
    step.model.set_weights([np.zeros_like(w) for w in step.model.get_weights()])

    with pytest.raises(PairingError, match="PG211"):
        fit(step, targets(BATCH))
