"""FixMatch: 40 labels, and the other digits without any.

If the network is sure of the class of a slightly moved image, that class is the label of the same
image after a stronger change; otherwise the image does not count (Sohn et al., 2020, equations 3
and 4).

What Perigee does here: a batch of any structure, exact logs of the parts of the loss, the
augmentations' random numbers as state, and a validation that does not affect them.

    python examples/gallery/fixmatch.py               # any backend; some 20 seconds
"""

import keras
import numpy as np
from figures import draw_curves
from keras import ops
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7
LABELS_EACH = 4


class FixMatch(pg.Step):
    """Train a classifier on few labels and many images.

    Args:
        model: From images `(batch, 8, 8, 1)` to logits `(batch, 10)`.
        weak: A layer that changes images a little.
        strong: One that changes them more.
        sure: How probable a class must be to count as a label.
    """

    def __init__(self, model, weak, strong, sure=0.9):
        self.model, self.weak, self.strong, self.sure = model, weak, strong, sure
        self.optimizer = keras.optimizers.Adam(2e-3)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(self, batch):
        images, labels, unlabeled = batch
        images = self.weak(images)
        guesses = ops.softmax(self.model(self.weak(unlabeled), training=False))
        counts = ops.cast(ops.max(guesses, axis=-1) >= self.sure, "float32")
        changed = self.strong(unlabeled)

        def objective():
            label_loss = cross_entropy(labels, self.model(images, training=True))
            logits = self.model(changed, training=True)
            guess_loss = counts * cross_entropy(ops.argmax(guesses, axis=-1), logits)
            return label_loss + guess_loss, (label_loss, guess_loss)

        loss, (label_loss, guess_loss) = self.minimize(objective, self.optimizer, self.model)
        return {"loss": loss, "label_loss": label_loss, "guess_loss": guess_loss, "sure": counts}

    def test_step(self, batch):
        images, labels = batch
        self.accuracy.update_state(labels, self.model(images, training=False))
        return {}


def cross_entropy(labels, logits):
    """Return one value per example, shape `(batch,)`."""
    return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)


class Shifted(keras.layers.Layer):
    """Move each image by up to one pixel, and add noise."""

    def __init__(self, noise, seed):
        super().__init__()
        self.noise, self.seed = noise, keras.random.SeedGenerator(seed)

    def call(self, images):
        count = ops.shape(images)[0]
        shifts = keras.random.randint((2, count, 1), 0, 3, seed=self.seed)
        rows, columns = ops.arange(8) + shifts[0], ops.arange(8) + shifts[1]
        padded = ops.pad(images[..., 0], ((0, 0), (1, 1), (1, 1)))
        moved = ops.take_along_axis(padded, ops.repeat(rows[:, :, None], 10, axis=2), axis=1)
        moved = ops.take_along_axis(moved, ops.repeat(columns[:, None, :], 8, axis=1), axis=2)
        noise = keras.random.normal((count, 8, 8), seed=self.seed)
        return (moved + self.noise * noise)[..., None]


def make_step():
    return FixMatch(make_model(), Shifted(0.0, seed=SEED), Shifted(0.25, seed=SEED + 1))


def make_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10),
        ]
    )


def make_data():
    """Return the training data, and (images, labels) to validate on.

    The training data is (images, labels, unlabeled), all of one length: the few labeled images are
    repeated.
    """
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    labels = labels.astype("int32")
    unlabeled, random = images[:1437], np.random.default_rng(SEED)
    few = [random.choice(np.flatnonzero(labels[:1437] == c), LABELS_EACH) for c in range(10)]
    few = np.resize(np.concatenate(few), len(unlabeled))
    random.shuffle(few)
    return (images[few], labels[few], unlabeled), (images[1437:], labels[1437:])


def main(epochs=16, directory=None):
    keras.utils.set_random_seed(SEED)
    train, valid = make_data()
    history = pg.fit(
        make_step(), train, validation=valid, epochs=epochs, batch_size=64, run=directory
    )
    names = ("val_accuracy", "sure", "guess_loss")
    draw_curves(directory, "curves", {name: history.history[name] for name in names})
    return history


if __name__ == "__main__":
    main(directory="runs/fixmatch")
