import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :3].argmax(axis=1)


class Centered(kl.Layer):
    def __init__(self, axis):
        super().__init__()
        self.axis = axis

    def call(self, inputs):
        return inputs - ops.mean(inputs, axis=self.axis, keepdims=True)


# Wrong
layers = [kl.Dense(8, "relu"), Centered(axis=0), kl.Dense(3, "softmax")]
model = keras.Sequential([keras.Input((5,)), *layers])
model.compile("adam", "sparse_categorical_crossentropy")
print(pg.check(model, (x, y)))

# Right
layers = [kl.Dense(8, "relu"), Centered(axis=-1), kl.Dense(3, "softmax")]
model = keras.Sequential([keras.Input((5,)), *layers])
model.compile("adam", "sparse_categorical_crossentropy")
print(pg.check(model, (x, y)))
