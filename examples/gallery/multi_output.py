"""Two outputs of one network: which digit it is, and where its ink is.

What Perigee does here: matching losses, weights and metrics with the outputs by name, and a log of
each loss and of their weighted sum, all exact means over the examples.

    python examples/gallery/multi_output.py               # any backend; some seconds
"""

import keras
import numpy as np
from figures import draw_curves
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7


def make_step():
    return pg.Supervised(
        make_model(),
        keras.optimizers.Adam(2e-3),
        {"digit": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "center": "mse"},
        {"digit": "accuracy"},
        loss_weights={"digit": 1.0, "center": 10.0},
    )


def make_model():
    images = keras.Input((8, 8, 1))
    hidden = keras.layers.Conv2D(16, 3, padding="same", activation="relu")(images)
    hidden = keras.layers.Flatten()(keras.layers.MaxPooling2D()(hidden))
    hidden = keras.layers.Dense(64, activation="relu")(hidden)
    outputs = {
        "digit": keras.layers.Dense(10, name="digit")(hidden),
        "center": keras.layers.Dense(2, name="center")(hidden),
    }
    return keras.Model(images, outputs)


def make_data():
    """Return (images, labels) to train on, and others to validate on.

    The labels are `digit`, `(n,)`, and `center`, `(n, 2)`: the mean place of the ink, in [-1, 1].
    """
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8)
    places = np.linspace(-1, 1, 8, dtype="float32")
    ink = images.sum(axis=(1, 2))
    center = np.stack([images.sum(axis=2) @ places / ink, images.sum(axis=1) @ places / ink], 1)
    part = lambda rows: (  # noqa: E731
        images[rows, :, :, None],
        {"digit": labels[rows].astype("int32"), "center": center[rows]},
    )
    return part(slice(None, 1437)), part(slice(1437, None))


def main(epochs=15, directory=None):
    keras.utils.set_random_seed(SEED)
    train, valid = make_data()
    history = pg.fit(
        make_step(), train, validation=valid, epochs=epochs, batch_size=64, run=directory
    )
    names = ("loss", "digit_loss", "center_loss")
    draw_curves(directory, "curves", {name: history.history[name] for name in names})
    return history


if __name__ == "__main__":
    main(directory="runs/multi_output")
