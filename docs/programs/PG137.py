import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(640, 5)).astype("float32")
y = (x[:, :1] > x[:, 1:2]).astype("float32")
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1, "sigmoid")])
model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")

# Wrong
print(pg.check(model, (x, y), batch_size=640, epochs=3))

# Right
print(pg.check(model, (x, y), batch_size=32, epochs=30))
