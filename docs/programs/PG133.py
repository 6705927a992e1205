import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :3].argmax(axis=1)


def model(**initial):
    last = kl.Dense(3, "softmax", **initial)
    model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), last])
    model.compile("adam", "sparse_categorical_crossentropy")
    return model


# Wrong
wide = keras.initializers.RandomNormal(stddev=30.0, seed=1)
print(pg.check(model(kernel_initializer=wide), (x, y)))

# Right
print(pg.check(model(), (x, y)))
