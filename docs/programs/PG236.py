import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


class Mixed(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)

    def train_step(self, batch):
        x, y = batch
        x = 0.7 * x + 0.3 * ops.roll(x, 1, axis=0)  # each row is blended with the one before
        y = 0.7 * y + 0.3 * ops.roll(y, 1, axis=0)

        def objective():
            return ops.square(y - self.model(x, training=True))[:, 0]

        return {"loss": self.minimize(objective, self.optimizer, self.model)}


# Wrong
pg.fit(Mixed(), (x, y), batch_size=8, accumulate=4, progress="off")

# Right
pg.fit(Mixed(), (x, y), batch_size=32, progress="off")
