import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(300, 5)).astype("float32")
y = x[:, :3].argmax(axis=1)
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(3, "softmax")])
model.compile("adam", "sparse_categorical_crossentropy")
order = np.random.default_rng(1).permutation(300)

# Wrong
print(pg.check(model, (x[order], y)))

# Right
print(pg.check(model, (x[order], y[order])))
