import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :3].argmax(axis=1)
hidden = kl.Dense(8, "relu", kernel_regularizer=keras.regularizers.L2(1e-3))
model = keras.Sequential([keras.Input((5,)), hidden, kl.Dense(3, "softmax")])

# Wrong
model.compile(keras.optimizers.AdamW(weight_decay=1e-3), "sparse_categorical_crossentropy")
print(pg.check(model, (x, y)))

# Right
model.compile(keras.optimizers.Adam(), "sparse_categorical_crossentropy")
print(pg.check(model, (x, y)))
