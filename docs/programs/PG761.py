import os

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import keras
import numpy as np
from keras import layers as kl

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]
keras.distribution.set_distribution(keras.distribution.DataParallel())
model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
step = pg.Supervised(model, "adam", "mse")

# Wrong
pg.fit(step, (x, y), batch_size=6, progress="off")

# Right
pg.fit(step, (x, y), batch_size=8, progress="off")
