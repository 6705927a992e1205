import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = 1 + x[:, :3].argmax(axis=1)  # 1, 2 or 3
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(3)])
model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))

# Wrong
print(pg.check(model, (x, y)))

# Right
print(pg.check(model, (x, y - 1)))
