"""A classifier of handwritten digits: the plain case, with the ready-made Step.

What Perigee does here: everything but the model. Losses and accuracies are exact means over the
examples, even with a short last batch, and validation does not affect training.

    python examples/gallery/classifier.py               # any backend; some seconds
"""

import keras
from figures import draw_curves
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7


def make_step():
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return pg.Supervised(make_model(), keras.optimizers.Adam(2e-3), loss, ["accuracy"])


def make_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10, kernel_regularizer=keras.regularizers.L2(1e-4)),
        ]
    )


def make_data():
    """Return (images, labels) to train on, and others to validate on."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    labels = labels.astype("int32")
    return (images[:1437], labels[:1437]), (images[1437:], labels[1437:])


def main(epochs=15, directory=None):
    keras.utils.set_random_seed(SEED)
    train, valid = make_data()
    history = pg.fit(
        make_step(), train, validation=valid, epochs=epochs, batch_size=64, run=directory
    )
    draw_curves(directory, "curves", {k: history.history[k] for k in ("loss", "val_loss")})
    return history


if __name__ == "__main__":
    main(directory="runs/classifier")
