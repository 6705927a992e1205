"""Variables that no gradient reaches, and the error that names them.

The hand-written loop gets `None` for them, and the usual advice is to filter those pairs out. Then
nothing reports that a part of the model does not learn, and the optimizer is built without it: the
day the missing part is connected, the optimizer fails with an unknown variable. An assertion that
`g is None` is false compares Python objects while the function is traced; it never becomes a part
of the graph.

Here a variable without a gradient raises PG101 at the first batch, before anything is changed, with
the path of each variable. To update only a part on purpose, pass `variables=`.
"""

import keras
import numpy as np

import perigee as pg


class ForgottenHead(pg.Step):
    """The model has a second output that the loss does not use."""

    def __init__(self, model):
        self.model = model
        self.optimizer = keras.optimizers.SGD(0.1)
        self.loss = keras.losses.MeanSquaredError()

    def train_step(self, batch):
        x, y, _ = batch

        def objective():
            first, _ = self.model(x, training=True)
            return self.loss(y, first)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


class OneHeadOnPurpose(ForgottenHead):
    """The same, said explicitly: the second head is not trained in this phase."""

    def train_step(self, batch):
        x, y, _ = batch

        def objective():
            first, _ = self.model(x, training=True)
            return self.loss(y, first)

        trained = [self.model.get_layer("hidden"), self.model.get_layer("first")]
        return {"loss": self.minimize(objective, self.optimizer, trained)}


class BothHeads(ForgottenHead):
    """The fix: the loss depends on both outputs."""

    def train_step(self, batch):
        x, y, z = batch

        def objective():
            first, second = self.model(x, training=True)
            return self.loss(y, first) + self.loss(z, second)

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


def make_model():
    inputs = keras.Input((5,))
    hidden = keras.layers.Dense(16, activation="tanh", name="hidden")(inputs)
    outputs = [keras.layers.Dense(1, name=name)(hidden) for name in ("first", "second")]
    return keras.Model(inputs, outputs, name="two_heads")


def make_step():
    return BothHeads(make_model())


def make_data(rows=200):
    """Return inputs `(rows, 5)` and two targets `(rows, 1)`."""
    x = np.random.default_rng(0).normal(size=(rows, 5)).astype("float32")
    return x, np.sin(x[:, :1]), np.abs(x[:, 1:2])


def main(epochs=20):
    """Show the error, then train; return the error and the history."""
    keras.utils.set_random_seed(7)
    refused = None
    try:
        pg.fit(ForgottenHead(make_model()), make_data(), progress="off")
    except pg.PerigeeError as error:
        refused = error
        print(error, end="\n\n")
    return refused, pg.fit(make_step(), make_data(), epochs=epochs)


if __name__ == "__main__":
    main()
