"""Mixed precision: layers that compute in float16, weights in float32.

What Perigee does here: small gradients are lost in float16, so the loss is scaled up before it is
differentiated, the gradients are scaled down, and an update that overflows is skipped while the
scale adapts. A custom step without this, like most, hardly trains.

    python examples/gallery/mixed_precision.py               # any backend; some 10 seconds
"""

import keras
from figures import draw_curves
from keras import ops
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7


class Classify(pg.Step):
    """Train a classifier, whatever dtype its layers compute in.

    Args:
        model: From images `(batch, 64)` to logits `(batch, 10)` in float32.
    """

    def __init__(self, model):
        self.model = model
        self.optimizer = keras.optimizers.SGD(0.1)

    def train_step(self, batch):
        images, labels = batch
        return {"loss": self.minimize(lambda: self.losses(images, labels), self.optimizer)}

    def test_step(self, batch):
        return {"loss": self.losses(*batch, training=False)}

    def losses(self, images, labels, training=True):
        logits = self.model(images, training=training)
        return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def make_step(policy="mixed_float16"):
    return Classify(make_model(policy))


def make_model(policy):
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu", dtype=policy),
            keras.layers.Dense(128, activation="relu", dtype=policy),
            # A softmax in float16 would overflow.
            keras.layers.Dense(10, dtype="float32"),
        ]
    )


def make_data():
    """Return (images, labels) to train on, and others to validate on."""
    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype("float32"), labels.astype("int32")
    return (images[:1437], labels[:1437]), (images[1437:], labels[1437:])


def main(epochs=10, directory=None):
    """Train in float16 and in float32, and return the history of the first."""
    train, valid = make_data()
    histories = {}
    for policy in ("mixed_float16", "float32"):
        keras.utils.set_random_seed(SEED)
        run = None if directory is None else f"{directory}/{policy}"
        histories[policy] = pg.fit(
            make_step(policy), train, validation=valid, epochs=epochs, batch_size=64, run=run
        )
    curves = {policy: history.history["loss"] for policy, history in histories.items()}
    draw_curves(directory, "curves", curves)
    return histories["mixed_float16"]


if __name__ == "__main__":
    main(directory="runs/mixed_precision")
