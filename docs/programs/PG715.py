import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(5).normal(size=(240, 2)).astype("float32")
y = (np.sum(x**2, axis=1, keepdims=True) > 1.3).astype("float32")


def model(initializer):
    hidden = [kl.Dense(16, "relu", kernel_initializer=initializer) for _ in range(2)]
    model = keras.Sequential([keras.Input((2,)), *hidden, kl.Dense(1, "sigmoid")])
    model.compile(keras.optimizers.Adam(1e-3), "binary_crossentropy")
    return model


# Wrong
print(pg.check(model(keras.initializers.RandomNormal(stddev=20.0)), (x, y), level="full"))

# Right
print(pg.check(model("glorot_uniform"), (x, y), level="full"))
