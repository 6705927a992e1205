"""A training step that opens `tf.GradientTape` itself, unchanged (TensorFlow only).

The body of a hand-written `train_step(x, y)` can be moved into a Step unchanged. It still gets
everything around it: the rehearsal that builds the model and the optimizer without side effects,
one compiled function for batches of all sizes, exact means over examples, metrics that are reset,
validation, histories and run directories.

What Perigee cannot see through a raw tape, it cannot check or do: gradients that are `None`,
variables that no optimizer updates, penalties in `model.losses` (add them yourself), the loss scale
of float16. Micro-batches (`accumulate`) are rejected (PG209). `minimize` does these things, on
every backend.
"""

import keras
import numpy as np
import tensorflow as tf

import perigee as pg


class RawTape(pg.Step):
    """A hand-written step body; Perigee does the rest of the loop."""

    def __init__(self, model):
        self.model = model
        self.optimizer = keras.optimizers.Adam(1e-2)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(self, batch):
        x, y = batch
        with tf.GradientTape() as tape:
            logits = self.model(x, training=True)
            loss = self.loss(y, logits) + tf.add_n(self.model.losses)
        gradients = tape.gradient(loss, self.model.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.model.trainable_variables, strict=True))
        self.accuracy.update_state(y, logits)
        return {"loss": loss}


def make_step():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, activation="relu", kernel_regularizer="l2"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(3),
        ]
    )
    return RawTape(model)


def make_data(rows=260):
    """Return points around three centers, `(rows, 6)`, and which center it was."""
    random = np.random.default_rng(0)
    labels = random.integers(3, size=rows).astype("int32")
    centers = random.normal(size=(3, 6))
    points = centers[labels] + random.normal(size=(rows, 6))
    return points.astype("float32"), labels


def main(epochs=10):
    if keras.backend.backend() != "tensorflow":
        print("This step opens a tf.GradientTape of its own: run it with KERAS_BACKEND=tensorflow.")
        return None
    keras.utils.set_random_seed(7)
    return pg.fit(make_step(), make_data(), epochs=epochs)


if __name__ == "__main__":
    main()
