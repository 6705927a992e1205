import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(5).normal(size=(240, 2)).astype("float32")
y = (np.sum(x**2, axis=1, keepdims=True) > 1.3).astype("float32")
hidden = [kl.Dense(16, "relu") for _ in range(2)]
model = keras.Sequential([keras.Input((2,)), *hidden, kl.Dense(1, "sigmoid")])
model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy")

# Wrong
print(pg.check(model, (x, y), level="full", epochs=2))

# Right
print(pg.check(model, (x, y), level="full", epochs=40))
