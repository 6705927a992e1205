import tempfile

import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
step = pg.Supervised(model, "adam", "mse")


def batches(count):
    return [(x[i : i + 8], y[i : i + 8]) for i in range(0, 8 * count, 8)]


# Wrong
with tempfile.TemporaryDirectory() as folder:
    pg.fit(step, lambda: iter(batches(8)), steps=6, run=f"{folder}/run", progress="off")
    pg.fit(step, lambda: iter(batches(4)), steps=8, run=f"{folder}/run", progress="off")

# Right
with tempfile.TemporaryDirectory() as folder:
    pg.fit(step, batches(8), steps=6, run=f"{folder}/run", progress="off")
    pg.fit(step, batches(8), steps=8, run=f"{folder}/run", progress="off")
