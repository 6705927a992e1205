import tempfile

import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


def error(y, y_pred):
    return ops.mean(ops.square(y - y_pred), axis=-1)


def train(folder, epochs):
    model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
    step = pg.Supervised(model, keras.optimizers.Adam(1e-2), error)
    pg.fit(step, (x, y), epochs=epochs, run=f"{folder}/run", progress="off")


# Wrong
with tempfile.TemporaryDirectory() as folder:
    train(folder, epochs=1)

    def error(y, y_pred):
        return ops.mean(ops.abs(y - y_pred), axis=-1)

    train(folder, epochs=2)

# Right
with tempfile.TemporaryDirectory() as folder:
    train(folder, epochs=1)
    train(folder, epochs=2)
