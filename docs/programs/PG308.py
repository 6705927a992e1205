import tempfile

import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
step = pg.Supervised(model, "adam", "mse")

# Wrong
with tempfile.TemporaryDirectory() as folder:
    pg.fit(step, (x, y), batch_size=16, steps=6, run=f"{folder}/run", progress="off")
    shorter = pg.Run(f"{folder}/run", on_change="accept")
    pg.fit(step, (x[:48], y[:48]), batch_size=16, steps=8, run=shorter, progress="off")

# Right
with tempfile.TemporaryDirectory() as folder:
    pg.fit(step, (x, y), batch_size=16, steps=6, run=f"{folder}/run", progress="off")
    pg.fit(step, (x, y), batch_size=16, steps=8, run=f"{folder}/run", progress="off")
