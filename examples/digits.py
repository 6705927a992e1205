"""Train a classifier of handwritten digits whose two views of an image must agree.

Noise and Dropout make two forward passes over one image differ. The loss rewards the right label in
both and little divergence between them (R-Drop: Liang et al., 2021, eq. 4). The model is called
twice for each update and the loss compares its two outputs, which a compiled model cannot express:
this is what a `pg.Step` is for. Perigee does everything around the step (epochs, exact averages,
metrics, validation, progress).

    python examples/digits.py               # a few seconds on two cores
    python examples/digits.py --run runs/digits
"""

import argparse
import sys
import time

import keras
from keras import ops
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import perigee as pg

SEED = 7
EPOCHS = 15
WANTED_ACCURACY = 0.97


class Agreement(pg.Step):
    """Classify images, and give the same answer to two noisy views of an image.

    Args:
        model: From images `(batch, 8, 8, 1)` to logits `(batch, 10)`, noisy under
            `training=True`.
        weight: The weight of the divergence between the two views, at least 0.
    """

    def __init__(self, model, weight=0.5):
        self.model, self.weight = model, weight
        self.optimizer = keras.optimizers.Adam(3e-3)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")

    def train_step(self, batch):
        images, labels = batch

        def objective():
            one = self.model(images, training=True)
            two = self.model(images, training=True)
            label_loss = (cross_entropy(labels, one) + cross_entropy(labels, two)) / 2
            disagreement = divergence(one, two)
            return label_loss + self.weight * disagreement, (one, disagreement)

        loss, (logits, disagreement) = self.minimize(objective, self.optimizer, self.model)
        self.accuracy.update_state(labels, logits)
        return {"loss": loss, "disagreement": disagreement}

    def test_step(self, batch):
        images, labels = batch
        logits = self.model(images, training=False)
        self.accuracy.update_state(labels, logits)
        return {"loss": cross_entropy(labels, logits)}


def cross_entropy(labels, logits):
    """Return one value per example, shape `(batch,)`."""
    return keras.losses.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def divergence(one, two):
    """Return the symmetric Kullback-Leibler divergence of two sets of logits, `(batch,)`."""
    difference = ops.softmax(one) - ops.softmax(two)
    return ops.sum(difference * (ops.log_softmax(one) - ops.log_softmax(two)), axis=-1) / 2


def make_model():
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.GaussianNoise(0.1),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, padding="same", activation="relu"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(10),
        ]
    )


def load_data():
    """Return (images, labels) to train on and, of other images, to validate on."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 16).astype("float32").reshape(-1, 8, 8, 1)
    split = train_test_split(
        images, labels.astype("int32"), test_size=0.2, stratify=labels, random_state=SEED
    )
    train_images, valid_images, train_labels, valid_labels = split
    return (train_images, train_labels), (valid_images, valid_labels)


def main(arguments=None):
    """Train, and return the accuracy on images that training has not seen."""
    parser = argparse.ArgumentParser(description="Train a classifier of handwritten digits.")
    parser.add_argument("--run", metavar="DIR", help="keep run.json and metrics.jsonl here")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args(arguments)

    keras.utils.set_random_seed(SEED)
    train, valid = load_data()
    began = time.perf_counter()
    history = pg.fit(
        Agreement(make_model()),
        train,
        validation=valid,
        epochs=options.epochs,
        batch_size=64,
        run=options.run,
    )
    accuracy = history.history["val_accuracy"][-1]
    print(
        f"{accuracy:.4f} of {len(valid[1])} unseen images are classified correctly, "
        f"after {time.perf_counter() - began:.1f} s of training."
    )
    return accuracy


def complaint(accuracy):
    """Return what is wrong with an accuracy; `None` if it is high enough."""
    if accuracy >= WANTED_ACCURACY:
        return None
    return f"A validation accuracy of {WANTED_ACCURACY} was expected, and {accuracy:.4f} reached."


if __name__ == "__main__":
    sys.exit(complaint(main()))
