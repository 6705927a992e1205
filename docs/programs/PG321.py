import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :3].argmax(axis=1)
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(3, "softmax")])
model.compile("adam", "sparse_categorical_crossentropy")
pixels = 127.5 + 127.5 * np.tanh(x)

# Wrong
print(pg.check(model, (pixels, y)))

# Right
print(pg.check(model, (pixels / 127.5 - 1.0, y)))
