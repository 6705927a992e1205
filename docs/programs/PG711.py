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
    return ops.mean(ops.square(y - y_pred), axis=-1) / 1e5


step = pg.Supervised(model, keras.optimizers.SGD(1e-2), error)
print(pg.check(step, (x, y), level="full"))


# Right
def error(y, y_pred):
    return ops.mean(ops.square(y - y_pred), axis=-1)


step = pg.Supervised(model, keras.optimizers.SGD(1e-2), error)
print(pg.check(step, (x, y), level="full"))
