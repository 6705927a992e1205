"""Assertions and TensorBoard summaries inside the step (TensorFlow only).

In a hand-written loop a summary inside the traced function needs a step number that is a tensor: a
Python number is built in as a constant, so all values land on one step, or retraces the function at
each value. The counter is one more variable to save, and the writer must be flushed, also when
training ends with an error. Under `jit_compile=True` assertions vanish silently.

Here the counter is a `keras.Variable` of the Step, so it is part of its state. The rehearsal writes
no summaries. A failing assertion ends the training with TensorFlow's own error, with a note that
names the step, epoch and batch, and the hook closes the file in any case.

TensorFlow does not run an assertion before the updates of its step. What must wait for the
assertion has to be computed from its result, like `x` below.
"""

import tempfile

import keras
import numpy as np
import tensorflow as tf

import perigee as pg

CLASSES = 3


class Watched(pg.Step):
    """Classify, reject bad batches, and write a summary every few steps.

    Args:
        model: From inputs to logits `(batch, 3)`.
        writer: A `tf.summary` writer.
        every_steps: Steps between two summaries.
    """

    def __init__(self, model, writer, every_steps=5):
        self.model, self.writer, self.every_steps = model, writer, every_steps
        self.optimizer = keras.optimizers.SGD(0.1)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        self.counter = keras.Variable(0, dtype="int64", trainable=False, name="counter")

    def train_step(self, batch):
        x, y = batch
        tf.debugging.assert_rank(y, 1, "labels are class numbers")
        tf.debugging.assert_less(y, CLASSES, "a label is not among the classes")
        x = tf.debugging.assert_all_finite(x, "an input is NaN or infinite")

        def objective():
            return self.loss(y, self.model(x, training=True))

        loss = self.minimize(objective, self.optimizer, self.model)
        self.counter.assign_add(1)
        step = tf.convert_to_tensor(self.counter)
        is_due = tf.equal(step % self.every_steps, 0)
        with self.writer.as_default(step), tf.summary.record_if(is_due):
            tf.summary.scalar("loss", loss)
        return {"loss": loss}


class Closing(pg.Hook):
    """Close the writer when training ends, however it ends."""

    def __init__(self, writer):
        self.writer = writer

    def on_end(self, event):
        self.writer.close()


def make_step(directory):
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(16, activation="relu"), keras.layers.Dense(CLASSES)]
    )
    return Watched(model, tf.summary.create_file_writer(str(directory)))


def make_data(rows=260):
    """Return points around three centers, `(rows, 6)`, and which center it was."""
    random = np.random.default_rng(0)
    labels = random.integers(CLASSES, size=rows).astype("int32")
    centers = random.normal(size=(CLASSES, 6))
    points = centers[labels] + random.normal(size=(rows, 6))
    return points.astype("float32"), labels


def main(epochs=3, directory=None):
    """Train with summaries in `directory`, or in a temporary one."""
    if keras.backend.backend() != "tensorflow":
        print("This step asserts with TensorFlow itself: run it with KERAS_BACKEND=tensorflow.")
        return None
    keras.utils.set_random_seed(7)
    with tempfile.TemporaryDirectory() as temporary:
        step = make_step(directory or temporary)
        return pg.fit(step, make_data(), epochs=epochs, callbacks=[Closing(step.writer)])


if __name__ == "__main__":
    main()
