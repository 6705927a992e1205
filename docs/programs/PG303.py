import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
step = pg.Supervised(model, "adam", "mse")

# Wrong
batches = [(x[:32], y[:32]), (x[32:], y[32:], np.ones(32, "float32"))]
pg.fit(step, batches, progress="off")

# Right
batches = [(x[:32], y[:32]), (x[32:], y[32:])]
pg.fit(step, batches, progress="off")
