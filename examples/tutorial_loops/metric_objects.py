"""Metrics: precision, recall, F1 and mean absolute error, per epoch and every ten steps.

The tutorial's loop calls `metric.reset_states()`, which Keras 3 no longer has. A loop that forgets
to reset reports an average over all epochs so far; one that resets at each report and forgets the
last few batches drops them; one that prints `loss` every ten steps reports one batch in ten.

Here the Step holds metric objects (in a list, if there are many) and updates them. They are reset
at each epoch, read once at its end and logged under their names; one that was never updated is
absent instead of 0.0. With a run directory, `record_every` writes the exact means of each window of
steps, each step in exactly one window, and the metrics over the epoch so far, as `running/f1`; a
`Hook` gets them too. Steps run in blocks, which end where a window does; after each block a hook
may `read()` the values of the epoch so far, metrics included.
"""

import tempfile

import keras
import numpy as np
from keras import ops

import perigee as pg

EVERY = pg.Every(steps=10)


class Detector(pg.Step):
    """Classify into two classes, with four metrics."""

    def __init__(self, model):
        self.model = model
        self.optimizer = keras.optimizers.SGD(0.2)
        self.loss = keras.losses.BinaryCrossentropy()
        self.metrics = [
            keras.metrics.Precision(name="precision"),
            keras.metrics.Recall(name="recall"),
            keras.metrics.F1Score(average="micro", threshold=0.5, name="f1"),
            keras.metrics.MeanAbsoluteError(name="error"),
        ]

    def train_step(self, batch):
        x, y = batch

        def objective():
            y_pred = self.model(x, training=True)
            return self.loss(y, y_pred), y_pred

        loss, y_pred = self.minimize(objective, self.optimizer, self.model)
        for metric in self.metrics:
            metric.update_state(y, y_pred)
        return {"loss": loss, "positives": ops.mean(y)}


class SoFar(pg.Hook):
    """Collect the values of the epoch so far, every few steps; blocks must end there."""

    def __init__(self, every):
        self.every, self.seen = every, []

    def on_steps(self, event):
        if self.every.is_due(event.clock):
            self.seen.append((event.clock.step, dict(event.read())))


class Windows(pg.Hook):
    """Collect the means of each window of steps that is recorded."""

    def __init__(self):
        self.seen = []

    def on_record(self, event):
        if event.scope == "steps":
            self.seen.append((event.clock.step, dict(event.values)))


def make_step():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu"),
            keras.layers.Dense(1, activation="sigmoid"),
        ]
    )
    return Detector(model)


def make_data(rows=670):
    """Return inputs `(rows, 4)` and labels 0 or 1 as `(rows, 1)`, one in three positive."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 4)).astype("float32")
    score = x[:, :1] + x[:, 1:2] * x[:, 2:3]
    return x, (score > np.quantile(score, 2 / 3)).astype("float32")


def main(epochs=10, directory=None):
    """Train, and return the history, the values of epochs so far and those of windows."""
    keras.utils.set_random_seed(7)
    so_far, windows = SoFar(EVERY), Windows()
    with tempfile.TemporaryDirectory() as temporary:
        history = pg.fit(
            make_step(),
            make_data(),
            epochs=epochs,
            run=pg.Run(directory or f"{temporary}/run", record_every=EVERY),
            callbacks=[so_far, windows],
        )
    for step, values in so_far.seen[-2:]:
        print(f"epoch so far at step {step}: f1 {values['f1']:.3f}, error {values['error']:.3f}")
    for step, values in windows.seen[-2:]:
        print(f"{EVERY.steps} steps before step {step}: loss {values['loss']:.3f}")
    return history, so_far.seen, windows.seen


if __name__ == "__main__":
    main()
