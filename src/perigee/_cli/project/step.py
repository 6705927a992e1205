"""The step: what is computed for each batch."""

import keras
from keras import ops

import perigee as pg


class Classifier(pg.Step):
    """Classify points in the plane, with label smoothing.

    Args:
        model: Maps points `(batch, 2)` to logits `(batch, classes)`.
        learning_rate: The learning rate of Adam.
        smoothing: The share of each label spread over all classes, from 0 to 1.
    """

    def __init__(self, model, learning_rate=3e-3, smoothing=0.05):
        self.model, self.smoothing = model, smoothing
        self.optimizer = keras.optimizers.Adam(learning_rate)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def loss(self, labels, logits):
        """Return one value per example, shape `(batch,)`."""
        classes = logits.shape[-1]
        wanted = ops.one_hot(labels, classes) * (1 - self.smoothing) + self.smoothing / classes
        return keras.losses.categorical_crossentropy(wanted, logits, from_logits=True)

    def train_step(self, batch):
        points, labels = batch

        def objective():
            logits = self.model(points, training=True)
            return self.loss(labels, logits), logits

        loss, logits = self.minimize(objective, self.optimizer, self.model)
        self.accuracy.update_state(labels, logits)
        return {"loss": loss}

    def test_step(self, batch):
        points, labels = batch
        logits = self.model(points, training=False)
        self.accuracy.update_state(labels, logits)
        return {"loss": self.loss(labels, logits), "plane": pg.sample(image=self.plane())}

    def predict_step(self, points):
        return ops.softmax(self.model(points, training=False))

    def plane(self):
        """Return an image of the predicted class at each point of the plane, `(48, 48)`."""
        line = ops.linspace(-1.2, 1.2, 48)
        across, down = ops.meshgrid(line, line)
        points = ops.stack([ops.reshape(across, (-1,)), ops.reshape(down, (-1,))], axis=-1)
        logits = self.model(points, training=False)
        shades = ops.cast(ops.argmax(logits, axis=-1), "float32") / (logits.shape[-1] - 1)
        return ops.reshape(shades, (48, 48))


def make_step(width=64, classes=3, learning_rate=3e-3, smoothing=0.05):
    """Return the step with a new model."""
    model = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dense(width, activation="relu"),
            keras.layers.Dense(classes),
        ]
    )
    return Classifier(model, learning_rate, smoothing)
