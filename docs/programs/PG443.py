import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :3].argmax(axis=1)
layers = [kl.Dense(8), kl.BatchNormalization(), kl.ReLU(), kl.Dense(3, "softmax")]
model = keras.Sequential([keras.Input((5,)), *layers])
model.compile("adam", "sparse_categorical_crossentropy")

# Wrong
print(pg.check(model, (x, y), batch_size=1))

# Right
print(pg.check(model, (x, y), batch_size=16))
