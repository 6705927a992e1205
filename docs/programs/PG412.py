import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
model.compile("adam", "mse")
step = pg.KerasStep(model)
pg.fit(step, (x, y), progress="off")

# Wrong
model.layers[0].trainable = False
pg.fit(step, (x, y), progress="off")

# Right
model.layers[0].trainable = False
model.compile("adam", "mse")
pg.fit(step, (x, y), progress="off")
