import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


def model(**initial):
    layers = [kl.Dense(8, "tanh", **initial), kl.Dense(1, **initial)]
    model = keras.Sequential([keras.Input((5,)), *layers])
    model.compile("adam", "mse")
    return model


# Wrong
print(pg.check(model(kernel_initializer="ones"), (x, y)))

# Right
print(pg.check(model(), (x, y)))
