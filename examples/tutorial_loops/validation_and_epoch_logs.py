"""Validation, and one exact line of logs per epoch.

The hand-written loop keeps two losses and two accuracies, resets all four at the start of each
epoch, runs two loops over two data sets and puts four numbers into a dict. A reset that is
forgotten shows up only as a curve that is too smooth, a `training=False` that is forgotten only as
a validation that is too bad, and both losses are wrong where the last batch is short.

Here `test_step` says how to measure. Metrics are reset for each pass, updated ones are logged under
their own names (`val_` before those of the validation), whatever a validation writes is restored,
and the losses are means over examples. `EarlyStopping` and other callbacks of Keras work on these
logs.
"""

import keras
import numpy as np

import perigee as pg


class Classifier(pg.Step):
    """Classify, and measure on data that training does not see."""

    def __init__(self, model):
        self.model = model
        self.optimizer = keras.optimizers.Adam(1e-2)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(self, batch):
        x, y = batch

        def objective():
            logits = self.model(x, training=True)
            return self.loss(y, logits), logits

        loss, logits = self.minimize(objective, self.optimizer, self.model)
        self.accuracy.update_state(y, logits)
        return {"loss": loss}

    def test_step(self, batch):
        x, y = batch
        logits = self.model(x, training=False)
        self.accuracy.update_state(y, logits)
        return {"loss": self.loss(y, logits)}


def make_step():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.2),
            keras.layers.Dense(3),
        ]
    )
    return Classifier(model)


def make_data(rows=260, seed=0):
    """Return points around three centers, `(rows, 6)`, and which center it was."""
    centers = np.random.default_rng(0).normal(size=(3, 6))
    random = np.random.default_rng(seed)
    labels = random.integers(3, size=rows).astype("int32")
    points = centers[labels] + random.normal(size=(rows, 6))
    return points.astype("float32"), labels


def main(epochs=20):
    keras.utils.set_random_seed(7)
    history = pg.fit(
        make_step(),
        make_data(),
        epochs=epochs,
        validation=make_data(rows=100, seed=1),
        callbacks=[keras.callbacks.EarlyStopping("val_loss", patience=3)],
    )
    print(f"{len(history.epoch)} epochs, stopped because: {history.stop_reason}")
    return history


if __name__ == "__main__":
    main()
