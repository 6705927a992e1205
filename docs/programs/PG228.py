import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = (x[:, :3] > 0).astype("float32")  # any of three tags

# Wrong
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(3, "softmax")])
model.compile("adam", "categorical_crossentropy")
print(pg.check(model, (x, y)))

# Right
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(3, "sigmoid")])
model.compile("adam", "binary_crossentropy")
print(pg.check(model, (x, y)))
