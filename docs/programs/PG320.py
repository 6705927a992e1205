import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
x[40, 3] = np.nan
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
model.compile("adam", "mse")

# Wrong
print(pg.check(model, (x, y)))

# Right
is_known = np.isfinite(x).all(axis=1)
print(pg.check(model, (x[is_known], y[is_known])))
