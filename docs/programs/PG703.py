import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
model = keras.Sequential([keras.Input((5,)), kl.Dense(1)])

# Wrong
step = pg.Supervised(model, keras.optimizers.SGD(1e-9), "mse")
pg.fit(step, (x, y), epochs=2, steps_per_epoch=260, progress="off")

# Right
step = pg.Supervised(model, keras.optimizers.SGD(1e-2), "mse")
pg.fit(step, (x, y), epochs=2, steps_per_epoch=260, progress="off")
