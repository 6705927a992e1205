"""A loss with weight penalties.

The hand-written loop adds `tf.add_n(model.losses)`, and must not do so where the list is empty. On
today's Keras 3 the list belongs to the latest call of the model: a second call in the same step
drops what the first one added with `add_loss`. On several devices the penalties, unlike the loss
object's value, are not divided by the number of devices, so they count that many times.

Here `minimize` adds the penalties of the variables that it updates, and what layers add with
`add_loss` in each of their calls, once. An objective that adds `model.losses` as well is rejected
at the first batch (PG208) instead of being penalized twice, and `add_losses=False` omits them all.
"""

import keras
import numpy as np

import perigee as pg


class RegularizedStep(pg.Step):
    """Regression on a model whose layers have regularizers."""

    def __init__(self, model):
        self.model = model
        self.optimizer = keras.optimizers.SGD(0.05)
        self.loss = keras.losses.MeanSquaredError()

    def train_step(self, batch):
        x, y = batch

        def objective():
            data_loss = self.loss(y, self.model(x, training=True))
            return data_loss, data_loss

        total, data_loss = self.minimize(objective, self.optimizer, self.model)
        return {"loss": total, "data_loss": data_loss}


class PenalizedTwice(RegularizedStep):
    """The hand-written way, which counts the penalties twice here."""

    def train_step(self, batch):
        x, y = batch

        def objective():
            return self.loss(y, self.model(x, training=True)) + sum(self.model.losses)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def make_model():
    return keras.Sequential(
        [
            keras.Input((5,)),
            keras.layers.Dense(
                8,
                activation="tanh",
                kernel_regularizer=keras.regularizers.L2(1e-2),
                activity_regularizer=keras.regularizers.L1(1e-3),
            ),
            keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L1(1e-2)),
        ]
    )


def make_step():
    return RegularizedStep(make_model())


def make_data(rows=200):
    """Return inputs `(rows, 5)` and targets `(rows, 1)` that depend on two of the columns."""
    random = np.random.default_rng(0)
    x = random.normal(size=(rows, 5))
    y = np.sin(x[:, :1]) - 0.5 * x[:, 1:2]
    return x.astype("float32"), y.astype("float32")


def main(epochs=10):
    keras.utils.set_random_seed(7)
    try:
        pg.fit(PenalizedTwice(make_model()), make_data(), progress="off")
    except pg.PerigeeError as error:
        print(error, end="\n\n")
    return pg.fit(make_step(), make_data(), epochs=epochs)


if __name__ == "__main__":
    main()
