import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = ops.convert_to_numpy(ops.exp(x[:, :1]))
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])


# Wrong
def error(y, y_pred):
    return ops.mean(ops.square(ops.log(y) - ops.log(y_pred)), axis=-1)


step = pg.Supervised(model, keras.optimizers.SGD(1e-2), error)
print(pg.check(step, (x, y), level="full"))


# Right
def error(y, y_pred):
    return ops.mean(ops.square(ops.log(y) - y_pred), axis=-1)


step = pg.Supervised(model, keras.optimizers.SGD(1e-2), error)
print(pg.check(step, (x, y), level="full"))
