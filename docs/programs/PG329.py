import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
model.compile("adam", "mse")
noise = np.random.default_rng(1)


# Wrong
def validation():
    yield x[:16] + noise.normal(size=(16, 5)).astype("float32"), y[:16]


print(pg.check(model, (x[16:], y[16:]), validation=validation))


# Right
def validation():
    yield x[:16], y[:16]


print(pg.check(model, (x[16:], y[16:]), validation=validation))
