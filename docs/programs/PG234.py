import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])


# Wrong
class LargestBatch(keras.metrics.MeanAbsoluteError):
    def reset_state(self):
        pass


model.compile("adam", "mse", metrics=[LargestBatch()])
print(pg.check(model, (x, y)))

# Right
model.compile("adam", "mse", metrics=[keras.metrics.MeanAbsoluteError()])
print(pg.check(model, (x, y)))
