"""A custom model, trained on mean squared error.

The tutorial's loop calls the model without `training=True`, so Dropout does nothing and
BatchNormalization never learns its statistics; it runs op by op, on the whole data set as one
batch; and it prints the loss of every tenth step as if it were that of ten epochs. Its claim that
`fit` is only for ready-made models has not been true for years.

Here the model's layers may be built at their first call: one rehearsal of the step, whose effects
are undone, builds them and the optimizer before anything is compiled.
"""

import keras
import numpy as np

import perigee as pg


class TwoLayers(keras.Model):
    """Two dense layers with Dropout between them, built when the first batch comes."""

    def __init__(self, units=32):
        super().__init__()
        self.hidden = keras.layers.Dense(units, activation="relu")
        self.dropout = keras.layers.Dropout(0.1)
        self.last = keras.layers.Dense(1)

    def call(self, inputs, training=None):
        return self.last(self.dropout(self.hidden(inputs), training=training))


class Regression(pg.Step):
    """Fit a model to numbers; mean absolute error is logged beside the loss."""

    def __init__(self, model):
        self.model = model
        self.optimizer = keras.optimizers.Adam(1e-2)
        self.loss = keras.losses.MeanSquaredError()
        self.error = keras.metrics.MeanAbsoluteError(name="error")

    def train_step(self, batch):
        x, y = batch

        def objective():
            y_pred = self.model(x, training=True)
            return self.loss(y, y_pred), y_pred

        loss, y_pred = self.minimize(objective, self.optimizer, self.model)
        self.error.update_state(y, y_pred)
        return {"loss": loss}

    def predict_step(self, batch):
        x, _ = batch
        return self.model(x, training=False)


def make_step():
    return Regression(TwoLayers())


def make_data(rows=200):
    """Return inputs `(rows, 10)` and targets `(rows, 1)` that depend on two of the columns."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 10))
    y = x[:, :1] + 0.5 * np.abs(x[:, 1:2])
    return x.astype("float32"), y.astype("float32")


def main(epochs=30):
    keras.utils.set_random_seed(7)
    step, data = make_step(), make_data()
    history = pg.fit(step, data, epochs=epochs)
    y_pred = pg.predict(step, data)
    print(f"mean squared error of the predictions: {np.mean((data[1] - y_pred) ** 2):.4f}")
    return history


if __name__ == "__main__":
    main()
