import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :3].argmax(axis=1)


def model(**initial):
    hidden = kl.Dense(8, "relu", **initial)
    model = keras.Sequential([keras.Input((5,)), hidden, kl.Dense(3, "softmax")])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


# Wrong
narrow = keras.initializers.RandomNormal(stddev=1e-7, seed=1)
print(pg.check(model(kernel_initializer=narrow), (x, y)))

# Right
print(pg.check(model(), (x, y)))
