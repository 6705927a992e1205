"""An exponential moving average of the weights, and validation with the averaged network.

The learning rate is large, so the weights jump around; their average does not (Polyak and Juditsky,
1992). Both networks are evaluated in the same validation.

What Perigee does here: a copy that begins with the same weights and statistics
(`keras.models.clone_model` draws new ones), and that is saved and resumed with the rest.

    python examples/gallery/ema.py               # any backend; some seconds
"""

import keras
from figures import draw_curves
from keras import ops
from sklearn.datasets import load_digits

import perigee as pg

SEED = 7


class Averaged(pg.Step):
    """Train a classifier, and another one whose weights are its moving average.

    Args:
        model: From images to logits, `(batch, 10)`, built.
        decay: How much of the average is kept at each step.
    """

    def __init__(self, model, decay=0.99):
        self.model, self.average, self.decay = model, pg.copy_of(model), decay
        self.average.trainable = False
        self.optimizer = keras.optimizers.SGD(0.5, momentum=0.5)
        self.accuracy = keras.metrics.SparseCategoricalAccuracy(name="accuracy")
        self.average_accuracy = keras.metrics.SparseCategoricalAccuracy(name="average_accuracy")

    def train_step(self, batch):
        images, labels = batch

        def objective():
            logits = self.model(images, training=True)
            return ops.sparse_categorical_crossentropy(labels, logits, from_logits=True), logits

        loss, logits = self.minimize(objective, self.optimizer, self.model)
        self.accuracy.update_state(labels, logits)
        self.blend(self.model, self.average, 1.0 - self.decay)
        return {"loss": loss}

    def test_step(self, batch):
        images, labels = batch
        logits = self.model(images, training=False)
        average = self.average(images, training=False)
        self.accuracy.update_state(labels, logits)
        self.average_accuracy.update_state(labels, average)
        return {
            "loss": ops.sparse_categorical_crossentropy(labels, logits, from_logits=True),
            "average_loss": ops.sparse_categorical_crossentropy(labels, average, from_logits=True),
        }


def make_step():
    return Averaged(make_model())


def make_model():
    return keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(64, use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(10),
        ]
    )


def make_data():
    """Return (images, labels) to train on, and others to validate on."""
    images, labels = load_digits(return_X_y=True)
    images, labels = (images / 16).astype("float32"), labels.astype("int32")
    return (images[:1437], labels[:1437]), (images[1437:], labels[1437:])


def main(epochs=20, directory=None):
    keras.utils.set_random_seed(SEED)
    train, valid = make_data()
    history = pg.fit(
        make_step(), train, validation=valid, epochs=epochs, batch_size=32, run=directory
    )
    names = ("val_loss", "val_average_loss")
    draw_curves(directory, "curves", {name: history.history[name] for name in names})
    return history


if __name__ == "__main__":
    main(directory="runs/ema")
