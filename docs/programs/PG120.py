import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])


# Wrong
def error(y, y_pred):
    return ops.mean(ops.square(y - ops.clip(y_pred, 50.0, 60.0)), axis=-1)


print(pg.check(pg.Supervised(model, "adam", error), (x, y)))


# Right
def error(y, y_pred):
    return ops.mean(ops.square(y - y_pred), axis=-1)


print(pg.check(pg.Supervised(model, "adam", error), (x, y)))
