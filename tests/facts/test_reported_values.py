"""What is logged is the exact mean over the examples, whatever it is called (E2, E16)."""

from itertools import pairwise

import keras
import numpy as np
import pytest
from keras import ops

import perigee as pg

SIZES = [3, 3, 1]
ROWS = sum(SIZES)


class TwoLines(pg.Step):
    """Two outputs, each with a loss of its own, written out by hand."""

    def __init__(self, learning_rate=0.0, loss=None):
        x = keras.Input((2,))
        outputs = {"a": keras.layers.Dense(1, name="a")(x), "b": keras.layers.Dense(1, name="b")(x)}
        self.model = keras.Model(x, outputs)
        self.optimizer = keras.optimizers.SGD(learning_rate)
        self.loss = loss or (lambda y, y_pred: ops.mean(ops.square(y - y_pred)))

    def losses(self, batch, training):
        x, y = batch
        y_pred = self.model(x, training=training)
        return {name: self.loss(y[name], y_pred[name]) for name in ("a", "b")}

    def train_step(self, batch):
        def objective():
            losses = self.losses(batch, training=True)
            return losses["a"] + 2.0 * losses["b"], losses

        loss, losses = self.minimize(objective, self.optimizer, self.model)
        return {"loss": loss, "a_loss": losses["a"], "b_loss": losses["b"]}

    def test_step(self, batch):
        losses = self.losses(batch, training=False)
        return {"loss": losses["a"] + 2.0 * losses["b"], "a_loss": losses["a"]}


def data():
    """Return rows of which the last, alone in its batch, is far from all others."""
    draw = np.random.default_rng(1)
    x = draw.normal(size=(ROWS, 2)).astype("float32")
    y = {name: draw.normal(size=(ROWS, 1)).astype("float32") for name in ("a", "b")}
    y["a"][-1] += 20.0
    return x, y


def batches():
    x, y = data()
    ends = np.cumsum([0, *SIZES])
    return [
        (x[first:last], {name: values[first:last] for name, values in y.items()})
        for first, last in pairwise(ends)
    ]


def exact_losses(step):
    """Return the mean over all rows of each output's squared error."""
    x, y = data()
    y_pred = step.model(x)
    return {name: float(np.mean((y[name] - ops.convert_to_numpy(y_pred[name])) ** 2)) for name in y}


def mean_of_batch_means(step):
    """The mean of the batches' means, which counts the lonely last row as much as three."""
    x, y = data()
    errors = (y["a"] - ops.convert_to_numpy(step.model(x)["a"])) ** 2
    return np.mean([part.mean() for part in np.split(errors, np.cumsum(SIZES)[:-1])])


@pytest.mark.parametrize("loss", [None, keras.losses.MeanSquaredError()], ids=["raw", "keras"])
def test_e16_the_losses_of_two_outputs_are_exact_with_a_ragged_last_batch(loss):
    """A short batch weighs as many examples as it has, in the loss and in each part of it."""
    step = TwoLines(loss=loss)
    exact = exact_losses(step)
    assert abs(mean_of_batch_means(step) - exact["a"]) > 0.5 * exact["a"]

    history = pg.fit(step, batches(), epochs=2, progress="off").history

    np.testing.assert_allclose(history["a_loss"], [exact["a"]] * 2, rtol=1e-6)
    np.testing.assert_allclose(history["b_loss"], [exact["b"]] * 2, rtol=1e-6)
    np.testing.assert_allclose(history["loss"], [exact["a"] + 2 * exact["b"]] * 2, rtol=1e-6)


def test_e16_a_measured_loss_is_exact_with_a_ragged_last_batch():
    step = TwoLines()
    exact = exact_losses(step)

    measured = pg.evaluate(step, batches())

    np.testing.assert_allclose(measured["a_loss"], exact["a"], rtol=1e-6)
    np.testing.assert_allclose(measured["loss"], exact["a"] + 2 * exact["b"], rtol=1e-6)


def test_e2_the_loss_of_an_epoch_is_the_mean_over_its_steps_while_weights_move():
    """A returned `loss` is neither 0.0, nor the last batch's, nor the mean of the batches."""
    learning_rate = 0.05
    initial = TwoLines(learning_rate)
    one_epoch, epoch_a_step = TwoLines(learning_rate), TwoLines(learning_rate)
    for step in (one_epoch, epoch_a_step):
        step.model.set_weights(initial.model.get_weights())

    whole = pg.fit(one_epoch, batches(), progress="off").history["loss"]
    parts = pg.fit(
        epoch_a_step, batches(), epochs=len(SIZES), steps_per_epoch=1, progress="off"
    ).history["loss"]

    assert len(set(parts)) == len(SIZES)
    np.testing.assert_allclose(whole, [np.average(parts, weights=SIZES)], rtol=1e-6)


def test_e2_any_key_is_averaged_over_the_epoch():
    """A value under a name of the user's own is the mean of the epoch, not of its last batch."""

    class Named(TwoLines):
        def train_step(self, batch):
            x, _ = batch
            super().train_step(batch)
            return {"first_column": ops.mean(x[:, 0]), "rows_of_it": x[:, 0]}

    history = pg.fit(Named(), batches(), progress="off").history

    expected = data()[0][:, 0].mean()
    np.testing.assert_allclose(history["first_column"], [expected], rtol=1e-5)
    np.testing.assert_allclose(history["rows_of_it"], [expected], rtol=1e-5)
