import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :3].argmax(axis=1)


def model(factor):
    hidden = kl.Dense(8, "relu", kernel_regularizer=keras.regularizers.L2(factor))
    model = keras.Sequential([keras.Input((5,)), hidden, kl.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


# Wrong
print(pg.check(model(factor=30.0), (x, y)))

# Right
print(pg.check(model(factor=1e-3), (x, y)))
