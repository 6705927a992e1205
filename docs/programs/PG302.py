import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
step = pg.Supervised(model, "adam", "mse")


def batches():
    for i in range(0, 64, 16):
        yield x[i : i + 16], y[i : i + 16]


# Wrong
drawn_once = batches()
pg.fit(step, lambda: drawn_once, epochs=3, progress="off")

# Right
pg.fit(step, batches, epochs=3, progress="off")
