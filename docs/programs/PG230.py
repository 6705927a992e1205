import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = (x[:, :1] > 0).astype("float32")
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
loss = keras.losses.BinaryCrossentropy(from_logits=True)

# Wrong
model.compile("adam", loss, metrics=[keras.metrics.BinaryAccuracy()])
print(pg.check(model, (x, y)))

# Right
model.compile("adam", loss, metrics=[keras.metrics.BinaryAccuracy(threshold=0)])
print(pg.check(model, (x, y)))
