"""Programs of many kinds, each restored into a new Step: it evaluates to what was logged."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import perigee as pg

ROWS, BATCH, FEATURES, WORDS, CLASSES = 32, 16, 6, 50, 3

draw = np.random.default_rng(0)
x = draw.normal(size=(ROWS, FEATURES)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
REAL = x, y
NAMED = {"p": x, "q": 2 * x}, y
TEXT = draw.integers(0, WORDS, (ROWS, 7)), draw.integers(0, CLASSES, ROWS)
BATCHES = [(x[:BATCH], y[:BATCH]), (x[BATCH:], y[BATCH:])]


def model_of(*parts):
    return keras.Sequential(list(parts))


def supervised(*parts, optimizer=keras.optimizers.Adam, loss="mse", kind=pg.Supervised, **options):
    return kind(model_of(*parts), optimizer(**options), loss)


def classifier(recurrent):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    parts = [layers.Embedding(WORDS, 4), recurrent, layers.Dropout(0.3), layers.Dense(CLASSES)]
    return supervised(*parts, optimizer=keras.optimizers.RMSprop, loss=loss)


def adapted():
    layer = layers.Normalization()
    layer.adapt(x)
    return supervised(layer, layers.Dense(1))


class TwoInputs(keras.Model):
    def __init__(self):
        super().__init__()
        self.first, self.last = layers.Dense(4), layers.Dense(1)

    def call(self, inputs):
        return self.last(self.first(inputs["p"]) + self.first(inputs["q"]))


def compiled():
    model = TwoInputs()
    model.compile("adam", "mse", metrics=["mae"])
    return pg.KerasStep(model)


class OwnAverage(pg.Step):
    """Measures a second model, which follows the first."""

    def __init__(self):
        self.model = model_of(keras.Input((FEATURES,)), layers.Dense(1))
        self.average = pg.copy_of(self.model)
        self.average.trainable = False
        self.optimizer = keras.optimizers.Adam(0.01)

    def errors(self, model, batch):
        return ops.mean(ops.square(model(batch[0]) - batch[1]), axis=-1)

    def train_step(self, batch):
        objective = lambda: self.errors(self.model, batch)  # noqa: E731
        loss = self.minimize(objective, self.optimizer, self.model)
        self.blend(self.model, self.average, 0.1)
        return {"loss": loss}

    def test_step(self, batch):
        return {"loss": self.errors(self.average, batch)}


class Drawing(pg.Supervised):
    """Draws masks while it is measured."""

    def test_step(self, batch):
        predicted = self.model(batch[0], training=True)
        return {"loss": ops.mean(ops.square(predicted - batch[1]), axis=-1)}


class Adversarial(pg.Step):
    def __init__(self):
        self.maker = model_of(layers.Dense(FEATURES))
        self.judge = model_of(layers.Dense(8, "relu"), layers.Dense(1))
        self.of_maker, self.of_judge = keras.optimizers.Adam(), keras.optimizers.Adam()
        self.seed = keras.random.SeedGenerator(3)

    def made(self, batch):
        return self.maker(keras.random.normal((ops.shape(batch[0])[0], 2), seed=self.seed))

    def train_step(self, batch):
        def judged():
            wrong = ops.softplus(self.judge(self.made(batch)))
            return ops.mean(wrong + ops.softplus(-self.judge(batch[0])), axis=-1)

        def made():
            return ops.mean(ops.softplus(-self.judge(self.made(batch))), axis=-1)

        loss = self.minimize(judged, self.of_judge, self.judge)
        return {"loss": loss, "made": self.minimize(made, self.of_maker, self.maker)}

    def test_step(self, batch):
        return {"loss": ops.mean(ops.square(self.made(batch) - batch[0]), axis=-1)}


PROGRAMS = {
    "half precision": (
        lambda: supervised(
            layers.Dense(8, dtype="mixed_float16"), layers.Dense(1, dtype="float32")
        ),
        REAL,
        {},
    ),
    "accumulated": (lambda: supervised(layers.Dense(1)), REAL, {"accumulate": 2}),
    "accumulated, built": (
        lambda: supervised(keras.Input((FEATURES,)), layers.Dense(1)),
        REAL,
        {"accumulate": 2},
    ),
    "ids": (lambda: classifier(layers.LSTM(5)), TEXT, {}),
    "both ways": (lambda: classifier(layers.Bidirectional(layers.GRU(5))), TEXT, {}),
    "an image": (
        lambda: supervised(
            layers.Reshape((3, 2, 1)),
            layers.RandomFlip(),
            layers.Conv2D(4, 2),
            layers.BatchNormalization(),
            layers.Flatten(),
            layers.Dense(1),
        ),
        REAL,
        {},
    ),
    "adapted": (adapted, REAL, {}),
    "a state between batches": (
        lambda: supervised(
            layers.Reshape((FEATURES, 1)), layers.LSTM(3, stateful=True), layers.Dense(1)
        ),
        REAL,
        {},
    ),
    "named inputs": (lambda: pg.Supervised(TwoInputs(), keras.optimizers.Adam(), "mse"), NAMED, {}),
    "a compiled model": (compiled, NAMED, {}),
    "its own average": (OwnAverage, REAL, {}),
    "averages of the optimizer": (
        lambda: supervised(layers.Dense(1), use_ema=True, ema_overwrite_frequency=2),
        REAL,
        {},
    ),
    "swapped averages": (
        lambda: supervised(layers.Dense(1), use_ema=True),
        REAL,
        {"callbacks": lambda: [keras.callbacks.SwapEMAWeights()]},
    ),
    "drawn while measured": (
        lambda: supervised(layers.Dense(8), layers.Dropout(0.5), layers.Dense(1), kind=Drawing),
        REAL,
        {},
    ),
    "adversarial": (Adversarial, REAL, {}),
    "a list of batches": (lambda: supervised(layers.Dense(1)), BATCHES, {}),
}


@pytest.mark.spread(5)
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_new_step_evaluates_to_what_was_logged(tmp_path, name):
    make, data, more = PROGRAMS[name]
    sizes = {} if isinstance(data, list) else {"batch_size": BATCH}
    callbacks = more.get("callbacks", list)()
    more = {name: value for name, value in more.items() if name != "callbacks"}
    run = pg.Run(tmp_path / "run", best="val_loss")
    keras.utils.set_random_seed(1)
    history = pg.fit(
        make(),
        data,
        validation=data,
        epochs=2,
        run=run,
        callbacks=callbacks,
        progress="off",
        execution="eager",
        **sizes,
        **more,
    )

    keras.utils.set_random_seed(77)
    step = make()
    pg.Run(tmp_path / "run").restore(step, "best")

    assert pg.evaluate(step, data, execution="eager", **sizes)["loss"] == history.best.value
