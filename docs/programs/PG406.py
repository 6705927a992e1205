import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
body, head = kl.Dense(8, "relu"), kl.Dense(1)
model = keras.Sequential([keras.Input((5,)), body, head])
slow, fast = keras.optimizers.SGD(1e-3), keras.optimizers.SGD(1e-2)


# Wrong
step = pg.Supervised(model, [(slow, body)], "mse")
pg.fit(step, (x, y), progress="off")


# Right
step = pg.Supervised(model, [(slow, body), (fast, head)], "mse")
pg.fit(step, (x, y), progress="off")
