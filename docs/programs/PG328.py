import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
model.compile("adam", "mse")
rows = tf.data.Dataset.from_tensor_slices((x, y))

# Wrong
print(pg.check(model, rows.batch(16).shuffle(4)))

# Right
print(pg.check(model, rows.shuffle(64).batch(16)))
