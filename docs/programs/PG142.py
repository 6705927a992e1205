import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
encoder = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(4, "relu")])
model = keras.Sequential([keras.Input((5,)), encoder, kl.Dense(1)])

# Wrong
encoder.trainable = False
model.compile("adam", "mse")
print(pg.check(model, (x, y)))

# Right
decoder = keras.Sequential([encoder, kl.Dense(5)])
decoder.compile("adam", "mse")
decoder.fit(x, x, epochs=5, verbose=0)
encoder.trainable = False
model.compile("adam", "mse")
print(pg.check(model, (x, y)))
