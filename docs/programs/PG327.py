import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :3].argmax(axis=1)
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(3, "softmax")])
model.compile("adam", "sparse_categorical_crossentropy")


def batches(order):
    return [(x[rows], y[rows]) for rows in np.split(order, 4)]


# Wrong
print(pg.check(model, batches(np.argsort(y))))

# Right
print(pg.check(model, batches(np.random.default_rng(1).permutation(64))))
