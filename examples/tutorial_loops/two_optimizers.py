"""Two optimizers: a slow one for the backbone, a fast one for the new head.

The hand-written loop takes the gradients of one loss for both groups, slices the list and filters
each slice. A group that was listed before its layers were built is empty and trains nothing; a
variable in both groups is updated twice; `trainable = False` after the first call changes nothing,
because the lists and the traced function are old. None of this is reported.

Here the groups are named by the layers themselves, looked up when the step is compiled, and the
step is recompiled when a `trainable` flag changes. One backward pass serves both optimizers. A
variable that two optimizers update raises (PG104), one that none updates is a finding (PG110), and
each optimizer logs its own learning rate.
"""

import keras
import numpy as np

import perigee as pg


class FineTuning(pg.Step):
    """Train a head quickly and the backbone below it slowly."""

    def __init__(self, backbone, head):
        self.backbone, self.head = backbone, head
        self.slow = keras.optimizers.SGD(0.01)
        self.fast = keras.optimizers.Adam(1e-2)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(self, batch):
        x, y = batch

        def objective():
            logits = self.head(self.backbone(x, training=True), training=True)
            return self.loss(y, logits), logits

        gradients = self.gradients(objective, [self.backbone, self.head])
        pairs = list(zip(gradients.values, gradients.variables, strict=True))
        split = len(self.backbone.trainable_variables)
        if split:  # a frozen backbone has none
            self.apply(self.slow, pairs[:split])
        self.apply(self.fast, pairs[split:])

        loss, logits = gradients.returned
        self.accuracy.update_state(y, logits)
        return {"loss": loss}


def make_step():
    backbone = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dense(16, activation="relu"),
        ],
        name="backbone",
    )
    head = keras.Sequential([keras.Input((16,)), keras.layers.Dense(3)], name="head")
    return FineTuning(backbone, head)


def make_data(rows=260):
    """Return points around three centers, `(rows, 6)`, and which center it was."""
    random = np.random.default_rng(0)
    labels = random.integers(3, size=rows).astype("int32")
    centers = random.normal(size=(3, 6))
    points = centers[labels] + random.normal(size=(rows, 6))
    return points.astype("float32"), labels


def main(epochs=5):
    """Train the head alone first, then both."""
    keras.utils.set_random_seed(7)
    step = make_step()
    step.backbone.trainable = False
    pg.fit(step, make_data(), epochs=epochs)
    step.backbone.trainable = True
    return pg.fit(step, make_data(), epochs=epochs)


if __name__ == "__main__":
    main()
