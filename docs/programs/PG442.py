import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :3].argmax(axis=1)

# Wrong
layers = [kl.Dense(32, "relu"), kl.Dropout(0.95), kl.Dense(3, "softmax")]
model = keras.Sequential([keras.Input((5,)), *layers])
model.compile("adam", "sparse_categorical_crossentropy")
print(pg.check(model, (x, y)))

# Right
layers = [kl.Dense(32, "relu"), kl.Dropout(0.05), kl.Dense(3, "softmax")]
model = keras.Sequential([keras.Input((5,)), *layers])
model.compile("adam", "sparse_categorical_crossentropy")
print(pg.check(model, (x, y)))
