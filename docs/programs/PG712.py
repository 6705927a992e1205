import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")

# Wrong
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1, "softmax")])
step = pg.Supervised(model, keras.optimizers.Adam(1e-2), "binary_crossentropy")
print(pg.check(step, (x, y), level="full"))

# Right
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1, "sigmoid")])
step = pg.Supervised(model, keras.optimizers.Adam(1e-2), "binary_crossentropy")
print(pg.check(step, (x, y), level="full"))
