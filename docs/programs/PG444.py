import keras
import numpy as np
from keras import layers as kl
from keras import ops

import perigee as pg

x = np.random.default_rng(0).normal(size=(64, 5)).astype("float32")
y = x[:, :1] - x[:, 1:2]


class Regression(pg.Step):
    def __init__(self):
        self.model = keras.Sequential([keras.Input((5,)), kl.Dense(8, "relu"), kl.Dense(1)])
        self.optimizer = keras.optimizers.Adam(1e-2)

    def error(self, x, y):
        return ops.square(y - self.model(x, training=True))[:, 0]


# Wrong
class Trained(Regression):
    def train_step(self, batch):
        x, y = batch
        x = x + 0.1 * np.random.normal(size=5).astype("float32")  # drawn once
        return {"loss": self.minimize(lambda: self.error(x, y), self.optimizer, self.model)}


print(pg.check(Trained(), (x, y)))


# Right
class Trained(Regression):
    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(1)

    def train_step(self, batch):
        x, y = batch
        x = x + 0.1 * keras.random.normal((5,), seed=self.seeds)
        return {"loss": self.minimize(lambda: self.error(x, y), self.optimizer, self.model)}


print(pg.check(Trained(), (x, y)))
