"""A classifier that is robust to small, malicious changes of an image.

Each image is first changed, within a bound, in the direction that raises its loss most (Goodfellow
et al., 2015, section 4), by some steps (Madry et al., 2018, section 2.1); the classifier learns
from the changed ones.

What Perigee does here: gradients with respect to inputs on each backend, also within `test_step`,
and a validation that attacks the network without changing it.

    python examples/gallery/adversarial_training.py               # any backend; some 15 seconds
"""

import keras
from figures import draw_curves
from keras import ops
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7


class Robust(pg.Step):
    """Train a classifier on images that are changed to fool it.

    Args:
        model: From images `(batch, 64)` to logits `(batch, 10)`.
        bound: How far each pixel may be changed.
        attack_steps: The number of steps of the change.
    """

    def __init__(self, model, bound=0.1, attack_steps=3):
        self.model, self.bound, self.attack_steps = model, bound, attack_steps
        self.optimizer = keras.optimizers.Adam(2e-3)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self.attacked_accuracy = keras.metrics.SparseCategoricalAccuracy(name="attacked_accuracy")

    def train_step(self, batch):
        images, labels = batch
        attacked = self.attacked(images, labels)

        def objective():
            logits = self.model(attacked, training=True)
            return cross_entropy(labels, logits), logits

        loss, logits = self.minimize(objective, self.optimizer, self.model)
        self.attacked_accuracy.update_state(labels, logits)
        return {"loss": loss}

    def test_step(self, batch):
        images, labels = batch
        self.accuracy.update_state(labels, self.model(images, training=False))
        logits = self.model(self.attacked(images, labels), training=False)
        self.attacked_accuracy.update_state(labels, logits)
        return {"loss": cross_entropy(labels, logits)}

    def attacked(self, images, labels):
        change = ops.zeros_like(images)
        for _ in range(self.attack_steps):
            slope = self.gradients(
                lambda x: ops.sum(cross_entropy(labels, self.model(x, training=False))),
                images + change,
            )
            change = change + 2 * self.bound / self.attack_steps * ops.sign(slope)
            change = ops.clip(change, -self.bound, self.bound)
        return images + change


def cross_entropy(labels, logits):
    """Return one value per example, shape `(batch,)`."""
    return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True)


def make_step():
    return Robust(make_model())


def make_model():
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(128, activation="relu"),
            keras.layers.Dense(10),
        ]
    )


def make_data():
    """Return (images, labels) to train on, and others to validate on."""
    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype("float32"), labels.astype("int32")
    return (images[:1437], labels[:1437]), (images[1437:], labels[1437:])


def main(epochs=12, directory=None):
    keras.utils.set_random_seed(SEED)
    train, valid = make_data()
    history = pg.fit(
        make_step(), train, validation=valid, epochs=epochs, batch_size=64, run=directory
    )
    names = ("val_accuracy", "val_attacked_accuracy")
    draw_curves(directory, "curves", {name: history.history[name] for name in names})
    return history


if __name__ == "__main__":
    main(directory="runs/adversarial_training")
