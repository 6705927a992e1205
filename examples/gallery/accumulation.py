"""Gradient accumulation: batches of 64 on a machine that has room for 16.

What Perigee does here: `accumulate=4`. Each update equals that of the four micro-batches in one
piece, even if the last one of an epoch is short, and the learning rate follows updates.

    python examples/gallery/accumulation.py               # any backend; some seconds
"""

import keras
from figures import draw_curves
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7
MICRO_BATCHES = 4


def make_step():
    schedule = keras.optimizers.schedules.CosineDecay(5e-3, decay_steps=345)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return pg.Supervised(make_model(), keras.optimizers.AdamW(schedule), loss)


def make_model():
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def make_data():
    """Return (images, labels) to train on, and others to validate on."""
    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype("float32"), labels.astype("int32")
    return (images[:1437], labels[:1437]), (images[1437:], labels[1437:])


def main(epochs=15, directory=None):
    keras.utils.set_random_seed(SEED)
    train, valid = make_data()
    history = pg.fit(
        make_step(),
        train,
        validation=valid,
        epochs=epochs,
        batch_size=64 // MICRO_BATCHES,
        accumulate=MICRO_BATCHES,
        run=directory,
    )
    draw_curves(directory, "curves", {k: history.history[k] for k in ("loss", "val_loss")})
    return history


if __name__ == "__main__":
    main(directory="runs/accumulation")
