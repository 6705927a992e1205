"""The plain step: forward pass, loss, gradients, update.

The hand-written loop opens a `tf.GradientTape`, drops the gradients that are `None`, passes the
rest to the optimizer, wraps it all in `tf.function` and averages the loss itself. On today's Keras
3:

- dropping `None` hides a part of the model that learns nothing, and builds the optimizer on the
  wrong set of variables, so that a later full update fails;
- under `mixed_float16` you must scale the loss, or small gradients vanish silently;
- the function is retraced for the optimizer's first update and for a short last batch;
- `Mean().update_state(loss)` counts a last batch of 4 like one of 32, and printing `loss` after the
  epoch shows its last batch.

Here `minimize` differentiates, checks that every variable is reached, scales if necessary, and
updates. The step is compiled once for batches of any size, and the epoch's loss is the mean over
its examples.
"""

import keras
import numpy as np

import perigee as pg


class PlainStep(pg.Step):
    """Classify, and nothing else."""

    def __init__(self, model):
        self.model = model
        self.optimizer = keras.optimizers.SGD(0.1)
        self.loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def train_step(self, batch):
        x, y = batch

        def objective():
            return self.loss(y, self.model(x, training=True))

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def make_step():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(16, activation="relu"),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(3),
        ]
    )
    return PlainStep(model)


def make_data(rows=260):
    """Return points around three centers, `(rows, 6)`, and which center it was."""
    random = np.random.default_rng(0)
    labels = random.integers(3, size=rows).astype("int32")
    centers = random.normal(size=(3, 6))
    points = centers[labels] + random.normal(size=(rows, 6))
    return points.astype("float32"), labels


def main(epochs=5):
    keras.utils.set_random_seed(7)
    return pg.fit(make_step(), make_data(), epochs=epochs)


if __name__ == "__main__":
    main()
