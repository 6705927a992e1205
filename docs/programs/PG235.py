import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]

# Wrong
layers = [kl.Dense(8), kl.BatchNormalization(), kl.ReLU(), kl.Dense(1)]
model = keras.Sequential([keras.Input((5,)), *layers])
step = pg.Supervised(model, "adam", "mse")
pg.fit(step, (x, y), batch_size=8, accumulate=4, progress="off")

# Right
layers = [kl.Dense(8), kl.LayerNormalization(), kl.ReLU(), kl.Dense(1)]
model = keras.Sequential([keras.Input((5,)), *layers])
step = pg.Supervised(model, "adam", "mse")
pg.fit(step, (x, y), batch_size=8, accumulate=4, progress="off")
