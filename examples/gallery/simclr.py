"""SimCLR: features of digits learned without labels.

Two random views of an image should be close together, and far from all other images of the batch
(Chen et al., 2020, equation 1). A nearest-center classifier, which gets ten labels of each class,
measures the features.

What Perigee does here: only the loop around the step. The loss couples the examples of a batch, so
the batch size is part of the algorithm, and `accumulate` would change it.

    python examples/gallery/simclr.py               # any backend; some 20 seconds
"""

import keras
import numpy as np
from figures import draw_curves
from keras import ops
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7


class SimCLR(pg.Step):
    """Train an encoder to recognize two views of one image.

    Args:
        encoder: From images `(batch, 8, 8, 1)` to features, `(batch, num_features)`.
        head: From features to the compared vectors, `(batch, size)`; thrown away afterwards.
        view: A layer that changes images at random.
        temperature: Divides similarities.
    """

    def __init__(self, encoder, head, view, temperature=0.2):
        self.encoder, self.head, self.view = encoder, head, view
        self.temperature = temperature
        self.optimizer = keras.optimizers.Adam(2e-3)
        self.recognized = keras.metrics.SparseCategoricalAccuracy(name="recognized")

    def train_step(self, images):
        one, two = self.view(images), self.view(images)
        count = ops.shape(images)[0]
        partners = (ops.arange(2 * count) + count) % (2 * count)

        def objective():
            views = ops.concatenate([one, two], axis=0)
            compared = self.head(self.encoder(views, training=True), training=True)
            compared = ops.normalize(compared, axis=-1)
            similarities = compared @ ops.transpose(compared) / self.temperature
            similarities = similarities - 1e9 * ops.eye(2 * count)
            losses = ops.sparse_categorical_crossentropy(partners, similarities, from_logits=True)
            return (losses[:count] + losses[count:]) / 2, similarities

        loss, similarities = self.minimize(objective, self.optimizer, [self.encoder, self.head])
        self.recognized.update_state(partners, similarities)
        return {"loss": loss}

    def predict_step(self, images):
        return self.encoder(images, training=False)


class View(keras.layers.Layer):
    """Move each image by up to one pixel, change its contrast, and add noise."""

    def __init__(self, seed):
        super().__init__()
        self.seed = keras.random.SeedGenerator(seed)

    def call(self, images):
        count = ops.shape(images)[0]
        shifts = keras.random.randint((2, count, 1), 0, 3, seed=self.seed)
        rows, columns = ops.arange(8) + shifts[0], ops.arange(8) + shifts[1]
        padded = ops.pad(images[..., 0], ((0, 0), (1, 1), (1, 1)))
        moved = ops.take_along_axis(padded, ops.repeat(rows[:, :, None], 10, axis=2), axis=1)
        moved = ops.take_along_axis(moved, ops.repeat(columns[:, None, :], 8, axis=1), axis=2)
        contrast = keras.random.uniform((count, 1, 1), 0.5, 1.5, seed=self.seed)
        noise = keras.random.normal((count, 8, 8), stddev=0.1, seed=self.seed)
        return (contrast * moved + noise)[..., None]


def make_step():
    return SimCLR(*make_models(), View(SEED))


def make_models():
    encoder = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(64, activation="relu"),
        ],
        name="encoder",
    )
    head = keras.Sequential([keras.Input((64,)), keras.layers.Dense(32)], name="head")
    return encoder, head


def make_data():
    """Return images, and their labels, which only the measure of the features uses."""
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype("float32").reshape(-1, 8, 8, 1), labels


def measure_features(features, labels, labels_each=10):
    """Return how many lie nearest to the center of their own class, given some of each."""
    features = features / np.linalg.norm(features, axis=-1, keepdims=True)
    given = [np.flatnonzero(labels == c)[:labels_each] for c in range(10)]
    centers = np.stack([features[rows].mean(axis=0) for rows in given])
    others = np.setdiff1d(np.arange(len(labels)), np.concatenate(given))
    return float(np.mean(np.argmax(features[others] @ centers.T, axis=1) == labels[others]))


def main(epochs=25, directory=None):
    """Train, and print how good the features are before and after."""
    keras.utils.set_random_seed(SEED)
    images, labels = make_data()
    step = make_step()
    before = measure_features(pg.predict(step, images), labels)
    history = pg.fit(step, images, epochs=epochs, batch_size=128, run=directory)
    after = measure_features(pg.predict(step, images), labels)
    print(f"With ten labels of each class, {before:.4f} were right before, {after:.4f} are now.")
    draw_curves(directory, "curves", {"recognized": history.history["recognized"]})
    return history


if __name__ == "__main__":
    main(directory="runs/simclr")
