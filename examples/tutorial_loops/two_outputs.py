"""Two outputs, each with its loss and its weight.

The hand-written loop adds the weighted losses and returns the sum: you cannot see which of the
outputs learns. Compiling the model with `loss_weights` shows it, but the losses of the single
outputs that Keras's `fit` reports are wrong where the last batch is short.

Here the objective adds the losses and returns the parts beside the total. Every returned value is
averaged over the examples of the epoch, so the logged parts add up to the logged loss.
"""

import keras
import numpy as np

import perigee as pg


class TwoHeads(keras.Model):
    """One hidden layer and two outputs: `(batch, 1)` and `(batch, 2)`."""

    def __init__(self, units=32):
        super().__init__()
        self.hidden = keras.layers.Dense(units, activation="relu")
        self.size = keras.layers.Dense(1)
        self.place = keras.layers.Dense(2)

    def call(self, inputs):
        hidden = self.hidden(inputs)
        return self.size(hidden), self.place(hidden)


class WeightedOutputs(pg.Step):
    """Train two outputs at once.

    Args:
        model: Returns the two predictions.
        weights: The weights of the two losses in the total.
    """

    def __init__(self, model, weights=(0.7, 0.3)):
        self.model, self.weights = model, weights
        self.optimizer = keras.optimizers.SGD(0.05)
        self.loss = keras.losses.MeanSquaredError()

    def train_step(self, batch):
        x, (size, place) = batch

        def objective():
            size_pred, place_pred = self.model(x, training=True)
            parts = self.loss(size, size_pred), self.loss(place, place_pred)
            return self.weights[0] * parts[0] + self.weights[1] * parts[1], parts

        loss, (size_loss, place_loss) = self.minimize(objective, self.optimizer, self.model)
        return {"loss": loss, "size_loss": size_loss, "place_loss": place_loss}


def make_step():
    return WeightedOutputs(TwoHeads())


def make_data(rows=205):
    """Return inputs `(rows, 10)` and targets `(rows, 1)` and `(rows, 2)`."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 10)).astype("float32")
    return x, (np.abs(x[:, :1]), np.tanh(x[:, 1:3]))


def main(epochs=30):
    keras.utils.set_random_seed(7)
    return pg.fit(make_step(), make_data(), epochs=epochs)


if __name__ == "__main__":
    main()
