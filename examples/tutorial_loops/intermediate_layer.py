"""A loss on an intermediate layer.

The step calls a model with two outputs, the features of a hidden layer and the logits, and adds to
the usual loss the distance of the features from the center of their class, which is learned too
(Wen et al., 2016). In a hand-written loop the features are often taken from a second model called
outside the tape, where they are constants: their term is in the loss and moves nothing, and Dropout
draws another mask for them. The centers are one more list to differentiate for, to save and to
restore.

Here both outputs come from one call inside the objective, and `minimize` names what it trains: the
model, and the `keras.Variable` of centers. The Step holds that variable as an attribute, so it is
found, compiled and part of the state. A term that reaches none of its variables raises (PG101).
"""

import keras
import numpy as np
from keras import ops

import perigee as pg

CLASSES, FEATURES = 3, 8


class CenterLoss(pg.Step):
    """Classify, and gather the features of each class around a learned center.

    Args:
        model: From inputs to `[features, logits]`.
        weight: The weight of the distance to the centers.
    """

    def __init__(self, model, weight=0.1):
        self.model, self.weight = model, weight
        self.centers = keras.Variable(np.zeros((CLASSES, FEATURES), "float32"), name="centers")
        self.optimizer = keras.optimizers.SGD(0.1)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def train_step(self, batch):
        x, y = batch

        def objective():
            features, logits = self.model(x, training=True)
            gaps = features - ops.take(self.centers, y, axis=0)
            distance = ops.sum(ops.square(gaps), axis=-1)
            return self.loss(y, logits) + self.weight * ops.mean(distance), distance

        loss, distance = self.minimize(objective, self.optimizer, [self.model, self.centers])
        return {"loss": loss, "distance": distance}


def make_step():
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(16, activation="relu")(inputs)
    features = keras.layers.Dense(FEATURES, name="features")(hidden)
    logits = keras.layers.Dense(CLASSES, name="logits")(keras.layers.Dropout(0.1)(features))
    return CenterLoss(keras.Model(inputs, [features, logits]))


def make_data(rows=260):
    """Return points around three centers, `(rows, 6)`, and which center it was."""
    random = np.random.default_rng(0)
    labels = random.integers(CLASSES, size=rows).astype("int32")
    centers = random.normal(size=(CLASSES, 6))
    points = centers[labels] + random.normal(size=(rows, 6))
    return points.astype("float32"), labels


def main(epochs=10):
    keras.utils.set_random_seed(7)
    return pg.fit(make_step(), make_data(), epochs=epochs)


if __name__ == "__main__":
    main()
