import keras
import numpy as np
import tensorflow as tf
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
step = pg.Supervised(model, "adam", "mse")

# Wrong
endless = tf.data.Dataset.from_tensor_slices((x, y)).batch(32).repeat()
pg.fit(step, endless, epochs=2, progress="off")

# Right
endless = tf.data.Dataset.from_tensor_slices((x, y)).batch(32).repeat()
pg.fit(step, endless, epochs=2, steps_per_epoch=2, progress="off")
