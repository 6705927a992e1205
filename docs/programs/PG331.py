import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(300, 5)).astype("float32")
y = (x[:, 0] > 2).astype("int32")  # one in forty
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1, "sigmoid")])

# Wrong
model.compile("adam", "binary_crossentropy", metrics=["accuracy"])
print(pg.check(model, (x, y)))

# Right
model.compile("adam", "binary_crossentropy", metrics=["accuracy", keras.metrics.Recall()])
print(pg.check(model, (x, y)))
