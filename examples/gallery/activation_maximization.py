"""Activation maximization: which image a classifier finds most like each digit.

The classifier stays as it is; the pixels are what is trained (Simonyan et al., 2014, section 2),
with a penalty that keeps neighbors alike.

What Perigee does here: the pixels are a variable of the Step like any other, so one `minimize`
updates them, and the frozen classifier is only called.

    python examples/gallery/activation_maximization.py               # any backend; some 10 seconds
"""

import keras
import numpy as np
from figures import draw_images
from keras import ops
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7


class Maximize(pg.Step):
    """Find an image for each class.

    Args:
        model: From images `(batch, 8, 8, 1)` to logits `(batch, 10)`; it is not trained.
        roughness_weight: The weight of differences between neighboring pixels.
    """

    def __init__(self, model, roughness_weight=0.05):
        self.model, self.roughness_weight = model, roughness_weight
        self.optimizer = keras.optimizers.Adam(0.05)
        self.pixels = keras.Variable(np.zeros((10, 8, 8, 1)), dtype="float32", name="pixels")

    def train_step(self, classes):
        def objective():
            images = ops.sigmoid(self.pixels)
            logits = self.model(images, training=False)
            losses = ops.sparse_categorical_crossentropy(classes, logits, from_logits=True)
            across = ops.square(images[:, 1:] - images[:, :-1])
            along = ops.square(images[:, :, 1:] - images[:, :, :-1])
            roughness = ops.sum(across, axis=(1, 2, 3)) + ops.sum(along, axis=(1, 2, 3))
            return losses + self.roughness_weight * roughness, ops.softmax(logits)

        loss, found = self.minimize(objective, self.optimizer, [self.pixels])
        return {"loss": loss, "probability": ops.max(found * ops.eye(10), axis=-1)}

    def images(self):
        return ops.convert_to_numpy(ops.sigmoid(self.pixels))


def make_step():
    return Maximize(make_model())


def make_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10),
        ]
    )


def make_data():
    """Return images, and their labels, to train the classifier on."""
    images, labels = load_digits(return_X_y=True)
    return (images / 16).astype("float32").reshape(-1, 8, 8, 1), labels.astype("int32")


def main(epochs=10, directory=None):
    """Train a classifier, then an image for each class, in `epochs` of 50 steps."""
    keras.utils.set_random_seed(SEED)
    step = make_step()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    classify = pg.Supervised(step.model, keras.optimizers.Adam(2e-3), loss)
    pg.fit(classify, make_data(), epochs=10, batch_size=64, progress="off")

    step.model.trainable = False
    classes = np.tile(np.arange(10, dtype="int32"), 50)
    history = pg.fit(step, classes, epochs=epochs, batch_size=10, shuffle=False, run=directory)
    draw_images(directory, "images", step.images())
    return history


if __name__ == "__main__":
    main(directory="runs/activation_maximization")
